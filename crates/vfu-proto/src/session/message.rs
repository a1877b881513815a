//! One whole message and the file descriptors that came with it.

use std::fmt;

use crate::wire::{HEADER_SIZE, Header};

/// A message as it came off the stream: header, payload and file descriptors.
///
/// `F` is what stands for a file descriptor: `OwnedFd` over a socket, anything in a test.
/// Dropping a message drops, and so closes, what was not [taken](Self::take_fds) from it.
///
/// It is one pointer: on its way from the reader to the executor it is handed on many times.
pub struct Message<F>(Box<Parts<F>>);

struct Parts<F> {
    header: Header,
    /// Header and payload in `bytes[..len]`; the rest is room from an earlier, larger message.
    bytes: Vec<u8>,
    len: usize,
    /// So many of the last bytes are not here: they went to a [`Sink`](super::Sink).
    away: usize,
    fds: Vec<F>,
}

impl<F> Message<F> {
    /// A message of `len` bytes, at least a header, in the place of one that is done with. Its
    /// [`buffer`](Self::buffer) is to be filled.
    pub(super) fn reuse(done: Option<Message<F>>, header: Header, len: usize) -> Self {
        debug_assert!(len >= HEADER_SIZE);
        match done {
            Some(mut message) => {
                (message.0.header, message.0.len, message.0.away) = (header, len, 0);
                message
            }
            None => {
                let (bytes, fds) = (Vec::new(), Vec::new());
                Message(Box::new(Parts { header, bytes, len, away: 0, fds }))
            }
        }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// What follows the header, in bytes as the peer sent them; without those that are
    /// [away](Self::away).
    pub fn payload(&self) -> &[u8] {
        self.0.bytes.get(HEADER_SIZE..self.0.len - self.0.away).unwrap_or(&[])
    }

    /// How many bytes at the end of the payload are where its asker wanted them: in the
    /// [`Sink`](super::Sink) into which they were received.
    pub fn away(&self) -> usize {
        self.0.away
    }

    pub(super) fn set_away(&mut self, away: usize) {
        self.0.away = away.min(self.0.len);
    }

    /// The whole message's length in bytes, header included.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// A message is never empty: it has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The descriptors, in the order in which they came.
    pub fn fds(&self) -> &[F] {
        &self.0.fds
    }

    /// Takes the descriptors.
    pub fn take_fds(&mut self) -> Vec<F> {
        std::mem::take(&mut self.0.fds)
    }

    pub(super) fn fds_mut(&mut self) -> &mut Vec<F> {
        &mut self.0.fds
    }

    /// The buffer of the message, for one that comes or for the next.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0.bytes
    }
}

impl<F: fmt::Debug> fmt::Debug for Message<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut message = f.debug_struct("Message");
        message.field("header", self.header()).field("payload", &self.payload());
        message.field("fds", &self.fds()).finish()
    }
}
