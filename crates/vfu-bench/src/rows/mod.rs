//! The rows of the table.

mod access;
mod any;
mod bursts;
pub(crate) mod device;
mod direct;
mod dirty;
mod events;
mod footprint;
pub(crate) mod halves;
pub(crate) mod inprocess;
mod mappings;
mod messages;
pub(crate) mod raw;
mod spinning;
mod translation;

use std::path::Path;

use crate::row::{Counted, Group, Row};

/// All rows that measure our own server.
pub fn all() -> Vec<Row> {
    let mut rows = access::rows();
    rows.extend(spinning::rows());
    rows.extend(bursts::rows());
    rows.extend(messages::rows());
    rows.extend(direct::rows());
    rows.extend(translation::rows());
    rows.extend(mappings::rows());
    rows.extend(dirty::rows());
    rows.extend(events::rows());
    rows.extend(footprint::rows());
    rows.sort_by_key(|row| Group::ALL.iter().position(|group| *group == row.group));
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
