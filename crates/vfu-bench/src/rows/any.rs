//! Any server at its socket: reads of configuration space and mappings that it never uses, neither of
//! which harms a device.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::net::sockopt::socket_peercred;
use vfu::client::Client;

use super::mappings::{MAP, Sharing, UNMAP};
use super::raw::{Asker, HEAD, HEADER};
use crate::measure::{Clocked, Each, Effort, compare};
use crate::roles::{Process, cpu_of};
use crate::row::{Group, Measured, Row};

/// Configuration space is region 7 (VFIO_PCI_CONFIG_REGION_INDEX).
const CONFIG: u32 = 7;

type Measure = fn(Effort, &Path) -> anyhow::Result<Measured>;

pub(super) fn rows(socket: &Path) -> Vec<Row> {
    let row = |group, name: &str, about: &str, limit: &str, measure: Measure| {
        let socket: PathBuf = socket.to_owned();
        Row::new(group, name, about, limit, move |effort| measure(effort, &socket))
    };
    let answers = "a process that answers messages of the same sizes";
    vec![
        row(
            Group::Access,
            "config-read4",
            "a read of 4 bytes of configuration space",
            answers,
            |effort, socket| read(effort, socket, 4),
        ),
        row(
            Group::Access,
            "config-read256",
            "a read of 256 bytes of configuration space",
            answers,
            |effort, socket| read(effort, socket, 256),
        ),
        row(
            Group::Access,
            "config-read4-server-cpu",
            "CPU time of the server for a read of 4 bytes of configuration space",
            "CPU time of a process that answers messages of the same sizes",
            server_cpu,
        ),
        row(
            Group::Mappings,
            "map-fd",
            "DMA_MAP of a page of a file, whose first page is mapped already",
            &format!("{answers}, and the descriptor"),
            map,
        ),
        row(Group::Mappings, "unmap-fd", "DMA_UNMAP of a page of a file", answers, unmap),
    ]
}

fn connect(socket: &Path) -> anyhow::Result<Client> {
    let client = Client::builder().connect(socket);
    client.with_context(|| format!("connecting to {}", socket.display()))
}

fn read(effort: Effort, socket: &Path, size: usize) -> anyhow::Result<Measured> {
    let client = connect(socket)?;
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

fn server_cpu(effort: Effort, socket: &Path) -> anyhow::Result<Measured> {
    let client = connect(socket)?;
    let main = client.sockets().next().context("a client without a socket")?;
    let server = socket_peercred(main).context("whose socket it is")?.pid.as_raw_nonzero().get();
    let (echo, near) = Process::raw(HEAD, HEAD + 4, 1)?;
    let mut bare = Asker::new(near, HEAD, HEAD + 4);
    let mut limit = Clocked { step: || bare.ask(), clock: || echo.cpu() };
    let mut ours = Clocked {
        step: || Ok(client.region_read(CONFIG, 0, &mut [0; 4])?),
        clock: || cpu_of(server.unsigned_abs()),
    };
    compare(effort, &mut limit, &mut ours)
}

fn map(effort: Effort, socket: &Path) -> anyhow::Result<Measured> {
    let (_echo, near) = Process::raw_fd(MAP, HEADER, 1)?;
    Sharing::start(connect(socket)?)?.measure_map(effort, near)
}

fn unmap(effort: Effort, socket: &Path) -> anyhow::Result<Measured> {
    let (_echo, near) = Process::raw(UNMAP, UNMAP, 1)?;
    Sharing::start(connect(socket)?)?.measure_unmap(effort, near)
}
