//! The rows of the table.

mod access;
mod any;
pub(crate) mod device;
mod direct;
mod events;
mod footprint;
mod halves;
mod inprocess;
mod mappings;
mod messages;
mod raw;
mod spinning;
mod translation;

use std::path::Path;

use crate::row::{Counted, Row};

/// All rows that measure our own server.
pub fn all() -> Vec<Row> {
    let mut rows = access::rows();
    rows.extend(spinning::rows());
    rows.extend(messages::rows());
    rows.extend(direct::rows());
    rows.extend(translation::rows());
    rows.extend(mappings::rows());
    rows.extend(events::rows());
    rows.extend(footprint::rows());
    rows
}

/// What is counted and not timed.
///
/// # Errors
/// A system call failed, or a device could not be made.
pub fn counted() -> anyhow::Result<Vec<Counted>> {
    Ok(vec![footprint::memory()?])
}

/// See [`footprint`].
pub(crate) fn idle_memory() -> anyhow::Result<u64> {
    footprint::idle_memory()
}

/// The rows that can be measured of any server, at its socket: what reads configuration space.
pub fn of_server(socket: &Path) -> Vec<Row> {
    any::rows(socket)
}

/// `4 KiB` and the like.
fn size_name(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
