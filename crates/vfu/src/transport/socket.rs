//! A connected UNIX stream socket that carries file descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};
use vfu_proto::session::MAX_FDS;

use crate::sync::kernel::{act, may_wait};

/// Room for the descriptors of one message, and for a peer's credentials if it sends them.
const CONTROL: usize = rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1));

/// The system's own size of a socket's send buffer, in bytes. Who made one smaller had a reason.
const USUAL_BUFFER: usize = 208 << 10;
/// What we ask for, in bytes; the system doubles it, and makes less of it if it is told to
/// (`net.core.wmem_max`). A mebibyte with its header then goes with one send, where it would take five and
/// as many looks whether there is room again. Memory is taken only for what the peer has not read.
const WANTED_BUFFER: usize = 640 << 10;

/// What one `recvmsg` brought.
#[derive(Debug)]
pub(crate) enum Received {
    /// So many bytes; descriptors were added to the caller's list.
    Bytes(usize),
    /// Nothing for now.
    WouldBlock,
    /// A signal ended the wait, and somebody wants to know.
    Interrupted,
    /// The peer has closed its end.
    Eof,
}

/// One end of a connection. The file is in blocking mode; each call says whether it may wait.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd, Signals);

/// What a signal does to a receive that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signals {
    /// Nothing: it goes on.
    Ignored,
    /// It ends: [`Received::Interrupted`].
    Interrupt,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let usual = sockopt::socket_send_buffer_size(&fd) == Ok(USUAL_BUFFER);
        if usual {
            let _as_it_is = sockopt::set_socket_send_buffer_size(&fd, WANTED_BUFFER);
        }
        Socket(fd, Signals::Ignored)
    }

    pub(crate) fn set_signals(&mut self, signals: Signals) {
        self.1 = signals;
    }

    pub(crate) fn signals(&self) -> Signals {
        self.1
    }

    /// One `recvmsg`. Descriptors that come are close-on-exec.
    ///
    /// # Errors
    /// The socket failed, or the kernel had to drop descriptors (`EMFILE`): what was received of
    /// them is closed, and the stream can't be trusted.
    #[inline]
    pub(crate) fn recv(
        &self,
        bytes: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        wait: bool,
    ) -> Result<Received, Errno> {
        let mut control = [MaybeUninit::uninit(); CONTROL];
        // What came is taken out below: to look for more when it is dropped would be in vain.
        let mut control = ManuallyDrop::new(RecvAncillaryBuffer::new(&mut control));
        let flags = RecvFlags::CMSG_CLOEXEC | may_wait(self.as_fd(), wait);
        let got = loop {
            let mut parts = [IoSliceMut::new(bytes)];
            match act(|| net::recvmsg(&self.0, &mut parts, &mut control, flags)) {
                Ok(got) => break got,
                Err(e) => match self.not_received(e, wait) {
                    None => {}
                    Some(result) => return result,
                },
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            fds.clear();
            return Err(Errno::MFILE);
        }
        Ok(if got.bytes == 0 { Received::Eof } else { Received::Bytes(got.bytes) })
    }

    /// What a receive that failed so gives. `None`: it is to be made again.
    #[cold]
    fn not_received(&self, e: Errno, wait: bool) -> Option<Result<Received, Errno>> {
        match e {
            Errno::INTR if wait && self.1 == Signals::Interrupt => Some(Ok(Received::Interrupted)),
            Errno::INTR => None,
            Errno::AGAIN => Some(Ok(Received::WouldBlock)),
            Errno::CONNRESET => Some(Ok(Received::Eof)),
            e => Some(Err(e)),
        }
    }

    /// From now on a [`recv`](Self::recv) that may wait gives up after so long. Says whether that
    /// worked.
    pub(crate) fn limit_receive(&self, time: Duration) -> bool {
        sockopt::set_socket_timeout(&self.0, Timeout::Recv, Some(time)).is_ok()
    }

    /// One `send`, or `sendmsg`, of two parts, one behind the other. It never waits and never raises
    /// `SIGPIPE`; says how many bytes went. The descriptors go with the first byte.
    ///
    /// # Errors
    /// `AGAIN`: nothing went, the socket is full. Anything else: the connection is lost.
    #[inline]
    pub(crate) fn send(&self, parts: [&[u8]; 2], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
        if fds.is_empty() && parts[1].is_empty() {
            return self.send_bytes(parts[0]);
        }
        let parts = parts.map(IoSlice::new);
        let mut control = [MaybeUninit::uninit(); CONTROL];
        let mut control = SendAncillaryBuffer::new(&mut control);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::TOOMANYREFS);
        }
        loop {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match act(|| net::sendmsg(&self.0, &parts, &mut control, flags)) {
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Bytes alone: the kernel has less to look at, which is a tenth of what a small message costs.
    #[inline]
    fn send_bytes(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match act(|| net::send(&self.0, bytes, flags)) {
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Ends the connection for both sides; wakes whoever waits in [`recv`](Self::recv).
    pub(crate) fn shutdown(&self) {
        let _already_gone = act(|| net::shutdown(&self.0, Shutdown::Both));
    }
}

impl AsFd for Socket {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
