//! A peer that a test plays: it says each message itself, in either role.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vfu_proto::session::{Framer, Message};
use vfu_proto::wire::{
    Capabilities, Command, DmaMap, DmaMapFlags, DmaReadReply, DmaReadRequest, Header, Kind,
    RegionReadReply, RegionReadRequest, RegionWriteRequest, Request, Version,
};

use crate::transport::{Received, Socket};

/// Where the memory is that the device reaches by messages, and its size in bytes.
pub(super) const MEMORY: (u64, u64) = (0x1000, 0x1000);

pub(super) struct Peer {
    socket: Socket,
    framer: Framer<OwnedFd>,
    last_id: u16,
    /// Replies that came while a command was waited for.
    replied: Vec<u16>,
}

/// Two ends of a connection.
pub(super) fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

impl Peer {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Peer {
            socket: Socket::new(socket),
            framer: Framer::new(1 << 20),
            last_id: 0x4000,
            replied: Vec::new(),
        }
    }

    fn send(&self, header: &Header, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        let header = header.emit();
        // What the other end has closed is no longer of interest.
        let _gone = self.socket.send([&header, payload], fds);
    }

    /// Sends a command; gives its id.
    pub(super) fn ask(&mut self, request: &Request<'_>) -> u16 {
        self.ask_with(request, &[])
    }

    pub(super) fn ask_with(&mut self, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> u16 {
        let mut payload = Vec::new();
        request.emit(&mut payload);
        self.last_id += 1;
        let header = Header::command(self.last_id, request.command(), payload.len());
        self.send(&header, &payload, fds);
        self.last_id
    }

    /// The next message, unless the other end has closed.
    pub(super) fn next(&mut self) -> Option<Message<OwnedFd>> {
        loop {
            if let Some(message) = self.framer.pop().unwrap() {
                return Some(message);
            }
            let mut fds = Vec::new();
            match self.socket.recv(self.framer.space(), &mut fds, true).ok()? {
                Received::Bytes(n) => self.framer.received(n, fds),
                Received::WouldBlock | Received::Interrupted => {}
                Received::Eof => return None,
            }
        }
    }

    /// The next command of the other end, unless that has closed.
    pub(super) fn next_command(&mut self) -> Option<Message<OwnedFd>> {
        loop {
            let message = self.next()?;
            if message.header().kind() == Some(Kind::Command) {
                return Some(message);
            }
            assert!(!message.header().is_error(), "refused: {:?}", message.header());
            self.replied.push(message.header().id);
        }
    }

    /// Reads until the reply to `id`, which must be a success. Commands before it are kept.
    pub(super) fn reply_to(&mut self, id: u16, commands: &mut Vec<Message<OwnedFd>>) {
        while !self.replied.contains(&id) {
            let message = self.next().expect("the other end left without its reply");
            if message.header().kind() == Some(Kind::Command) {
                commands.push(message);
            } else {
                assert!(!message.header().is_error(), "refused: {:?}", message.header());
                self.replied.push(message.header().id);
            }
        }
    }

    /// Begins a session as a client: VERSION, and memory that is reached by messages.
    pub(super) fn begin(&mut self) {
        let version = Version::new(0, 1, Capabilities::default());
        let id = self.ask(&Request::Version(version));
        self.reply_to(id, &mut Vec::new());
        let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
        let map = DmaMap { flags, offset: 0, address: MEMORY.0, size: MEMORY.1 };
        let id = self.ask(&Request::DmaMap(map));
        self.reply_to(id, &mut Vec::new());
    }

    /// Maps memory that the device reaches directly.
    pub(super) fn map_file(&mut self, address: u64, size: u64) -> u16 {
        let file = memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, size).unwrap();
        let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
        let map = Request::DmaMap(DmaMap { flags, offset: 0, address, size });
        self.ask_with(&map, &[file.as_fd()])
    }

    pub(super) fn write(&mut self, offset: u64, value: u64) -> u16 {
        let data = value.to_le_bytes();
        self.ask(&Request::RegionWrite(RegionWriteRequest { offset, region: 0, data: &data }))
    }

    pub(super) fn read(&mut self, offset: u64) -> u16 {
        self.ask(&Request::RegionRead(RegionReadRequest { offset, region: 0, count: 8 }))
    }

    /// Answers a DMA_READ: every byte is the low byte of its address.
    pub(super) fn give(&self, command: &Message<OwnedFd>) {
        let request = DmaReadRequest::parse(command.payload()).unwrap();
        let data: Vec<u8> = (0..request.count).map(|i| (request.address + i) as u8).collect();
        let mut payload = Vec::new();
        DmaReadReply { address: request.address, data: &data }.emit(&mut payload);
        self.send(&command.header().reply(payload.len()), &payload, &[]);
    }

    /// Answers a command as a server would: VERSION, a read of a register, anything without data.
    pub(super) fn answer(&self, command: &Message<OwnedFd>) {
        let name = Command::from_u16(command.header().command).unwrap();
        let mut payload = Vec::new();
        match Request::parse(name, command.payload()).unwrap() {
            Request::Version(_) => {
                Version::new(0, 1, Capabilities::default()).emit(&mut payload);
            }
            Request::RegionRead(r) => {
                let data = r.offset.to_le_bytes();
                let data = &data[..r.count as usize];
                RegionReadReply { offset: r.offset, region: r.region, data }.emit(&mut payload);
            }
            Request::RegionWrite(w) => w.reply().emit(&mut payload),
            _ => {}
        }
        self.send(&command.header().reply(payload.len()), &payload, &[]);
    }

    pub(super) fn hang_up(&self) {
        self.socket.shutdown();
    }
}
