//! DMA by message: the client, in another process, answers.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::ensure;
use rustix::event::{PollFd, PollFlags, poll};
use vfu::{Access, Device, Dma, DmaRange, Fault, Server};

use super::device::pci;
use super::raw::{Asker, HEAD, touched};
use crate::measure::{Bursts, Each, Effort, compare};
use crate::place::{Place, between};
use crate::roles::{MESSAGES, Process};
use crate::row::{Group, Measured, Row};

/// How many are under way at once in the row that says so.
const IN_FLIGHT: usize = 32;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for twin in [false, true] {
        let sockets = if twin { "two sockets" } else { "one socket" };
        let short = if twin { "twin" } else { "single" };
        for (size, target) in
            [(4, None), (4096, Some(1.10)), (64 << 10, None), (1 << 20, Some(1.12))]
        {
            for way in [Way::Read, Way::Write] {
                let (verb, what) = (way.verb(), super::size_name(size));
                let row = Row::new(
                    Group::MessageDma,
                    format!("dma-{verb}-{what}-{short}").replace(' ', ""),
                    format!("{verb} {what} of the client's memory, {sockets}"),
                    "two processes that exchange messages of the same sizes",
                    move |effort| one_at_a_time(effort, twin, way, size),
                );
                rows.push(match target {
                    Some(target) => row.at_most(target),
                    None => row,
                });
            }
        }
        rows.push(
            Row::new(
                Group::MessageDma,
                format!("dma-read-4KiB-{IN_FLIGHT}-in-flight-{short}"),
                format!("read 4 KiB of the client's memory, {IN_FLIGHT} under way, {sockets}"),
                "the same, one at a time",
                move |effort| in_flight(effort, twin),
            )
            .at_most(1.0 / 3.0),
        );
    }
    rows
}

#[derive(Clone, Copy)]
enum Way {
    Read,
    Write,
}

impl Way {
    fn verb(self) -> &'static str {
        match self {
            Way::Read => "read",
            Way::Write => "write",
        }
    }

    fn lengths(self, size: usize) -> (usize, usize) {
        match self {
            Way::Read => (HEAD, HEAD + size),
            Way::Write => (HEAD + size, HEAD),
        }
    }
}

/// Knows whether there is memory.
#[derive(Default)]
struct Waits {
    mapped: bool,
}

impl Device for Waits {
    fn region_read(&mut self, _: Access, _: &mut [u8]) -> Result<(), Fault> {
        Err(Fault::Unmodelled)
    }

    fn region_write(&mut self, _: Access, _: &[u8]) -> Result<(), Fault> {
        Err(Fault::Unmodelled)
    }

    fn dma_mapped(&mut self, _: DmaRange) {
        self.mapped = true;
    }
}

/// A server that is served by this thread, and the client that has the memory.
struct Session {
    server: Server<Waits>,
    dma: Dma,
    _client: Process,
}

impl Session {
    fn begin((client, socket): (Process, OwnedFd)) -> anyhow::Result<Session> {
        let bound = Server::builder(pci()).bus_master_gate(false).fd(socket)?;
        let server = bound.serve(|_| Waits::default())?;
        let dma = server.handle().dma();
        let mut session = Session { server, dma, _client: client };
        while !session.server.device().mapped {
            session.step()?;
        }
        Ok(session)
    }

    /// Waits for something to do, and does it.
    fn step(&mut self) -> anyhow::Result<()> {
        let fd = self.server.poll_fd()?;
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], None)?;
        self.server.process()?;
        ensure!(!self.server.is_finished(), "the client has left");
        Ok(())
    }
}

fn one_at_a_time(effort: Effort, twin: bool, way: Way, size: usize) -> anyhow::Result<Measured> {
    let (request, reply) = way.lengths(size);
    let far = || Ok((Process::client(twin)?, Process::raw(request, reply, 1)?));
    between(Place::OneCpu, far, |(client, (_echo, socket))| {
        let mut bare = Asker::new(socket, request, reply);
        let session = Session::begin(client)?;
        let (dma, mut data) = (&session.dma, touched(size));
        let mut ours = Each(|| {
            match way {
                Way::Read => dma.read(MESSAGES, &mut data)?,
                Way::Write => dma.write(MESSAGES, &data)?,
            }
            Ok(())
        });
        compare(effort, &mut Each(|| bare.ask()), &mut ours)
    })
}

fn in_flight(effort: Effort, twin: bool) -> anyhow::Result<Measured> {
    between(
        Place::OneCpu,
        || Process::client(twin),
        |client| {
            let mut session = Session::begin(client)?;
            let dma = session.dma.clone();
            let mut page = vec![0; 4096];
            let mut one = Each(|| Ok(dma.read(MESSAGES, &mut page)?));
            let (step, undo) = (|| session.read_many(), || Ok(()));
            compare(effort, &mut one, &mut Bursts { count: IN_FLIGHT, step, undo })
        },
    )
}

impl Session {
    /// Reads with as many under way as there may be.
    fn read_many(&mut self) -> anyhow::Result<()> {
        let (done, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..IN_FLIGHT {
            let (done, failed) = (done.clone(), failed.clone());
            self.dma.read_then(MESSAGES, 4096, move |result| {
                failed.fetch_add(usize::from(result.is_err()), Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        while done.load(Ordering::SeqCst) < IN_FLIGHT {
            self.step()?;
        }
        ensure!(failed.load(Ordering::SeqCst) == 0, "a DMA_READ failed");
        Ok(())
    }
}
