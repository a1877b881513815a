//! Single operations of one side, on one thread: what criterion times and valgrind counts.

use std::future::Future;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use anyhow::Context as _;
use vfu::dma::Direction;
use vfu::wire::{DmaMap, DmaMapFlags, DmaUnmapRequest, Request, UnmapWhat};
use vfu::{Dma, DmaError};
use vfu_testkit::{SharedRam, command};

use crate::rows::halves::{ClientHalf, ServerHalf};
use crate::rows::inprocess::{InProcess, PAGE, RAM, Shared};

/// Does it once.
pub type Step = Box<dyn FnMut() -> anyhow::Result<()>>;

/// Something that is done many times.
pub struct Operation {
    /// What it is called in tables.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// How often it is done to be counted: often enough that nothing else counts.
    pub(crate) times: u32,
    start: fn() -> anyhow::Result<Step>,
}

impl Operation {
    /// Makes what it needs.
    ///
    /// # Errors
    /// A system call failed, or the other end did.
    pub fn start(&self) -> anyhow::Result<Step> {
        (self.start)()
    }
}

/// All of them.
pub fn all() -> Vec<Operation> {
    let op = |name, about, times, start| Operation { name, about, times, start };
    vec![
        op("server-read4", "a register read, the server in an event loop", 1_000, server_read),
        op("client-read4", "a register read, the client", 1_000, client_read),
        op("server-map-unmap", "DMA_MAP and DMA_UNMAP of a page, the server", 500, map_unmap),
        op("direct-read-4B", "DMA of 4 bytes through shared memory", 20_000, direct_read),
        op("direct-async-4B", "the same, as a future", 20_000, direct_async),
        op(
            "guarded-read-4B",
            "a DMA of 4 bytes of a file that may be cut off",
            20_000,
            guarded_read,
        ),
        op("lease-1000", "a lease of a page, one of 1,000", 20_000, lease),
        op("pin-1000", "a pin for a page, one of 1,000", 20_000, pin),
        op("pin-32-of-1000", "a pin for 32 pages, each one of 1,000", 2_000, pin_many),
        op("interrupt", "an interrupt (MSI-X)", 20_000, interrupt),
        op("idle-process", "Server::process with nothing to do", 2_000, idle),
    ]
}

/// Does an operation so many times.
pub(crate) fn repeat(name: &str, times: u32) -> anyhow::Result<()> {
    let operation = all().into_iter().find(|operation| operation.name == name);
    let mut step = operation.context("there is no such operation")?.start()?;
    (0..times).try_for_each(|_| step())
}

fn server_read() -> anyhow::Result<Step> {
    let mut server = ServerHalf::new()?;
    Ok(Box::new(move || server.round_trip()))
}

fn client_read() -> anyhow::Result<Step> {
    let mut client = ClientHalf::new()?;
    Ok(Box::new(move || client.round_trip()))
}

fn map_unmap() -> anyhow::Result<Step> {
    let (mut server, ram) = (ServerHalf::new()?, SharedRam::new(RAM, 4 * PAGE)?);
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    let map = |page: u64| {
        let (offset, address) = (page * PAGE, RAM + page * PAGE);
        command(1, &Request::DmaMap(DmaMap { flags, offset, address, size: PAGE }))
    };
    server.ask(&map(0), Some(ram.as_fd()))?; // the file is known
    let range = UnmapWhat::Range { address: RAM + 2 * PAGE, size: PAGE };
    let unmap = command(1, &Request::DmaUnmap(DmaUnmapRequest::new(range)));
    let map = map(2);
    Ok(Box::new(move || {
        server.ask(&map, Some(ram.as_fd()))?;
        server.ask(&unmap, None)?;
        Ok(())
    }))
}

fn direct_read() -> anyhow::Result<Step> {
    read(InProcess::share)
}

fn guarded_read() -> anyhow::Result<Step> {
    read(InProcess::share_unsealed)
}

fn direct_async() -> anyhow::Result<Step> {
    let ends = InProcess::start()?;
    let ram = ends.share(PAGE)?;
    let dma = ends.dma();
    Ok(Box::new(move || {
        let _alive = (&ends, &ram);
        let mut to = [0; 4];
        let read = pin!(dma.read_async(RAM, black_box(&mut to)));
        match read.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Ok(result?),
            Poll::Pending => anyhow::bail!("memory that is shared has to be waited for"),
        }
    }))
}

fn read(share: fn(&InProcess, u64) -> anyhow::Result<SharedRam>) -> anyhow::Result<Step> {
    let ends = InProcess::start()?;
    let ram = share(&ends, PAGE)?;
    let dma = ends.dma();
    Ok(Box::new(move || {
        let _alive = (&ends, &ram);
        Ok(dma.read(RAM, black_box(&mut [0; 4]))?)
    }))
}

fn lease() -> anyhow::Result<Step> {
    of_pages(|dma, next| {
        let lease = dma.lease(next(), PAGE, Direction::Read)?;
        black_box(&lease);
        Ok(())
    })
}

fn pin() -> anyhow::Result<Step> {
    of_pages(|dma, next| {
        dma.pin(|memory| {
            let slice = memory.slice(next(), PAGE, Direction::Read)?;
            black_box(&slice);
            Ok(())
        })
    })
}

fn pin_many() -> anyhow::Result<Step> {
    of_pages(|dma, next| {
        dma.pin(|memory| {
            for _ in 0..32 {
                let slice = memory.slice(next(), PAGE, Direction::Read)?;
                black_box(&slice);
            }
            Ok(())
        })
    })
}

/// Does something with the next of 1,000 pages.
fn of_pages(
    with: impl Fn(&Dma, &mut dyn FnMut() -> u64) -> Result<(), DmaError> + 'static,
) -> anyhow::Result<Step> {
    let shared = Shared::pages(1_000)?;
    let dma = shared.dma();
    let mut at = 0;
    Ok(Box::new(move || {
        let shared = &shared; // all of it moves in: the client stays
        let mut next = || {
            at = (at + 371) % shared.addresses.len(); // never the same twice in a row
            shared.addresses[at]
        };
        Ok(with(&dma, &mut next)?)
    }))
}

fn interrupt() -> anyhow::Result<Step> {
    let ends = InProcess::start()?;
    let interrupts = ends.interrupts()?;
    let vector = ends.handle().vector(0);
    Ok(Box::new(move || {
        let _alive = (&ends, &interrupts);
        Ok(vector.trigger()?)
    }))
}

fn idle() -> anyhow::Result<Step> {
    let mut server = ServerHalf::new()?;
    Ok(Box::new(move || server.idle()))
}
