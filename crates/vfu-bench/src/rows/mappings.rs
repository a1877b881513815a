//! DMA_MAP and DMA_UNMAP: a round trip each, with what the server does to reach the memory.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vfu::Spin;
use vfu::client::{Client, Memory, READ_WRITE};
use vfu_testkit::SharedRam;

use super::inprocess::{PAGE, RAM};
use super::raw::{Asker, HEADER, send};
use crate::measure::{Bursts, Each, Effort, compare};
use crate::place::{Place, between};
use crate::roles::Process;
use crate::row::{Group, Measured, Row};

/// The bytes of a DMA_MAP, and of a DMA_UNMAP or its reply.
pub(super) const MAP: usize = HEADER + 32;
pub(super) const UNMAP: usize = HEADER + 24;

pub(super) fn rows() -> Vec<Row> {
    let limit = "two processes that exchange messages of the same sizes, and the descriptor";
    vec![
        Row::new(
            Group::Mappings,
            "map-fd",
            "DMA_MAP of a page of a file, whose first page is mapped already",
            limit,
            map,
        )
        .at_most(1.35),
        Row::new(
            Group::Mappings,
            "unmap-fd",
            "DMA_UNMAP of a page of a file",
            "two processes that exchange messages of the same sizes",
            unmap,
        )
        .at_most(1.25),
    ]
}

/// A client that shares the first page of a file, and a page that comes and goes.
pub(super) struct Sharing {
    client: Client,
    ram: SharedRam,
}

impl Sharing {
    pub(super) fn start(client: Client) -> anyhow::Result<Sharing> {
        let ram = SharedRam::new(RAM, 4 * PAGE)?;
        client.dma_map(RAM, PAGE, READ_WRITE, Memory::File(ram.as_fd(), 0))?;
        Ok(Sharing { client, ram })
    }

    fn map(&self) -> anyhow::Result<()> {
        let memory = Memory::File(self.ram.as_fd(), 2 * PAGE);
        Ok(self.client.dma_map(RAM + 2 * PAGE, PAGE, READ_WRITE, memory)?)
    }

    fn unmap(&self) -> anyhow::Result<()> {
        self.client.dma_unmap(RAM + 2 * PAGE, PAGE)?;
        Ok(())
    }

    /// Against a [`Process::raw_fd`].
    pub(super) fn measure_map(&self, effort: Effort, echo: UnixStream) -> anyhow::Result<Measured> {
        let mut reply = [0; HEADER];
        let mut bare = Each(|| {
            send(&echo, &[0; MAP], Some(self.ram.as_fd()))?;
            Ok((&echo).read_exact(&mut reply)?)
        });
        let mut ours = Bursts { count: 1, step: || self.map(), undo: || self.unmap() };
        compare(effort, &mut bare, &mut ours)
    }

    /// Against a [`Process::raw`].
    pub(super) fn measure_unmap(
        &self,
        effort: Effort,
        echo: UnixStream,
    ) -> anyhow::Result<Measured> {
        self.map()?;
        let mut bare = Asker::new(echo, UNMAP, UNMAP);
        let mut ours = Bursts { count: 1, step: || self.unmap(), undo: || self.map() };
        compare(effort, &mut Each(|| bare.ask()), &mut ours)
    }
}

fn start() -> anyhow::Result<(Process, Sharing)> {
    let (server, socket) = Process::server(Spin::Off)?;
    Ok((server, Sharing::start(Client::builder().connect_fd(socket)?)?))
}

fn map(effort: Effort) -> anyhow::Result<Measured> {
    let far = || Ok((start()?, Process::raw_fd(MAP, HEADER, 1)?));
    between(Place::OneCpu, far, |((_server, ours), (_echo, socket))| {
        ours.measure_map(effort, socket)
    })
}

fn unmap(effort: Effort) -> anyhow::Result<Measured> {
    let far = || Ok((start()?, Process::raw(UNMAP, UNMAP, 1)?));
    between(Place::OneCpu, far, |((_server, ours), (_echo, socket))| {
        ours.measure_unmap(effort, socket)
    })
}
