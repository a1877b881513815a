//! DMA by messages: DMA_READ and DMA_WRITE, in pieces that the peer can take.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::atomic::AtomicBool;

use vfu_proto::session::Ticket;
use vfu_proto::wire::{Command, DmaReadReply, DmaReadRequest, DmaWriteReply, DmaWriteRequest};

use super::DmaError;
use crate::link::{About, Message, with_scratch};
use crate::shared::Live;

/// One transfer: who to ask, about which mapping.
pub(super) struct Transfer<'a> {
    pub(super) live: &'a Live,
    /// Set when the mapping has gone; no further piece is sent then.
    pub(super) retired: &'a AtomicBool,
    /// First address, in bytes.
    pub(super) address: u64,
}

/// The pieces of a transfer that are under way, oldest first. One alone allocates nothing.
#[derive(Default)]
struct UnderWay {
    oldest: Option<Piece>,
    more: VecDeque<Piece>,
}

type Piece = (Ticket, Range<usize>);

impl UnderWay {
    fn is_empty(&self) -> bool {
        self.oldest.is_none()
    }

    fn push(&mut self, piece: Piece) {
        match self.oldest {
            None => self.oldest = Some(piece),
            Some(_) => self.more.push_back(piece),
        }
    }

    fn pop(&mut self) -> Option<Piece> {
        let next = self.more.pop_front();
        std::mem::replace(&mut self.oldest, next)
    }
}

impl Transfer<'_> {
    /// Reads `to.len()` bytes.
    pub(super) fn read(&self, to: &mut [u8]) -> Result<(), DmaError> {
        let piece = self.live.read_piece();
        self.pipeline(to.len(), piece, self.live.read_window(), |step| match step {
            Step::Send(range) => self.ask(range),
            Step::Finish(range, reply) => {
                let data = check_read(&reply, self.at(range.start), range.len())?;
                let got = data.len();
                to[range.start..][..got].copy_from_slice(data);
                self.live.link.recycle(Some(reply));
                self.read_rest(range.start + got..range.end, to)?;
                Ok(None)
            }
        })
    }

    /// The peer gave less than asked for: asks for the rest, until there is none.
    fn read_rest(&self, mut range: Range<usize>, to: &mut [u8]) -> Result<(), DmaError> {
        while !range.is_empty() {
            let ticket = self.ask(range.clone())?;
            let Some(ticket) = ticket else { break };
            let reply = self.live.link.outcome(ticket)?;
            let data = check_read(&reply, self.at(range.start), range.len())?;
            to[range.start..][..data.len()].copy_from_slice(data);
            range.start += data.len();
            self.live.link.recycle(Some(reply));
        }
        Ok(())
    }

    fn ask(&self, range: Range<usize>) -> Result<Option<Ticket>, DmaError> {
        let request = DmaReadRequest { address: self.at(range.start), count: range.len() as u64 };
        with_scratch(|payload| {
            request.emit(payload);
            self.send(Command::DmaRead, range, &[IoSlice::new(payload)])
        })
    }

    /// Writes `from`.
    pub(super) fn write(&self, from: &[u8]) -> Result<(), DmaError> {
        let piece = self.live.write_piece();
        self.pipeline(from.len(), piece, self.live.write_window(), |step| match step {
            Step::Send(range) => {
                let (at, data) = (self.at(range.start), &from[range.clone()]);
                with_scratch(|head| {
                    DmaWriteRequest::emit_head(at, data.len() as u64, head);
                    let payload = [IoSlice::new(head), IoSlice::new(data)];
                    self.send(Command::DmaWrite, range, &payload)
                })
            }
            Step::Finish(range, reply) => {
                check_write(&reply, self.at(range.start), range.len())?;
                self.live.link.recycle(Some(reply));
                Ok(None)
            }
        })
    }

    fn send(
        &self,
        command: Command,
        range: Range<usize>,
        payload: &[IoSlice<'_>],
    ) -> Result<Option<Ticket>, DmaError> {
        let about = About {
            range: Some((self.at(range.start), range.len() as u64)),
            retired: Some(self.retired),
            ..About::default()
        };
        Ok(Some(self.live.link.request(command, payload, &[], about)?))
    }

    fn at(&self, offset: usize) -> u64 {
        self.address.wrapping_add(offset as u64)
    }

    /// Moves `len` bytes in pieces, with at most `window` bytes under way: the peer's latency is
    /// paid once for a window, not once for a piece.
    fn pipeline(
        &self,
        len: usize,
        piece: usize,
        window: usize,
        mut step: impl FnMut(Step) -> Result<Option<Ticket>, DmaError>,
    ) -> Result<(), DmaError> {
        let mut under_way = UnderWay::default();
        let result = self.pump(len, piece, window, &mut under_way, &mut step);
        while let Some((ticket, _)) = under_way.pop() {
            self.live.link.forget(ticket);
        }
        result
    }

    fn pump(
        &self,
        len: usize,
        piece: usize,
        window: usize,
        under_way: &mut UnderWay,
        step: &mut impl FnMut(Step) -> Result<Option<Ticket>, DmaError>,
    ) -> Result<(), DmaError> {
        let (mut sent, mut done) = (0, 0);
        while done < len {
            while sent < len && (under_way.is_empty() || sent - done + piece <= window) {
                let range = sent..len.min(sent + piece);
                sent = range.end;
                if let Some(ticket) = step(Step::Send(range.clone()))? {
                    under_way.push((ticket, range));
                }
            }
            let Some((ticket, range)) = under_way.pop() else { break };
            done = range.end;
            let reply = self.live.link.outcome(ticket)?;
            step(Step::Finish(range, reply))?;
        }
        Ok(())
    }
}

enum Step {
    /// Send the request for this piece; gives its ticket.
    Send(Range<usize>),
    /// The reply to this piece is here.
    Finish(Range<usize>, Message),
}

/// The data of a reply to `count` bytes at `address`; at least one byte, at most `count`.
fn check_read(reply: &Message, address: u64, count: usize) -> Result<&[u8], DmaError> {
    if reply.header().is_error() {
        return Err(DmaError::Refused(reply.header().errno()));
    }
    let parsed = DmaReadReply::parse(reply.payload());
    let parsed = parsed.map_err(|_| DmaError::Malformed("its count and its data differ"))?;
    if parsed.address != address {
        return Err(DmaError::Malformed("another address"));
    }
    match parsed.data.len() {
        0 => Err(DmaError::Malformed("no data")),
        n if n > count => Err(DmaError::Malformed("more data than asked for")),
        _ => Ok(parsed.data),
    }
}

fn check_write(reply: &Message, address: u64, count: usize) -> Result<(), DmaError> {
    if reply.header().is_error() {
        return Err(DmaError::Refused(reply.header().errno()));
    }
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
