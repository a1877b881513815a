//! Bare messages: what the limits are made of.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::Context;

/// The bytes of a message header.
pub(crate) const HEADER: usize = 16;
/// The bytes of a REGION_READ or DMA_READ before its data, header included.
pub(crate) const HEAD: usize = 32;

/// Sends so many bytes and waits for so many.
pub(crate) struct Asker {
    socket: UnixStream,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Asker {
    pub(crate) fn new(socket: UnixStream, request: usize, reply: usize) -> Asker {
        Asker { socket, request: vec![0; request], reply: vec![0; reply] }
    }

    pub(crate) fn ask(&mut self) -> anyhow::Result<()> {
        self.socket.write_all(&self.request)?;
        self.socket.read_exact(&mut self.reply)?;
        Ok(())
    }
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
        Ok(Alone { near, far, request: vec![0; request], reply: vec![0; reply] })
    }

    pub(crate) fn round_trip(&mut self) -> anyhow::Result<()> {
        self.near.write_all(&self.request)?;
        self.far.read_exact(&mut self.request)?;
        self.far.write_all(&self.reply)?;
        self.near.read_exact(&mut self.reply)?;
        Ok(())
    }
}
