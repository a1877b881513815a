//! DMA_MAP and DMA_UNMAP: a round trip each, with what the server does to reach the memory.

use std::io::Read;
use std::os::fd::AsFd;

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

struct Ends {
    _server: Process,
    client: Client,
    ram: SharedRam,
}

fn start() -> anyhow::Result<Ends> {
    let (server, socket) = Process::server(Spin::Off)?;
    let client = Client::builder().connect_fd(socket)?;
    let ram = SharedRam::new(RAM, 4 * PAGE)?;
    client.dma_map(RAM, PAGE, READ_WRITE, Memory::File(ram.as_fd(), 0))?;
    Ok(Ends { _server: server, client, ram })
}

impl Ends {
    fn map(&self) -> anyhow::Result<()> {
        let memory = Memory::File(self.ram.as_fd(), 2 * PAGE);
        Ok(self.client.dma_map(RAM + 2 * PAGE, PAGE, READ_WRITE, memory)?)
    }

    fn unmap(&self) -> anyhow::Result<()> {
        self.client.dma_unmap(RAM + 2 * PAGE, PAGE)?;
        Ok(())
    }
}

fn map(effort: Effort) -> anyhow::Result<Measured> {
    let far = || Ok((start()?, Process::raw_fd(MAP, HEADER, 1)?));
    between(Place::OneCpu, far, |(ends, (_echo, socket))| {
        let mut reply = [0; HEADER];
        let mut bare = Each(|| {
            send(&socket, &[0; MAP], Some(ends.ram.as_fd()))?;
            Ok((&socket).read_exact(&mut reply)?)
        });
        let mut ours = Bursts { count: 1, step: || ends.map(), undo: || ends.unmap() };
        compare(effort, &mut bare, &mut ours)
    })
}

fn unmap(effort: Effort) -> anyhow::Result<Measured> {
    let far = || Ok((start()?, Process::raw(UNMAP, UNMAP, 1)?));
    between(Place::OneCpu, far, |(ends, (_echo, socket))| {
        let mut bare = Asker::new(socket, UNMAP, UNMAP);
        ends.map()?;
        let mut ours = Bursts { count: 1, step: || ends.unmap(), undo: || ends.map() };
        compare(effort, &mut Each(|| bare.ask()), &mut ours)
    })
}
