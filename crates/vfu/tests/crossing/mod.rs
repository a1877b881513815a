//! What the tests of crossing traffic share: a device made of closures, both ways to run it, every
//! way to ask for memory, and the bytes of a client.
#![allow(dead_code, unused_imports)] // Each test binary uses its part.

#[path = "../dma_peer/mod.rs"]
mod dma_peer;
mod gadget;

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use vfu::server::{Builder, Stopper};
use vfu::wire::{
    Command, DeviceInfoRequest, DmaMap, DmaUnmapRequest, IrqAction, IrqData, RegionReadReply,
    RegionReadRequest, RegionWriteRequest, Request, SetIrqs, UnmapWhat,
};
use vfu::{Device, DmaError, Handle, IrqIndex, Limits, Server, SharedDevice};
use vfu_testkit::{DEADLINE, Interrupts, RawPeer, SharedRam, TestDevice, command, posted, within};

pub(crate) use dma_peer::*;
pub(crate) use gadget::*;

/// How a server is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// `Server::run`.
    Run,
    /// `Server::process` in an event loop.
    Process,
}

pub(crate) const STYLES: [Style; 2] = [Style::Run, Style::Process];

/// Both styles, on one socket and on two.
pub(crate) fn worlds() -> impl Iterator<Item = (Style, bool)> {
    STYLES.into_iter().flat_map(|style| [(style, false), (style, true)])
}

/// Limits under which nothing ends by itself.
pub(crate) fn forever() -> Limits {
    let (message_timeout, send_timeout) = (None, None);
    let limits = Limits { message_timeout, send_timeout, ..Limits::default() };
    Limits { reply_timeout: None, handler_timeout: None, ..limits }
}

/// Limits with a transfer timeout of so many milliseconds.
pub(crate) fn impatient(millis: u64) -> Limits {
    Limits { reply_timeout: Some(Duration::from_millis(millis)), ..Limits::default() }
}

/// A server at work; it stops when this is dropped.
pub(crate) struct Bench {
    pub(crate) path: PathBuf,
    pub(crate) handle: Handle,
    pub(crate) stopper: Stopper,
    pub(crate) log: Log,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl Bench {
    /// A [`Gadget`] with nothing special to it.
    pub(crate) fn plain(style: Style, limits: Limits) -> Bench {
        Bench::of(style, limits, |gadget| gadget)
    }

    pub(crate) fn of(style: Style, limits: Limits, equip: impl FnOnce(Gadget) -> Gadget) -> Bench {
        Bench::with(style, |builder| builder.limits(limits), equip)
    }

    pub(crate) fn with(
        style: Style,
        settings: impl FnOnce(Builder) -> Builder,
        equip: impl FnOnce(Gadget) -> Gadget,
    ) -> Bench {
        let (folder, log) = (tempfile::tempdir().unwrap(), Log::default());
        let bound = settings(Server::builder(TestDevice::pci())).listen(folder.path().join("s"));
        let device = |handle| equip(Gadget::new(handle, log.clone()));
        let server = bound.unwrap().serve(device).unwrap();
        Bench::start(style, server, folder, log)
    }

    /// A device that may be called while one of its handlers waits.
    pub(crate) fn reentrant(
        style: Style,
        limits: Limits,
        equip: impl FnOnce(SharedGadget) -> SharedGadget,
    ) -> Bench {
        let (folder, log) = (tempfile::tempdir().unwrap(), Log::default());
        let builder = Server::builder(TestDevice::pci()).limits(limits);
        let device = |handle| equip(SharedGadget::new(handle, log.clone()));
        let server = builder.listen(folder.path().join("s")).unwrap().serve_shared(device);
        Bench::start(style, server.unwrap(), folder, log)
    }

    fn start<D: Device + Send + 'static>(
        style: Style,
        mut server: Server<D>,
        folder: TempDir,
        log: Log,
    ) -> Bench {
        let (handle, stopper) = (server.handle(), server.stopper());
        let thread = thread::spawn(move || match style {
            Style::Run => server.run().unwrap(),
            Style::Process => event_loop(&mut server),
        });
        let path = folder.path().join("s");
        Bench { path, handle, stopper, log, thread: Some(thread), _folder: folder }
    }

    /// A client that has mapped [`BASE`].
    pub(crate) fn peer(&self, twin: bool) -> Peer {
        self.peer_with(twin, 1 << 20)
    }

    pub(crate) fn peer_with(&self, twin: bool, max_transfer: u64) -> Peer {
        let peer = self.bare_peer(twin, max_transfer);
        peer.main.enable_bus_master().unwrap();
        peer.map(BASE, SIZE);
        peer
    }

    /// A client that has agreed on VERSION, and nothing else.
    pub(crate) fn bare_peer(&self, twin: bool, max_transfer: u64) -> Peer {
        let main = RawPeer::connect(&self.path).unwrap();
        let json = format!(
            r#"{{"capabilities":{{"max_msg_fds":16,"max_data_xfer_size":{max_transfer},"twin_socket":{{"supported":{twin}}}}}}}"#
        );
        let second = main.handshake(&json).unwrap().fds.pop().map(RawPeer::over);
        assert_eq!(second.is_some(), twin);
        Peer { main, twin: second }
    }

    pub(crate) fn stop(mut self) {
        self.stopper.stop();
        let thread = self.thread.take().unwrap();
        within("the server's end", move || thread.join().unwrap());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take().filter(|_| !thread::panicking()) {
            within("the server's end", move || thread.join().unwrap());
        }
    }
}

fn event_loop<D: Device>(server: &mut Server<D>) {
    let fd = rustix::io::dup(server.poll_fd().unwrap()).unwrap();
    while !server.is_finished() {
        poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)], None).unwrap();
        server.process().unwrap();
    }
}

/// The ways to ask for the peer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    Blocking,
    /// A future, whose thread parks until it is woken.
    Future,
    /// A future that nobody waits for: it is polled again and again.
    Polled,
    Callback,
}

pub(crate) const FACES: [Face; 4] = [Face::Blocking, Face::Future, Face::Polled, Face::Callback];

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread: the smallest executor there is.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

/// Polls a future with a waker that does nothing, until it is ready.
pub(crate) fn poll_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
        thread::park_timeout(Duration::from_millis(1));
    }
}

impl Face {
    pub(crate) fn read(self, handle: &Handle, address: u64, len: usize) -> Pending<Vec<u8>> {
        let dma = handle.dma();
        start(move || {
            let mut data = vec![0xee; len];
            match self {
                Face::Blocking => dma.read(address, &mut data)?,
                Face::Future => block_on(dma.read_async(address, &mut data))?,
                Face::Polled => poll_on(dma.read_async(address, &mut data))?,
                Face::Callback => {
                    let (done, result) = channel();
                    dma.read_then(address, len, move |read| done.send(read).unwrap());
                    data = result.recv().unwrap()?;
                }
            }
            Ok(data)
        })
    }

    pub(crate) fn write(self, handle: &Handle, address: u64, data: Vec<u8>) -> Pending<()> {
        let dma = handle.dma();
        start(move || match self {
            Face::Blocking => dma.write(address, &data),
            Face::Future => block_on(dma.write_async(address, &data)),
            Face::Polled => poll_on(dma.write_async(address, &data)),
            Face::Callback => {
                let (done, result) = channel();
                dma.write_then(address, data, move |written| done.send(written).unwrap());
                result.recv().unwrap()
            }
        })
    }
}

/// The bytes of a REGION_READ of BAR 0.
pub(crate) fn reg_read(id: u16, offset: u64, count: u32) -> Vec<u8> {
    command(id, &Request::RegionRead(RegionReadRequest { offset, region: 0, count }))
}

/// The bytes of a REGION_WRITE of BAR 0.
pub(crate) fn reg_write(id: u16, offset: u64, data: &[u8]) -> Vec<u8> {
    command(id, &Request::RegionWrite(RegionWriteRequest { offset, region: 0, data }))
}

/// The bytes of a REGION_WRITE of BAR 0 that wants no reply.
pub(crate) fn posted_write(id: u16, offset: u64, data: &[u8]) -> Vec<u8> {
    posted(id, &Request::RegionWrite(RegionWriteRequest { offset, region: 0, data }))
}

/// The bytes of a DMA_UNMAP of one range.
pub(crate) fn unmap(id: u16, address: u64, size: u64) -> Vec<u8> {
    let what = UnmapWhat::Range { address, size };
    command(id, &Request::DmaUnmap(DmaUnmapRequest::new(what)))
}

/// The bytes of a DEVICE_RESET.
pub(crate) fn reset(id: u16) -> Vec<u8> {
    command(id, &Request::DeviceReset)
}

/// Receives the reply to a REGION_READ, which must be next, and gives its data.
pub(crate) fn reg_data(peer: &RawPeer, id: u16) -> Vec<u8> {
    let reply = peer.recv_reply(id, Command::RegionRead).unwrap();
    assert_eq!(reply.errno(), None);
    RegionReadReply::parse(&reply.payload).unwrap().data.to_vec()
}

/// Receives a reply without an error, which must be next.
pub(crate) fn done(peer: &RawPeer, id: u16, command: Command) {
    assert_eq!(peer.recv_reply(id, command).unwrap().errno(), None);
}

impl Peer {
    /// Reads a 32-bit register of BAR 0 that is nothing but memory.
    pub(crate) fn register(&self, id: u16, offset: u64) -> u32 {
        self.main.send(&reg_read(id, offset, 4)).unwrap();
        u32::from_le_bytes(reg_data(&self.main, id).try_into().unwrap())
    }

    /// Shares new memory with the device.
    pub(crate) fn share(&self, address: u64, size: u64) -> SharedRam {
        let ram = SharedRam::new(address, size).unwrap();
        let map = Request::DmaMap(DmaMap { flags: READ_WRITE, offset: 0, address, size });
        let mapped = self.main.call_with(2, &map, &[ram.as_fd()]).unwrap();
        assert_eq!(mapped.errno(), None);
        ram
    }

    /// Has one vector of an interrupt type signalled.
    pub(crate) fn interrupt(&self, index: IrqIndex) -> Interrupts {
        let interrupts = Interrupts::new(1).unwrap();
        let (action, data) = (IrqAction::Trigger, IrqData::EventFd);
        let set = SetIrqs { index: index as u32, start: 0, count: 1, action, data };
        let reply = self.main.call_with(3, &Request::DeviceSetIrqs(set), &interrupts.fds());
        assert_eq!(reply.unwrap().errno(), None);
        interrupts
    }

    /// Writes the Command register: Bus Master Enable is bit 2.
    pub(crate) fn set_command(&self, value: u16) {
        let data = value.to_le_bytes();
        let write = RegionWriteRequest { offset: 4, region: 7, data: &data };
        let reply = self.main.call(4, &Request::RegionWrite(write)).unwrap();
        assert_eq!(reply.errno(), None);
    }

    /// Nothing more comes: all that was sent before on the main socket has been seen, and the
    /// session is in sync. (No register is read: that waits for writes if there are two sockets.)
    pub(crate) fn is_quiet(&self) {
        let info = Request::DeviceGetInfo(DeviceInfoRequest::new());
        assert_eq!(self.main.call(78, &info).unwrap().errno(), None);
        assert!(!self.main.has_input().unwrap());
        assert!(!self.dma().has_input().unwrap());
    }

    /// The server's DMA works, once it has sent what it still had to.
    pub(crate) fn dma_works_after_writes(&self, handle: &Handle) -> usize {
        let read = start_read(handle, BASE + 8, 4);
        let mut writes = 0;
        loop {
            let message = self.dma().recv().unwrap();
            if message.header.command == Command::DmaRead.as_u16() {
                self.give(&message, &read_reply(BASE + 8, b"good"));
                break;
            }
            writes += 1;
        }
        assert_eq!(read.end(), Ok(b"good".to_vec()));
        self.is_quiet();
        writes
    }

    /// Acknowledges a DMA_WRITE.
    pub(crate) fn ack(&self, request: &vfu_testkit::RawMessage, address: u64, len: usize) {
        self.give(request, &words(&[address, len as u64]));
    }
}
