//! Any server at its socket: configuration space can be read without harm to any device.

use std::path::{Path, PathBuf};

use anyhow::Context;
use vfu::client::Client;

use super::raw::{Asker, HEAD};
use crate::measure::{Each, Effort, compare};
use crate::roles::Process;
use crate::row::{Group, Measured, Row};

/// Configuration space is region 7 (VFIO_PCI_CONFIG_REGION_INDEX).
const CONFIG: u32 = 7;

pub(super) fn rows(socket: &Path) -> Vec<Row> {
    let row = |size: usize| {
        let socket: PathBuf = socket.to_owned();
        Row::new(
            Group::Access,
            format!("config-read{size}"),
            format!("a read of {size} bytes of configuration space"),
            "a process that answers messages of the same sizes",
            move |effort| measure(effort, &socket, size),
        )
    };
    vec![row(4), row(256)]
}

fn measure(effort: Effort, socket: &Path, size: usize) -> anyhow::Result<Measured> {
    let client = Client::builder().connect(socket);
    let client = client.with_context(|| format!("connecting to {}", socket.display()))?;
    let (request, reply) = (HEAD, HEAD + size);
    let (_echo, near) = Process::raw(request, reply, 1)?;
    let mut bare = Asker::new(near, request, reply);
    let mut data = vec![0; size];
    compare(
        effort,
        &mut Each(|| bare.ask()),
        &mut Each(|| Ok(client.region_read(CONFIG, 0, &mut data)?)),
    )
}
