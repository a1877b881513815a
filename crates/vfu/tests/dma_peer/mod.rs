//! A client that says every byte of its DMA messages itself, and DMA that waits for it.
#![allow(dead_code)] // Each test binary uses its part.

use std::sync::mpsc::{Receiver, channel};
use std::thread;

use vfu::wire::{
    Command, DmaMap, DmaMapFlags, DmaReadReply, DmaReadRequest, DmaUnmapRequest, DmaWriteRequest,
    RegionReadReply, RegionReadRequest, Request, UnmapWhat,
};
use vfu::{DmaError, Handle, Limits};
use vfu_testkit::{DEADLINE, RawMessage, RawPeer, TestServer};

pub(crate) const BASE: u64 = 0x10_0000;
pub(crate) const SIZE: u64 = 0x40_0000;
pub(crate) const READ_WRITE: DmaMapFlags = DmaMapFlags::READ.union(DmaMapFlags::WRITE);

/// A client that has mapped [`BASE`] for messages.
pub(crate) struct Peer {
    pub(crate) main: RawPeer,
    pub(crate) twin: Option<RawPeer>,
}

impl Peer {
    pub(crate) fn begin(server: &TestServer, twin: bool) -> Peer {
        Peer::with(server, twin, 1 << 20)
    }

    pub(crate) fn with(server: &TestServer, twin: bool, max_transfer: u64) -> Peer {
        let main = RawPeer::connect(server.path()).unwrap();
        let json = format!(
            r#"{{"capabilities":{{"max_data_xfer_size":{max_transfer},"twin_socket":{{"supported":{twin}}}}}}}"#
        );
        let twin = main.handshake(&json).unwrap().fds.pop().map(RawPeer::over);
        main.enable_bus_master().unwrap();
        let peer = Peer { main, twin };
        peer.map(BASE, SIZE);
        peer
    }

    /// Where DMA messages go.
    pub(crate) fn dma(&self) -> &RawPeer {
        self.twin.as_ref().unwrap_or(&self.main)
    }

    pub(crate) fn map(&self, address: u64, size: u64) {
        let map = DmaMap { flags: READ_WRITE, offset: 0, address, size };
        assert_eq!(self.main.call(1, &Request::DmaMap(map)).unwrap().errno(), None);
    }

    pub(crate) fn unmap(&self, what: UnmapWhat) {
        let unmap = Request::DmaUnmap(DmaUnmapRequest::new(what));
        assert_eq!(self.main.call(1, &unmap).unwrap().errno(), None);
    }

    /// The next command of the server, as a DMA_READ.
    pub(crate) fn asked(&self) -> (RawMessage, u64, usize) {
        let message = self.dma().recv().unwrap();
        assert_eq!(message.header.command, Command::DmaRead.as_u16());
        let request = DmaReadRequest::parse(&message.payload).unwrap();
        (message, request.address, request.count as usize)
    }

    /// The next command of the server, as a DMA_WRITE: its address and data.
    pub(crate) fn told(&self) -> (RawMessage, u64, Vec<u8>) {
        let message = self.dma().recv().unwrap();
        assert_eq!(message.header.command, Command::DmaWrite.as_u16());
        let request = DmaWriteRequest::parse(&message.payload).unwrap();
        let (address, data) = (request.address, request.data.to_vec());
        (message, address, data)
    }

    pub(crate) fn give(&self, request: &RawMessage, payload: &[u8]) {
        self.dma().send(&request.reply(payload)).unwrap();
    }

    /// The session is alive and in sync.
    pub(crate) fn works(&self) {
        let read = Request::RegionRead(RegionReadRequest { offset: 0, region: 7, count: 2 });
        let reply = self.main.call(77, &read).unwrap();
        assert_eq!(RegionReadReply::parse(&reply.payload).unwrap().data, [0x34, 0x12]);
    }

    /// The whole of the server's DMA works.
    pub(crate) fn dma_works(&self, handle: &Handle) {
        let read = start_read(handle, BASE + 8, 4);
        let (request, address, _) = self.asked();
        self.give(&request, &read_reply(address, b"good"));
        assert_eq!(read.end(), Ok(b"good".to_vec()));
    }
}

pub(crate) fn read_reply(address: u64, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    DmaReadReply { address, data }.emit(&mut payload);
    payload
}

pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn byte_at(address: u64) -> u8 {
    (address.wrapping_mul(0x9e37_79b9) >> 16) as u8
}

pub(crate) fn bytes_at(address: u64, len: usize) -> Vec<u8> {
    (address..address + len as u64).map(byte_at).collect()
}

/// A DMA on a thread of its own.
pub(crate) struct Pending<T>(Receiver<Result<T, DmaError>>);

impl<T> Pending<T> {
    pub(crate) fn end(self) -> Result<T, DmaError> {
        self.0.recv_timeout(DEADLINE).expect("the DMA hangs")
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.try_recv().is_ok()
    }
}

pub(crate) fn start<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DmaError> + Send + 'static,
) -> Pending<T> {
    let (done, result) = channel();
    thread::spawn(move || done.send(work()));
    Pending(result)
}

pub(crate) fn start_read(handle: &Handle, address: u64, len: usize) -> Pending<Vec<u8>> {
    let dma = handle.dma();
    start(move || {
        let mut data = vec![0xee; len];
        dma.read(address, &mut data).map(|()| data)
    })
}

pub(crate) fn start_write(handle: &Handle, address: u64, data: Vec<u8>) -> Pending<()> {
    let dma = handle.dma();
    start(move || dma.write(address, &data))
}

/// A server whose DMA waits for ever, unless something else ends it.
pub(crate) fn patient() -> TestServer {
    TestServer::with(|builder| builder.limits(Limits { reply_timeout: None, ..Limits::default() }))
}
