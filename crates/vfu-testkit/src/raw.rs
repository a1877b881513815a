//! One end of a session, byte by byte.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};
use vfu::wire::{self, Command, HEADER_SIZE, Header, Request};

use crate::deadline::ready;
use crate::{DEADLINE, KitError};

/// What QEMU 11.1 proposes in VERSION; with its NUL it has 194 bytes.
pub const QEMU_JSON: &str = concat!(
    r#"{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "#,
    r#""max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "#,
    r#""pgsize": 4096}, "write_multiple": true}}"#,
);

/// The bytes of a command.
pub fn command(id: u16, request: &Request<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    request.emit(&mut payload);
    let mut bytes = Header::command(id, request.command(), payload.len()).emit().to_vec();
    bytes.append(&mut payload);
    bytes
}

/// The bytes of a command that wants no reply.
pub fn posted(id: u16, request: &Request<'_>) -> Vec<u8> {
    let mut bytes = command(id, request);
    bytes[8] |= 0x10;
    bytes
}

/// The bytes of any message: a command number, flags and payload that need not make sense.
pub fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let size = (HEADER_SIZE + payload.len()) as u32;
    let header = Header { id, command, size, flags, error: 0 };
    let mut bytes = header.emit().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// A whole message, as it came.
#[derive(Debug)]
pub struct RawMessage {
    /// The header.
    pub header: Header,
    /// What follows it.
    pub payload: Vec<u8>,
    /// The descriptors that came with any of its bytes.
    pub fds: Vec<OwnedFd>,
}

impl RawMessage {
    /// The errno of an error reply; `None` if this is none.
    pub fn errno(&self) -> Option<wire::Errno> {
        self.header.is_error().then(|| self.header.errno())
    }

    /// The bytes of the successful reply to this command.
    pub fn reply(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = self.header.reply(payload.len()).emit().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    /// The bytes of the error reply to this command.
    pub fn refusal(&self, errno: wire::Errno) -> Vec<u8> {
        self.header.error_reply(errno).emit().to_vec()
    }
}

/// A connected socket on which the test says every byte itself. Good for either role.
#[derive(Debug)]
pub struct RawPeer {
    socket: OwnedFd,
}

impl RawPeer {
    /// Connects to the server at `path`.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: impl AsRef<Path>) -> Result<RawPeer, KitError> {
        let address = SocketAddrUnix::new(path.as_ref()).map_err(KitError::system("path"))?;
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let socket = net::socket_with(family, kind, SocketFlags::CLOEXEC, None)
            .map_err(KitError::system("socket"))?;
        net::connect(&socket, &address).map_err(KitError::system("connect"))?;
        Ok(RawPeer { socket })
    }

    /// Two ends of a new connection.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn pair() -> Result<(RawPeer, OwnedFd), KitError> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let (ours, theirs) = net::socketpair(family, kind, SocketFlags::CLOEXEC, None)
            .map_err(KitError::system("socketpair"))?;
        Ok((RawPeer::over(ours), theirs))
    }

    /// Uses a connected socket, as a twin is.
    pub fn over(socket: OwnedFd) -> RawPeer {
        RawPeer { socket }
    }

    /// Sends all bytes.
    ///
    /// # Errors
    /// The peer has gone, or does not read.
    pub fn send(&self, bytes: &[u8]) -> Result<(), KitError> {
        self.send_with(bytes, &[])
    }

    /// Sends all bytes, with descriptors at the first.
    ///
    /// # Errors
    /// The peer has gone, or takes no byte for a [`DEADLINE`].
    pub fn send_with(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), KitError> {
        let mut deadline = Instant::now() + DEADLINE;
        let (mut rest, mut fds) = (bytes, fds);
        while !rest.is_empty() {
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(KitError::Missing("room for so many descriptors"));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match net::sendmsg(&self.socket, &[IoSlice::new(rest)], &mut control, flags) {
                Ok(sent) => {
                    rest = &rest[sent..];
                    fds = &[];
                    deadline = Instant::now() + DEADLINE;
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline, "the peer's reading")?,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(KitError::Closed),
                Err(e) => return Err(KitError::system("sendmsg")(e)),
            }
        }
        Ok(())
    }

    /// Sends the bytes in pieces of the given lengths, and the rest in one more.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_split(&self, bytes: &[u8], pieces: &[usize]) -> Result<(), KitError> {
        let mut rest = bytes;
        for &len in pieces {
            let (piece, after) = rest.split_at(len.min(rest.len()));
            self.send(piece)?;
            rest = after;
        }
        self.send(rest)
    }

    /// Sends the bytes one by one.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_bytewise(&self, bytes: &[u8]) -> Result<(), KitError> {
        bytes.chunks(1).try_for_each(|byte| self.send(byte))
    }

    /// Sends the bytes with descriptors at the byte `at`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with_at(
        &self,
        bytes: &[u8],
        at: usize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), KitError> {
        let (before, after) = bytes.split_at(at.min(bytes.len()));
        self.send(before)?;
        self.send_with(after, fds)
    }

    /// Receives one whole message.
    ///
    /// # Errors
    /// [`KitError::Closed`] if the peer has gone, [`KitError::TimedOut`] after a [`DEADLINE`] without a
    /// byte.
    pub fn recv(&self) -> Result<RawMessage, KitError> {
        let mut fds = Vec::new();
        let mut head = [0; HEADER_SIZE];
        self.fill(&mut head, &mut fds)?;
        let header = Header::parse(&head);
        let len = (header.size as usize).checked_sub(HEADER_SIZE).filter(|len| *len <= 8 << 20);
        let len = len.ok_or_else(|| KitError::Unexpected(format!("a header {header:?}")))?;
        let mut payload = vec![0; len];
        self.fill(&mut payload, &mut fds)?;
        Ok(RawMessage { header, payload, fds })
    }

    fn fill(&self, mut to: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<(), KitError> {
        while !to.is_empty() {
            match self.recv_some(to, fds, Instant::now() + DEADLINE)? {
                0 => return Err(KitError::Closed),
                n => to = &mut to[n..],
            }
        }
        Ok(())
    }

    /// One `recvmsg`; 0 at the end of the stream.
    fn recv_some(
        &self,
        to: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        deadline: Instant,
    ) -> Result<usize, KitError> {
        loop {
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let slices = &mut [IoSliceMut::new(to)];
            match net::recvmsg(&self.socket, slices, &mut control, flags) {
                Ok(got) => {
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(received) = message {
                            fds.extend(received);
                        }
                    }
                    return Ok(got.bytes);
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline, "a message")?,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(0),
                Err(e) => return Err(KitError::system("recvmsg")(e)),
            }
        }
    }

    fn wait(&self, what: PollFlags, deadline: Instant, name: &'static str) -> Result<(), KitError> {
        let is_ready = ready(self.socket.as_fd(), what, deadline);
        if is_ready.map_err(KitError::system("poll"))? {
            Ok(())
        } else {
            Err(KitError::TimedOut(name))
        }
    }

    /// Waits for the end of the connection; nothing may come before it.
    ///
    /// # Errors
    /// [`KitError::Unexpected`] if something does, [`KitError::TimedOut`] after [`DEADLINE`].
    pub fn expect_eof(&self) -> Result<(), KitError> {
        let mut byte = [0; 256];
        match self.recv_some(&mut byte, &mut Vec::new(), Instant::now() + DEADLINE) {
            Ok(0) => Ok(()),
            Ok(n) => Err(KitError::Unexpected(format!("{n} bytes: {:x?}", &byte[..n]))),
            Err(KitError::TimedOut(_)) => Err(KitError::TimedOut("the end of the connection")),
            Err(e) => Err(e),
        }
    }

    /// Whether something to receive is there now.
    ///
    /// # Errors
    /// The system refused.
    pub fn has_input(&self) -> Result<bool, KitError> {
        ready(self.socket.as_fd(), PollFlags::IN, Instant::now()).map_err(KitError::system("poll"))
    }

    /// Sends a command and receives its reply, which must be the next message.
    ///
    /// # Errors
    /// As [`send`](Self::send) and [`recv`](Self::recv); [`KitError::Unexpected`] if something else
    /// comes.
    pub fn call(&self, id: u16, request: &Request<'_>) -> Result<RawMessage, KitError> {
        self.call_with(id, request, &[])
    }

    /// As [`call`](Self::call), with descriptors.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_with(
        &self,
        id: u16,
        request: &Request<'_>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<RawMessage, KitError> {
        self.send_with(&command(id, request), fds)?;
        self.recv_reply(id, request.command())
    }

    /// Receives the reply to a command, which must be the next message.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); [`KitError::Unexpected`] if something else comes.
    pub fn recv_reply(&self, id: u16, command: Command) -> Result<RawMessage, KitError> {
        let reply = self.recv()?;
        let header = reply.header;
        let is_it = header.kind() == Some(wire::Kind::Reply)
            && (header.id, header.command) == (id, command.as_u16());
        if is_it { Ok(reply) } else { Err(KitError::Unexpected(format!("{header:?}"))) }
    }

    /// The bytes of a VERSION command with this text, to which a NUL is added; no text, no JSON.
    pub fn version(id: u16, major: u16, minor: u16, json: Option<&str>) -> Vec<u8> {
        let mut payload = [major.to_le_bytes(), minor.to_le_bytes()].concat();
        if let Some(json) = json {
            payload.extend_from_slice(json.as_bytes());
            payload.push(0);
        }
        let mut bytes = Header::command(id, Command::Version, payload.len()).emit().to_vec();
        bytes.append(&mut payload);
        bytes
    }

    /// Proposes version 0.1 with this JSON, and gives the reply.
    ///
    /// # Errors
    /// As [`call`](Self::call). A refusal is no error here: look at [`RawMessage::errno`].
    pub fn handshake(&self, json: &str) -> Result<RawMessage, KitError> {
        self.send(&RawPeer::version(0, 0, 1, Some(json)))?;
        self.recv_reply(0, Command::Version)
    }

    /// Connects, and agrees on a session with one socket.
    ///
    /// # Errors
    /// As [`connect`](Self::connect) and [`call`](Self::call), or the server refuses.
    pub fn begin(path: impl AsRef<Path>) -> Result<RawPeer, KitError> {
        let peer = RawPeer::connect(path)?;
        let json = r#"{"capabilities":{"max_msg_fds":16,"write_multiple":true}}"#;
        let reply = peer.handshake(json)?;
        match reply.errno() {
            Some(errno) => Err(KitError::Unexpected(format!("VERSION refused: {errno}"))),
            None => Ok(peer),
        }
    }

    /// Connects, and agrees on a session with a twin socket: gives the main one and the twin.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), or the server has no twin.
    pub fn begin_twin(path: impl AsRef<Path>) -> Result<(RawPeer, RawPeer), KitError> {
        let peer = RawPeer::connect(path)?;
        let json = r#"{"capabilities":{"twin_socket":{"supported":true}}}"#;
        let mut reply = peer.handshake(json)?;
        match reply.fds.pop() {
            Some(twin) if reply.fds.is_empty() => Ok((peer, RawPeer::over(twin))),
            _ => Err(KitError::Missing("twin socket")),
        }
    }

    /// Sets Memory Space and Bus Master Enable, as a client.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn enable_bus_master(&self) -> Result<(), KitError> {
        let write = wire::RegionWriteRequest { offset: 4, region: 7, data: &[6, 0] };
        self.call(0xbbbb, &Request::RegionWrite(write)).map(drop)
    }

    /// Answers a client's VERSION with this JSON, as a server.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), or the client began with something else.
    pub fn answer_handshake(
        &self,
        json: &str,
        fds: &[BorrowedFd<'_>],
    ) -> Result<RawMessage, KitError> {
        let request = self.recv()?;
        if request.header.command != Command::Version.as_u16() {
            return Err(KitError::Unexpected(format!("{:?}", request.header)));
        }
        let mut payload = vec![0, 0, 0, 0];
        payload.extend_from_slice(json.as_bytes());
        payload.push(0);
        self.send_with(&request.reply(&payload), fds)?;
        Ok(request)
    }

    /// Says that nothing more will be sent.
    pub fn shutdown_write(&self) {
        let _already_gone = net::shutdown(&self.socket, Shutdown::Write);
    }

    /// The socket.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for RawPeer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
