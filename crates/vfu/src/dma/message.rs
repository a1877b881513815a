//! DMA by messages: DMA_READ and DMA_WRITE, in pieces that the peer can take.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use vfu_proto::session::{Sink, Ticket};
use vfu_proto::wire::{
    Command, DmaReadReply, DmaReadRequest, DmaWriteReply, DmaWriteRequest, HEADER_SIZE,
};

use super::transfer::Buffer;
use super::{Direction, DmaError, Region};
use crate::link::{Asker, Extra, Link, Message, with_draft};
use crate::shared::{Live, Shared};

/// What a pipeline waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pause {
    /// The end of this request.
    Reply(Ticket),
    /// Room for one more.
    Room,
}

/// The part of a transfer that goes by messages to one mapping, in pieces: several of them are under
/// way at once, so that the peer's latency is paid once for a window and not once for a piece.
pub(super) struct Pipeline {
    shared: Arc<Shared>,
    /// Resets of the device when the transfer began.
    epoch: u64,
    live: Arc<Live>,
    region: Arc<Region>,
    /// The address of the buffer's first byte.
    address: u64,
    /// Only one piece is under way at once.
    pub(super) one_by_one: bool,
    /// Bytes of the buffer that are not asked for yet.
    unsent: Range<usize>,
    /// What the peer left out of a reply; asked for before anything else.
    again: Vec<Range<usize>>,
    under_way: UnderWay,
}

/// The pieces that are under way, oldest first. One alone allocates nothing.
#[derive(Default)]
struct UnderWay {
    oldest: Option<Piece>,
    more: VecDeque<Piece>,
    bytes: usize,
}

type Piece = (Ticket, Range<usize>);

impl UnderWay {
    fn push(&mut self, piece: Piece) {
        self.bytes += piece.1.len();
        match self.oldest {
            None => self.oldest = Some(piece),
            Some(_) => self.more.push_back(piece),
        }
    }

    fn pop(&mut self) -> Option<Piece> {
        let next = self.more.pop_front();
        let piece = std::mem::replace(&mut self.oldest, next)?;
        self.bytes -= piece.1.len();
        Some(piece)
    }
}

impl Pipeline {
    pub(super) fn new(
        shared: &Arc<Shared>,
        epoch: u64,
        live: Arc<Live>,
        region: Arc<Region>,
        address: u64,
        range: Range<usize>,
    ) -> Self {
        let (shared, under_way) = (shared.clone(), UnderWay::default());
        let (one_by_one, unsent, again) = (false, range, Vec::new());
        Pipeline { shared, epoch, live, region, address, one_by_one, unsent, again, under_way }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.live.link
    }

    /// Where in the buffer the pipeline ends.
    pub(super) fn end(&self) -> usize {
        self.unsent.end
    }

    /// Moves on as far as it goes without waiting. `None`: all bytes have been moved.
    pub(super) fn advance(
        &mut self,
        buffer: &mut Buffer<'_>,
        asker: &Asker<'_>,
    ) -> Result<Option<Pause>, DmaError> {
        loop {
            if !self.fill(buffer, asker)? {
                return Ok(Some(Pause::Room));
            }
            let Some((ticket, _)) = self.under_way.oldest else { return Ok(None) };
            let Some(outcome) = self.live.link.try_outcome(ticket) else {
                return Ok(Some(Pause::Reply(ticket)));
            };
            if let Some((_, range)) = self.under_way.pop() {
                self.finish(range, outcome?, buffer)?;
            }
        }
    }

    /// Where the data of the oldest piece goes, if it is read.
    pub(super) fn sink<'b>(&self, buffer: &'b mut Buffer<'_>) -> Option<Sink<'b>> {
        let (ticket, range) = self.under_way.oldest.clone()?;
        let Buffer::Read(to) = buffer else { return None };
        Some(Sink::new(ticket, HEADER_SIZE + DmaReadReply::HEAD, &mut to[range]))
    }

    /// Sends requests until the window is full. False if not even one is under way, for want of room.
    fn fill(&mut self, buffer: &Buffer<'_>, asker: &Asker<'_>) -> Result<bool, DmaError> {
        let (piece, window) = self.live.piece_and_window(buffer.direction());
        loop {
            let end = self.unsent.end.min(self.unsent.start + piece);
            let range = self.again.last().cloned().unwrap_or(self.unsent.start..end);
            if range.is_empty() {
                break;
            }
            let idle = self.under_way.oldest.is_none();
            if !idle && (self.one_by_one || self.under_way.bytes + range.len() > window) {
                break;
            }
            let Some(ticket) = self.ask(range.clone(), buffer, asker)? else { return Ok(!idle) };
            if self.again.pop().is_none() {
                self.unsent.start = end;
            }
            self.under_way.push((ticket, range));
        }
        Ok(true)
    }

    /// Sends the request for a piece, if there is room for one.
    fn ask(
        &self,
        range: Range<usize>,
        buffer: &Buffer<'_>,
        asker: &Asker<'_>,
    ) -> Result<Option<Ticket>, DmaError> {
        let (address, count) = (self.at(range.start), range.len() as u64);
        let timeout = asker.left();
        if timeout.is_some_and(|left| left.is_zero()) {
            return Err(DmaError::TimedOut);
        }
        let gone = || {
            self.region.is_retired()
                || self.shared.epoch() != self.epoch
                || self.shared.is_stopped()
        };
        with_draft(|draft| {
            let link = &self.live.link;
            let clock = link.clock();
            let (command, data): (_, &[u8]) = match buffer {
                Buffer::Read(_) => {
                    DmaReadRequest { address, count }.emit(draft);
                    (Command::DmaRead, &[])
                }
                Buffer::Write(from) => {
                    self.shared.writes();
                    DmaWriteRequest::emit_head(address, count, draft);
                    (Command::DmaWrite, &from[range])
                }
            };
            let range = Some((address, count));
            let extra = Extra { data, range, gone: Some(&gone), timeout, ..Extra::default() };
            Ok(link.try_request(command, draft, extra, &clock)?)
        })
    }

    /// Takes the reply to a piece.
    fn finish(
        &mut self,
        range: Range<usize>,
        reply: Message,
        buffer: &mut Buffer<'_>,
    ) -> Result<(), DmaError> {
        let address = self.at(range.start);
        if reply.header().is_error() {
            return Err(DmaError::Refused(reply.header().errno()));
        }
        if let Buffer::Read(to) = buffer {
            let data = check_read(&reply, address, range.len())?;
            to[range.start..][..data.len()].copy_from_slice(data);
            let rest = range.start + data.len() + reply.away()..range.end;
            if !rest.is_empty() {
                self.again.push(rest);
            }
        } else {
            check_write(&reply, address, range.len())?;
        }
        self.live.link.recycle(Some(reply));
        Ok(())
    }

    fn at(&self, offset: usize) -> u64 {
        self.address.wrapping_add(offset as u64)
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        while let Some((ticket, _)) = self.under_way.pop() {
            self.live.link.forget(ticket);
        }
    }
}

impl Live {
    /// The largest piece, and the most bytes that may be under way.
    fn piece_and_window(&self, direction: Direction) -> (usize, usize) {
        match direction {
            Direction::Read => (self.read_piece(), self.read_window()),
            Direction::Write => (self.write_piece(), self.write_window()),
        }
    }
}

/// The data of a reply to `count` bytes at `address`, but for what went into the buffer already; in all
/// at least one byte, at most `count`.
fn check_read(reply: &Message, address: u64, count: usize) -> Result<&[u8], DmaError> {
    let parsed = DmaReadReply::parse_part(reply.payload(), reply.away());
    let parsed = parsed.map_err(|_| DmaError::Malformed("its count and its data differ"))?;
    if parsed.address != address {
        return Err(DmaError::Malformed("another address"));
    }
    match parsed.data.len() + reply.away() {
        0 => Err(DmaError::NoData),
        n if n > count => Err(DmaError::Malformed("more data than asked for")),
        _ => Ok(parsed.data),
    }
}

fn check_write(reply: &Message, address: u64, count: usize) -> Result<(), DmaError> {
    let parsed = DmaWriteReply::parse(reply.payload());
    let parsed = parsed.map_err(|_| DmaError::Malformed("cut short"))?;
    if parsed.address.is_some_and(|a| a != address) {
        return Err(DmaError::Malformed("another address"));
    }
    if parsed.count.is_some_and(|c| c != count as u64) {
        return Err(DmaError::Malformed("another count"));
    }
    Ok(())
}
