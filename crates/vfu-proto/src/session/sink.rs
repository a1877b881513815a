//! Where the data of a reply goes, if not by way of a message.

use crate::wire::{Header, Kind};

use super::{Channel, Ticket};

/// The buffer of who waits for a large reply: its data is received there at once, if who waits is the
/// one who reads.
///
/// It is asked for with [`Framer::space_in`](super::Framer::space_in).
#[derive(Debug)]
pub struct Sink<'a> {
    ticket: Ticket,
    head: usize,
    data: &'a mut [u8],
}

impl<'a> Sink<'a> {
    /// A buffer for the data of the reply to `ticket`, which comes behind `head` bytes of the message,
    /// its header included. A reply with more or less data than that is received as any other.
    pub fn new(ticket: Ticket, head: usize, data: &'a mut [u8]) -> Self {
        Sink { ticket, head, data }
    }

    /// Where the reply comes.
    pub fn channel(&self) -> Channel {
        self.ticket.channel()
    }

    /// Whether the message with this header is the one.
    pub(super) fn is_for(&self, header: &Header) -> bool {
        header.kind() == Some(Kind::Reply)
            && header.id == self.ticket.id()
            && !header.is_error()
            && header.size as usize == self.head + self.data.len()
    }

    /// The place of the message's bytes from `from` to `to`.
    pub(super) fn place(&mut self, from: usize, to: usize) -> Option<&mut [u8]> {
        self.data.get_mut(from.checked_sub(self.head)?..to.checked_sub(self.head)?)
    }
}
