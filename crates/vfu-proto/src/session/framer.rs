//! From a stream of bytes to messages.

use std::collections::VecDeque;

use crate::wire::{Errno, HEADER_SIZE, Header, Kind};

use super::{Message, Sink};

/// The most file descriptors that one message may carry: the kernel's own limit for one `sendmsg`.
pub const MAX_FDS: usize = 253;

/// Room for small messages: up to a page of data with its headers comes with one receive. Larger
/// ones get a buffer of their own.
const BUFFER: usize = 4096 + 64;
/// Room while the peer sends more at once than fits: it grows up to this, for fewer receives.
const FULL_BUFFER: usize = 64 << 10;
/// So many receives in a row that need no more than [`BUFFER`], and the room is small again.
const QUIET: u32 = 256;
/// First size of the buffer of a large message; it grows as bytes come, not as the peer claims.
const LARGE_STEP: usize = 64 << 10;
/// Buffers kept for later messages: as many as there can be accesses in `BUFFER`.
const SPARE_SMALL: usize = 128;

/// Why a stream can't be trusted any more. The session has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header claims less than its own 16 bytes.
    #[error("message {0:?} claims a size below that of its header")]
    TooSmall(Header),
    /// The header claims more than the limit.
    #[error("message {header:?} is larger than the {limit} bytes allowed")]
    TooLarge {
        /// The header that says so.
        header: Header,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Neither a command nor a reply.
    #[error("message {0:?} is neither a command nor a reply")]
    BadType(Header),
    /// The system has no memory for it.
    #[error("there is no memory for message {0:?}")]
    NoMemory(Header),
}

impl FrameError {
    /// The header that broke the stream.
    pub fn header(&self) -> &Header {
        match self {
            FrameError::TooSmall(h) | FrameError::BadType(h) | FrameError::NoMemory(h) => h,
            FrameError::TooLarge { header, .. } => header,
        }
    }
}

/// Makes messages from a stream that arrives in any pieces.
///
/// The caller receives into [`space`](Self::space), tells how much came with
/// [`received`](Self::received) and takes messages with [`pop`](Self::pop) until there is none.
///
/// Descriptors belong to the message that holds the last byte of the `recvmsg` that brought them:
/// the kernel ends a `recvmsg` with the write that carried descriptors, so that byte lies in the
/// message they were sent with, wherever in it they were attached.
#[derive(Debug)]
pub struct Framer<F> {
    limit: usize,
    /// Bytes not yet framed: `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How long `buffer` shall be when it is empty next.
    room: usize,
    /// Receives in a row that would have fitted into a small buffer.
    quiet: u32,
    /// The message at the head of the stream, if it is too large for `buffer`.
    large: Option<Large<F>>,
    /// Where in the stream the next message begins, in bytes since the stream did.
    position: u64,
    /// Bytes still to come of a message that is left out.
    skip: usize,
    /// Descriptors, each batch with the stream position at which it ended.
    batches: VecDeque<(u64, Vec<F>)>,
    spare_small: Vec<Message<F>>,
    spare_large: Option<Message<F>>,
    /// A message that is done with, and becomes the next one that comes alone: it then gets `buffer` as
    /// it is, and no byte is copied. Often it brings that back before more is received; else `buffer` is
    /// now what it had before.
    lone: Option<Message<F>>,
}

/// A message that is received into its own buffer.
#[derive(Debug)]
struct Large<F> {
    message: Message<F>,
    filled: usize,
    /// From here on its bytes went to a sink.
    away: Option<usize>,
}

impl<F> Framer<F> {
    /// A framer for messages of up to `limit` bytes, header included.
    pub fn new(limit: usize) -> Self {
        Framer {
            limit,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            room: BUFFER,
            quiet: 0,
            large: None,
            position: 0,
            skip: 0,
            batches: VecDeque::new(),
            spare_small: Vec::new(),
            spare_large: None,
            lone: None,
        }
    }

    /// Where the next bytes go. Never empty; what is in it means nothing.
    #[inline]
    pub fn space(&mut self) -> &mut [u8] {
        if let Some(Large { message, filled, .. }) = &mut self.large {
            let (size, bytes) = (message.len(), message.buffer());
            // `pop` has made room already, if it was asked: it can say that there is none.
            if *filled == bytes.len() {
                let grown = bytes.len().saturating_mul(2).max(LARGE_STEP).min(size);
                bytes.resize(grown, 0);
            }
            let end = bytes.len().min(size);
            return &mut bytes[*filled..end];
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() != self.room {
                self.buffer.resize(self.room, 0);
                self.buffer.shrink_to(self.room);
            }
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// Where the next bytes go if they are data of the reply that `sink` is for. `None`: they are not,
    /// and go to [`space`](Self::space).
    ///
    /// Who is through with the sink, be the message whole or not, calls [`settle`](Self::settle).
    pub fn space_in<'s>(&mut self, sink: &'s mut Sink<'_>) -> Option<&'s mut [u8]> {
        let Large { message, filled, away } = self.large.as_mut()?;
        if *filled == message.len() || !sink.is_for(message.header()) {
            return None;
        }
        let space = sink.place(*filled, message.len())?;
        away.get_or_insert(*filled);
        Some(space)
    }

    /// Says that nothing goes to `sink` any more. What went there of a message that is not whole is
    /// copied: its rest may come by other ways.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn settle(&mut self, sink: &mut Sink<'_>) -> Result<(), FrameError> {
        let Some(Large { message, filled, away }) = &mut self.large else { return Ok(()) };
        let Some(from) = away.take_if(|_| *filled < message.len()) else { return Ok(()) };
        let (header, bytes) = (*message.header(), message.buffer());
        if let Some(data) = sink.place(from, *filled) {
            grow(bytes, *filled, header)?;
            bytes[from..*filled].copy_from_slice(data);
        }
        Ok(())
    }

    /// Tells that `n` bytes were received into [`space`](Self::space), or
    /// [`space_in`](Self::space_in) a sink, and `fds` with them.
    ///
    /// Descriptors beyond [`MAX_FDS`] for one message are dropped.
    #[inline]
    pub fn received(&mut self, n: usize, fds: impl IntoIterator<Item = F>) {
        match &mut self.large {
            Some(Large { message, filled, away }) => {
                let room = if away.is_some() { message.len() } else { message.buffer().len() };
                *filled = (*filled + n).min(room);
            }
            None => {
                self.end = (self.end + n).min(self.buffer.len());
                self.judge(n);
                if self.skip > 0 {
                    self.skip_here();
                }
            }
        }
        let mut fds = fds.into_iter().peekable();
        if fds.peek().is_some() {
            let held: usize = self.batches.iter().map(|(_, fds)| fds.len()).sum();
            let kept = fds.take(MAX_FDS.saturating_sub(held)).collect();
            self.batches.push_back((self.position + self.pending() as u64, kept));
            if self.pending() == 0 {
                self.take_fds(&mut Vec::new()); // of the message that is left out
            }
        }
    }

    /// Looks at how much came at once, and how much room that needs.
    #[inline]
    fn judge(&mut self, n: usize) {
        // A large message gets a buffer of its own: more room here would be one more copy of it.
        let full = self.end == self.buffer.len() && self.room < FULL_BUFFER;
        if full && self.peek_header().is_none_or(|head| head.size as usize <= self.buffer.len()) {
            self.room = (self.room * 4).min(FULL_BUFFER);
        }
        self.quiet = if n > BUFFER / 2 { 0 } else { self.quiet.saturating_add(1) };
        if self.quiet > QUIET {
            self.room = BUFFER;
        }
    }

    /// The next whole message, or `None` until more bytes come.
    ///
    /// # Errors
    /// The stream is broken; every later call says so again.
    pub fn pop(&mut self) -> Result<Option<Message<F>>, FrameError> {
        if let Some(message) = self.pop_lone() {
            return Ok(Some(message));
        }
        let whole = if self.large.is_some() { self.take_large()? } else { self.take_small()? };
        let Some(mut message) = whole else { return Ok(None) };
        self.position += message.len() as u64;
        if !self.batches.is_empty() {
            self.take_fds(message.fds_mut());
        }
        Ok(Some(message))
    }

    /// The next message if it is small, has come alone and brings no descriptors, as nearly all do: by
    /// the shortest way. `None`: [`pop`](Self::pop) knows.
    #[inline]
    pub fn pop_lone(&mut self) -> Option<Message<F>> {
        let header = Header::parse(self.buffer.get(..self.end)?.first_chunk()?);
        let size = header.size as usize;
        let is_whole = self.start == 0 && size == self.end && self.buffer.len() == BUFFER;
        if !is_whole || size > self.limit || header.kind().is_none() || !self.batches.is_empty() {
            return None;
        }
        let mut message = Message::reuse(Some(self.lone.take()?), header, size);
        std::mem::swap(&mut self.buffer, message.buffer());
        self.end = 0;
        self.position += size as u64;
        Some(message)
    }

    /// How many bytes are missing of the header, or of the rest of the message, at the head of the
    /// stream: who receives no more than that reads nothing ahead. Never 0 unless the message is whole.
    pub fn missing(&self) -> usize {
        let whole = match (&self.large, self.peek_header()) {
            (Some(large), _) => large.message.len(),
            (None, Some(header)) => header.size as usize,
            (None, None) => HEADER_SIZE,
        };
        whole.saturating_sub(self.pending())
    }

    /// Leaves out the message that [`pop`](Self::pop) refused, as long as it claims to be, at least
    /// its header. What of it has not come yet is dropped when it comes; nobody waits for that.
    pub fn skip_refused(&mut self) {
        if let Some(large) = self.large.take() {
            self.position += large.filled as u64;
            self.skip = large.message.len() - large.filled;
            self.take_fds(&mut Vec::new());
        } else if let Some(header) = self.peek_header() {
            self.skip = HEADER_SIZE.max(header.size as usize);
            self.skip_here();
            self.take_fds(&mut Vec::new());
        }
    }

    /// Drops what is here of a message that is left out.
    #[inline]
    fn skip_here(&mut self) {
        let here = self.skip.min(self.end - self.start);
        self.start += here;
        self.position += here as u64;
        self.skip -= here;
    }

    /// Whether a message has begun and not ended.
    #[inline]
    pub fn is_mid_message(&self) -> bool {
        self.pending() > 0 || self.skip > 0
    }

    /// Takes a message that is done with, and whose buffer a later one can have. What it still has of
    /// descriptors is dropped.
    #[inline]
    pub fn recycle(&mut self, mut message: Message<F>) {
        message.fds_mut().clear();
        let len = message.buffer().len();
        if len <= BUFFER && self.lone.is_none() {
            if self.buffer.is_empty() {
                std::mem::swap(&mut self.buffer, message.buffer());
            }
            self.lone = Some(message);
        } else if len > BUFFER {
            if self.spare_large.as_mut().is_none_or(|spare| spare.buffer().len() < len) {
                self.spare_large = Some(message);
            }
        } else if self.spare_small.len() < SPARE_SMALL {
            self.spare_small.push(message);
        }
    }

    /// Bytes received that belong to messages not yet popped.
    #[inline]
    fn pending(&self) -> usize {
        self.large.as_ref().map_or(self.end - self.start, |large| large.filled)
    }

    /// The header at the head of the buffer, once it is whole.
    #[inline]
    fn peek_header(&self) -> Option<Header> {
        let head = self.buffer.get(self.start..self.end)?.first_chunk::<HEADER_SIZE>()?;
        Some(Header::parse(head))
    }

    /// The message at the head of the buffer, if it is whole. A large one is begun.
    #[inline]
    fn take_small(&mut self) -> Result<Option<Message<F>>, FrameError> {
        let Some(header) = self.peek_header() else { return Ok(None) };
        let size = header.size as usize;
        if size < HEADER_SIZE {
            return Err(FrameError::TooSmall(header));
        }
        if size > self.limit {
            return Err(FrameError::TooLarge { header, limit: self.limit });
        }
        if header.kind().is_none() {
            return Err(FrameError::BadType(header));
        }
        if size > self.buffer.len() {
            self.begin_large(header, size)?;
            return Ok(None);
        }
        let Some(bytes) = self.buffer[self.start..self.end].get(..size) else { return Ok(None) };
        let spare = if size > BUFFER { self.spare_large.take() } else { self.spare_small.pop() };
        let mut message = Message::reuse(spare, header, size);
        match message.buffer().get_mut(..size) {
            Some(room) => room.copy_from_slice(bytes),
            None => {
                message.buffer().clear();
                message.buffer().extend_from_slice(bytes);
            }
        }
        self.start += size;
        Ok(Some(message))
    }

    /// Moves what is there of a large message to a buffer of its own, where the rest will go.
    #[inline(never)]
    fn begin_large(&mut self, header: Header, size: usize) -> Result<(), FrameError> {
        let here = &self.buffer[self.start..self.end];
        let mut message = Message::reuse(self.spare_large.take(), header, size);
        let (bytes, filled) = (message.buffer(), here.len());
        let room = filled.max(LARGE_STEP.min(size));
        grow(bytes, room, header)?;
        bytes[..filled].copy_from_slice(here);
        (self.start, self.end) = (0, 0);
        self.large = Some(Large { message, filled, away: None });
        Ok(())
    }

    /// The large message, if it is whole; else there is room for more of it.
    #[inline(never)]
    fn take_large(&mut self) -> Result<Option<Message<F>>, FrameError> {
        if let Some(Large { message, filled, .. }) = &mut self.large {
            let (size, header) = (message.len(), *message.header());
            let bytes = message.buffer();
            if *filled < size && *filled == bytes.len() {
                let grown = bytes.len().saturating_mul(2).max(LARGE_STEP).min(size);
                grow(bytes, grown, header)?;
            }
        }
        let whole = self.large.take_if(|large| large.filled >= large.message.len());
        Ok(whole.map(|Large { mut message, away, .. }| {
            message.set_away(away.map_or(0, |from| message.len() - from));
            message
        }))
    }

    /// The descriptors of the message that just ended at `self.position`.
    #[inline(never)]
    fn take_fds(&mut self, into: &mut Vec<F>) {
        while let Some((end, batch)) = self.batches.front_mut() {
            if *end > self.position {
                break;
            }
            into.append(batch);
            self.batches.pop_front();
        }
    }
}

/// Makes a buffer so long, if it is shorter, for the message with this header.
fn grow(bytes: &mut Vec<u8>, len: usize, header: Header) -> Result<(), FrameError> {
    let more = len.saturating_sub(bytes.len());
    bytes.try_reserve_exact(more).map_err(|_| FrameError::NoMemory(header))?;
    bytes.resize(bytes.len() + more, 0);
    Ok(())
}

impl FrameError {
    /// What an error reply says.
    pub fn errno(&self) -> Errno {
        match self {
            FrameError::NoMemory(_) => Errno::ENOMEM,
            _ => Errno::EINVAL,
        }
    }

    /// Whether an error reply makes sense before the session ends: only to a command that wants one.
    pub fn wants_reply(&self) -> bool {
        let header = self.header();
        header.kind() == Some(Kind::Command) && !header.wants_no_reply()
    }
}
