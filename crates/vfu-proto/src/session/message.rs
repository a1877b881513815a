//! One whole message and the file descriptors that came with it.

use crate::wire::{HEADER_SIZE, Header};

/// A message as it came off the stream: header, payload and file descriptors.
///
/// `F` is what stands for a file descriptor: `OwnedFd` over a socket, anything in a test.
/// Dropping a message drops, and so closes, what was not taken from [`fds`](Self::fds).
#[derive(Debug)]
pub struct Message<F> {
    header: Header,
    /// Header and payload in `bytes[..len]`; the rest is room from an earlier, larger message.
    bytes: Vec<u8>,
    len: usize,
    /// The descriptors, in the order in which they came.
    pub fds: Vec<F>,
}

impl<F> Message<F> {
    /// Wraps `bytes[..len]`, which holds at least a header.
    pub(super) fn new(header: Header, bytes: Vec<u8>, len: usize, fds: Vec<F>) -> Self {
        debug_assert!(len >= HEADER_SIZE && len <= bytes.len());
        Message { header, bytes, len, fds }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What follows the header, in bytes as the peer sent them.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(HEADER_SIZE..self.len).unwrap_or(&[])
    }

    /// The whole message's length in bytes, header included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A message is never empty: it has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Gives the buffer back, for the next message.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}
