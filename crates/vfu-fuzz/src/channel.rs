//! A socket that is written and read at once, so that a peer that does not read can't stop us.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use vfu_proto::wire::{HEADER_SIZE, Header};

/// The largest message that is taken from a peer, in bytes.
const MOST: usize = 4 << 20;

/// Bytes that a peer may leave unread. What is more is not kept: it would not be read either.
const UNSENT: usize = 4 << 20;

/// One socket, never blocking.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    out: VecDeque<Chunk>,
    unsent: usize,
    input: Vec<u8>,
    /// How many bytes were received before `input`.
    before: u64,
    /// Descriptors, and the position behind the bytes that they came with.
    fds: VecDeque<(u64, Vec<OwnedFd>)>,
    closed: bool,
}

/// What is sent by one call.
#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    done: usize,
    fds: Vec<OwnedFd>,
}

/// A message of the peer.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// What is next in the input.
#[derive(Debug)]
pub(crate) enum Next {
    Message(Incoming),
    /// A header whose size can't be.
    Nonsense(Header),
    /// Not all of it has come.
    Nothing,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NoConnection {
    /// Nobody listens.
    Refused(Errno),
    /// Those who wait already are not accepted.
    Full,
}

impl Channel {
    pub(crate) fn over(socket: OwnedFd) -> Channel {
        Channel {
            socket,
            out: VecDeque::new(),
            unsent: 0,
            input: Vec::new(),
            before: 0,
            fds: VecDeque::new(),
            closed: false,
        }
    }

    /// Connects. A server that has no room for one more is given until `deadline`.
    pub(crate) fn connect(path: &Path, deadline: Instant) -> Result<Channel, NoConnection> {
        let address = SocketAddrUnix::new(path).map_err(NoConnection::Refused)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
            let socket = socket.map_err(NoConnection::Refused)?;
            match net::connect(&socket, &address) {
                Ok(()) => return Ok(Channel::over(socket)),
                Err(Errno::AGAIN) if Instant::now() < deadline => {
                    // The kernel has no event for "the backlog has room again".
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(Errno::AGAIN) => return Err(NoConnection::Full),
                Err(Errno::INTR) => {}
                Err(e) => return Err(NoConnection::Refused(e)),
            }
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The peer has closed, and all that it said has been taken.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.out.is_empty()
    }

    /// Sends bytes by a call of their own, with descriptors at the first.
    pub(crate) fn push(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        if !bytes.is_empty() && self.unsent <= UNSENT {
            self.unsent += bytes.len();
            self.out.push_back(Chunk { bytes, done: 0, fds });
        }
    }

    /// Sends what the socket takes now.
    pub(crate) fn flush(&mut self) {
        while let Some(chunk) = self.out.front_mut() {
            let fds: Vec<_> = chunk.fds.iter().map(AsFd::as_fd).collect();
            let rest = chunk.bytes.get(chunk.done..).unwrap_or_default();
            match send(&self.socket, rest, &fds) {
                Ok(sent) => {
                    chunk.fds.clear();
                    chunk.done += sent;
                    self.unsent = self.unsent.saturating_sub(sent);
                    if chunk.done >= chunk.bytes.len() {
                        self.out.pop_front();
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // Descriptors that can't be sent, e.g. too many: the bytes alone go.
                Err(e) if !chunk.fds.is_empty() && e != Errno::PIPE && e != Errno::CONNRESET => {
                    chunk.fds.clear();
                }
                // What the peer said before may still be read.
                Err(_) => {
                    self.out.clear();
                    self.unsent = 0;
                }
            }
        }
    }

    /// Receives what is there now.
    pub(crate) fn fill(&mut self) {
        let mut buffer = [0; 64 << 10];
        while !self.closed && self.input.len() <= MOST {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let slices = &mut [IoSliceMut::new(&mut buffer)];
            match net::recvmsg(&self.socket, slices, &mut control, flags) {
                Ok(got) => {
                    let mut fds = Vec::new();
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(received) = message {
                            fds.extend(received);
                        }
                    }
                    self.closed = got.bytes == 0;
                    self.input.extend_from_slice(buffer.get(..got.bytes).unwrap_or_default());
                    if !fds.is_empty() {
                        self.fds.push_back((self.before + self.input.len() as u64, fds));
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.closed = true,
            }
        }
    }

    /// Takes the next message out of what was received.
    pub(crate) fn next(&mut self) -> Next {
        let Some(head) = self.input.first_chunk::<HEADER_SIZE>() else { return Next::Nothing };
        let header = Header::parse(head);
        let size = header.size as usize;
        if !(HEADER_SIZE..=MOST).contains(&size) {
            return Next::Nonsense(header);
        }
        if self.input.len() < size {
            return Next::Nothing;
        }
        let rest = self.input.split_off(size);
        let payload = self.input.split_off(HEADER_SIZE);
        self.input = rest;
        self.before += size as u64;
        let mut fds = Vec::new();
        // A receive ends behind bytes that have descriptors: they belong to the message that holds
        // the last of these bytes.
        while self.fds.front().is_some_and(|(end, _)| *end <= self.before) {
            fds.extend(self.fds.pop_front().into_iter().flat_map(|(_, fds)| fds));
        }
        Next::Message(Incoming { header, payload, fds })
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn is_mid_message(&self) -> bool {
        !self.input.is_empty()
    }
}

fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    if fds.is_empty() {
        return net::send(socket, bytes, flags);
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(fds));
    net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

/// Waits until one of the channels can do something, or has closed. False: not by `deadline`.
pub(crate) fn wait(channels: &[&Channel], deadline: Instant) -> bool {
    let mut polled: Vec<_> = channels
        .iter()
        .filter(|channel| !channel.closed)
        .map(|channel| {
            let out = if channel.has_unsent() { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::from_borrowed_fd(channel.socket(), PollFlags::IN | out)
        })
        .collect();
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    match poll(&mut polled, Some(&timeout)) {
        Ok(ready) => ready > 0,
        Err(Errno::INTR) => true,
        Err(_) => false,
    }
}
