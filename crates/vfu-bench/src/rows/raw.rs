//! Bare messages: what the limits are made of.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, ensure};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The bytes of a message header.
pub(crate) const HEADER: usize = 16;
/// The bytes of a REGION_READ or DMA_READ before its data, header included.
pub(crate) const HEAD: usize = 32;

/// So many bytes that have been written: memory that nobody has touched is one page of zeros, wherever it
/// is read, and takes less time to send.
pub(crate) fn touched(size: usize) -> Vec<u8> {
    vec![1; size]
}

/// Sends so many bytes and waits for so many.
pub(crate) struct Asker {
    socket: UnixStream,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Asker {
    pub(crate) fn new(socket: UnixStream, request: usize, reply: usize) -> Asker {
        Asker { socket, request: touched(request), reply: touched(reply) }
    }

    pub(crate) fn ask(&mut self) -> anyhow::Result<()> {
        self.socket.write_all(&self.request)?;
        self.socket.read_exact(&mut self.reply)?;
        Ok(())
    }
}

/// Sends a message, with a descriptor if there is one.
pub(crate) fn send(
    mut socket: &UnixStream,
    message: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> anyhow::Result<()> {
    let Some(fd) = fd else { return Ok(socket.write_all(message)?) };
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::empty())?;
    ensure!(sent == message.len(), "{sent} of {} bytes were sent", message.len());
    Ok(())
}

/// Both ends of a round trip on this thread: it never waits.
pub(crate) struct Alone {
    near: UnixStream,
    far: UnixStream,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Alone {
    pub(crate) fn new(request: usize, reply: usize) -> anyhow::Result<Alone> {
        let (near, far) = UnixStream::pair().context("a socket pair")?;
        Ok(Alone { near, far, request: touched(request), reply: touched(reply) })
    }

    pub(crate) fn round_trip(&mut self) -> anyhow::Result<()> {
        self.near.write_all(&self.request)?;
        self.far.read_exact(&mut self.request)?;
        self.far.write_all(&self.reply)?;
        self.near.read_exact(&mut self.reply)?;
        Ok(())
    }
}
