//! One end of a connection that never waits, and descriptors of every kind to send.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use vfu_proto::session::{Framer, Message};

/// The longest message that we take.
const LIMIT: usize = 2 << 20;

pub(crate) struct Pipe {
    socket: OwnedFd,
    framer: Framer<OwnedFd>,
    /// What the system did not take yet.
    unsent: Vec<u8>,
    /// The other end has gone.
    pub(crate) ended: bool,
}

impl Pipe {
    pub(crate) fn new(socket: OwnedFd) -> Pipe {
        Pipe { socket, framer: Framer::new(LIMIT), unsent: Vec::new(), ended: false }
    }

    /// Sends as much as there is room for, and keeps the rest for [`flush`](Self::flush).
    /// Descriptors go with the first byte; without room, nowhere.
    pub(crate) fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        self.flush();
        let sent = if self.unsent.is_empty() { self.try_send(bytes, fds) } else { 0 };
        self.unsent.extend_from_slice(&bytes[sent..]);
    }

    pub(crate) fn flush(&mut self) {
        let sent = self.try_send(&self.unsent, &[]);
        self.unsent.drain(..sent);
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.unsent.is_empty()
    }

    fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "there is room for 253");
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // Full, or nobody there.
        sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags).unwrap_or(0)
    }

    /// Every whole message that is there.
    ///
    /// # Panics
    /// If what is there can't be framed: the other end is ours.
    pub(crate) fn receive(&mut self) -> Vec<Message<OwnedFd>> {
        let mut messages = Vec::new();
        loop {
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let slices = &mut [IoSliceMut::new(self.framer.space())];
            let got = match recvmsg(&self.socket, slices, &mut control, flags) {
                Ok(got) => got.bytes,
                Err(Errno::AGAIN) => break,
                Err(_) => 0,
            };
            if got == 0 {
                self.ended = true;
                break;
            }
            let rights = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds.collect::<Vec<_>>()),
                _ => None,
            });
            self.framer.received(got, rights.flatten().collect::<Vec<_>>());
            while let Some(message) = self.framer.pop().expect("what our side sends is framed") {
                messages.push(message);
            }
        }
        messages
    }
}

/// Descriptors of every kind that a peer could send; they stay as long as the process.
pub(crate) fn descriptors() -> &'static [OwnedFd] {
    static ALL: OnceLock<Vec<OwnedFd>> = OnceLock::new();
    ALL.get_or_init(|| {
        let memory = |sealed: bool, size: u64| {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let file = rustix::fs::memfd_create("fuzz", flags).expect("a memfd");
            rustix::fs::ftruncate(&file, size).expect("a size");
            if sealed {
                let seals = SealFlags::SHRINK | SealFlags::GROW;
                rustix::fs::fcntl_add_seals(&file, seals).expect("seals");
            }
            file
        };
        let device = |path| {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).expect("a device of every system")
        };
        let (read_end, write_end) = rustix::pipe::pipe().expect("a pipe");
        vec![
            memory(false, 1 << 20),
            memory(true, 64 << 10),
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd"),
            eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"),
            memory(false, 0),
            device("/dev/null"),
            device("/dev/zero"),
            read_end,
            write_end,
        ]
    })
}

/// Some of them.
pub(crate) fn some_descriptors(
    script: &mut crate::script::Script<'_>,
    most: usize,
) -> Vec<BorrowedFd<'static>> {
    let all = descriptors();
    let count = script.below(most + 1);
    (0..count).map(|_| all[script.below(all.len())].as_fd()).collect()
}
