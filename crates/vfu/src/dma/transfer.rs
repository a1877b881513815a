//! One read or write of the peer's memory, from its first byte to its last.

use std::ops::Range;
use std::sync::Arc;

use super::entry::Need;
use super::index::Found;
use super::message::{Pause, Pipeline};
use super::table::Lease;
use super::{Backing, Direction, DmaError, Region, file_error};
use crate::link::{Asker, Link};
use crate::shared::Shared;
use crate::sync::is_reading;

/// So many bytes are copied in less time than it takes to count who does it, or little more.
const SMALL: usize = 4096;

/// Where the bytes go, or come from.
pub(crate) enum Buffer<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Buffer<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Buffer::Read(to) => to.len(),
            Buffer::Write(from) => from.len(),
        }
    }

    pub(super) fn direction(&self) -> Direction {
        match self {
            Buffer::Read(_) => Direction::Read,
            Buffer::Write(_) => Direction::Write,
        }
    }

    fn reborrow(&mut self) -> Buffer<'_> {
        match self {
            Buffer::Read(to) => Buffer::Read(to),
            Buffer::Write(from) => Buffer::Write(from),
        }
    }

    /// Copies these of the bytes, which are at `offset` in direct memory.
    fn copy(&mut self, range: Range<usize>, region: &Region, offset: u64) -> Result<(), DmaError> {
        match self {
            Buffer::Read(to) => region.read_direct(offset, &mut to[range]),
            Buffer::Write(from) => region.write_direct(offset, &from[range]),
        }
        .map_err(|e| file_error(region.address.wrapping_add(offset), e))
    }
}

/// How memory that the peer shared is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Directly, where that is possible.
    Shortest,
    /// By messages even there.
    Messages,
    /// Directly, and not at all where that is impossible; but at any time.
    Memory,
}

/// Copies a few bytes that lie in one mapping, while nobody changes mappings. False, if they don't, or it
/// can't be, or not now: a [`Transfer`] finds out what it takes, or why.
pub(crate) fn copy_at_once(shared: &Shared, address: u64, mut buffer: Buffer<'_>) -> bool {
    let len = buffer.len();
    if len > SMALL || shared.may_dma().is_err() {
        return false;
    }
    shared.table.pin(|index| {
        let need = Need::prompt(buffer.direction());
        let found = index.floor(address).filter(|f| f.key.holds(address, len as u64, need));
        found.is_some_and(|Found { key, entry }| {
            buffer.copy(0..len, &entry.region, address - key.address).is_ok()
        })
    })
}

/// The state of a transfer. It moves on by [`advance`](Self::advance), which never waits; a blocking
/// call, a future and a callback differ only in what they do when it can't.
pub(crate) struct Transfer<'a> {
    shared: &'a Arc<Shared>,
    address: u64,
    buffer: Buffer<'a>,
    how: How,
    /// No message is sent before the one before it is answered.
    one_by_one: bool,
    /// Bytes that have been moved.
    done: usize,
    /// Resets of the device when the transfer began, once it has.
    epoch: Option<u64>,
    /// The first mapping, from the check of the whole until it is used.
    first: Option<Lease>,
    /// What is under way by messages.
    messages: Option<Pipeline>,
}

/// What a transfer waits for.
pub(super) struct Waiting {
    pub(super) link: Arc<Link>,
    pub(super) pause: Pause,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, address: u64, buffer: Buffer<'a>) -> Self {
        Transfer::with(shared, address, buffer, How::Shortest)
    }

    pub(crate) fn with(
        shared: &'a Arc<Shared>,
        address: u64,
        buffer: Buffer<'a>,
        how: How,
    ) -> Self {
        let (one_by_one, done, epoch) = (false, 0, None);
        let (first, messages) = (None, None);
        Transfer { shared, address, buffer, how, one_by_one, done, epoch, first, messages }
    }

    /// For peers that take one message at a time.
    pub(crate) fn one_by_one(mut self) -> Self {
        self.one_by_one = true;
        self
    }

    /// The whole of it by [`copy_at_once`], if it has not begun. False, if that can't be.
    pub(super) fn at_once(&mut self) -> bool {
        self.epoch.is_none()
            && self.how == How::Shortest
            && copy_at_once(self.shared, self.address, self.buffer.reborrow())
    }

    /// Moves on as far as it goes without waiting. `None`: all bytes have been moved.
    pub(super) fn advance(&mut self, asker: &Asker<'_>) -> Result<Option<Waiting>, DmaError> {
        self.try_advance(asker).map_err(|e| self.shared.explain(e))
    }

    fn try_advance(&mut self, asker: &Asker<'_>) -> Result<Option<Waiting>, DmaError> {
        let len = self.buffer.len();
        if self.epoch.is_none() {
            self.begin()?;
        }
        while self.done < len {
            if self.messages.is_none() && !self.direct_or_begin_messages()? {
                continue;
            }
            let Some(messages) = &mut self.messages else { break };
            if let Some(pause) = messages.advance(&mut self.buffer, asker)? {
                let link = messages.link().clone();
                return Ok(Some(Waiting { link, pause }));
            }
            self.done = messages.end();
            self.messages = None;
        }
        Ok(None)
    }

    /// Checks the whole before a byte moves.
    fn begin(&mut self) -> Result<(), DmaError> {
        self.epoch = Some(match self.how {
            How::Shortest | How::Messages => self.shared.may_dma()?,
            How::Memory => self.shared.epoch(),
        });
        let (len, direction) = (self.buffer.len(), self.buffer.direction());
        if len == 0 {
            return Ok(());
        }
        let lease = self.shared.table.lease(self.address, direction)?;
        if len as u64 - 1 > lease.region.last() - self.address {
            self.shared.table.check(self.address, len, direction)?;
        }
        self.first = Some(lease);
        Ok(())
    }

    /// Copies up to the end of the next mapping. True if that takes messages, which have begun.
    fn direct_or_begin_messages(&mut self) -> Result<bool, DmaError> {
        let epoch = self.epoch.unwrap_or_default();
        if self.shared.epoch() != epoch {
            return Err(DmaError::Canceled);
        }
        let at = self.address.wrapping_add(self.done as u64);
        let lease = match self.first.take() {
            Some(lease) => lease,
            // The whole was mapped when we began: what has gone since was taken from under us.
            None => {
                let lease = self.shared.table.lease(at, self.buffer.direction());
                lease.map_err(|_| DmaError::Canceled)?
            }
        };
        let offset = at - lease.region.address;
        let left = usize::try_from(lease.region.size - offset).unwrap_or(usize::MAX);
        let end = self.buffer.len().min(self.done.saturating_add(left));
        let by_messages =
            self.how == How::Messages || matches!(lease.region.backing, Backing::Message);
        // Who has memory pinned would keep the peer's commands waiting as long as the peer likes.
        if (by_messages || !lease.region.is_prompt()) && is_reading() {
            return Err(DmaError::Busy);
        }
        if by_messages {
            if self.how == How::Memory {
                return Err(DmaError::Busy);
            }
            let live = self.shared.live().ok_or(DmaError::NotConnected)?;
            let (range, region) = (self.done..end, lease.region.clone());
            let mut pipeline = Pipeline::new(self.shared, epoch, live, region, self.address, range);
            pipeline.one_by_one = self.one_by_one;
            self.messages = Some(pipeline);
            return Ok(true);
        }
        self.buffer.copy(self.done..end, &lease.region, offset)?;
        self.done = end;
        Ok(false)
    }

    /// Moves all bytes, and waits as long as it takes.
    pub(super) fn block(self) -> Result<(), DmaError> {
        let asker = self.shared.asker();
        self.block_as(&asker)
    }

    /// As [`block`](Self::block), with what the asker does meanwhile.
    pub(crate) fn block_as(mut self, asker: &Asker<'_>) -> Result<(), DmaError> {
        while let Some(Waiting { link, pause }) = self.advance(asker)? {
            match pause {
                Pause::Reply(ticket) => {
                    let messages = self.messages.as_ref();
                    let sink = messages.and_then(|messages| messages.sink(&mut self.buffer));
                    link.wait_for_data(ticket, asker, sink)?;
                }
                Pause::Room => link.wait_for_room(asker)?,
            }
        }
        Ok(())
    }
}
