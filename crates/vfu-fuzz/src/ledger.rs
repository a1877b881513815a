//! What a server has been sent, as it sees it, and what it owes.

use std::collections::{HashSet, VecDeque};

use vfu_proto::wire::{Command, HEADER_SIZE, Header, Kind as MessageKind};

use crate::asked::{Asked, asked};
use crate::channel::Incoming;
use crate::finding::{Finding, Kind};
use crate::layout;

/// A message of at most so many bytes is taken by every server known, header included.
const SURELY_TAKEN: u32 = 32 + (1 << 20);

/// A message of more bytes need not be taken, or drained, by any.
const SURELY_REFUSED: u32 = 4096 + (1 << 20);

/// The largest transfer that a client takes if it does not say otherwise.
const MAX_TRANSFER: u64 = 1 << 20;

/// The commands of one connection that are to be answered.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The beginning of a message.
    pending: Vec<u8>,
    owed: VecDeque<Owed>,
    /// Id and command of what must not be answered.
    silent: HashSet<(u16, u16)>,
    /// Id and command of what the server asked.
    server_asked: Vec<(u16, u16)>,
    maps: Vec<(u64, u64)>,
    sent_version: bool,
    accepted: bool,
    states_transfer: bool,
    has_reason: bool,
    void: bool,
}

#[derive(Debug)]
struct Owed {
    header: Header,
    asked: Asked,
    must: bool,
}

impl Ledger {
    /// Bytes that were given to the main socket.
    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        if self.void {
            return;
        }
        self.pending.extend_from_slice(bytes);
        while let Some(head) = self.pending.first_chunk::<HEADER_SIZE>() {
            let header = Header::parse(head);
            let size = header.size as usize;
            if size < HEADER_SIZE || header.size > SURELY_REFUSED {
                // What follows is not a message to anybody.
                self.void = true;
                self.has_reason = true;
                return;
            }
            if self.pending.len() < size {
                // A server may judge what it sees before the rest has come.
                let is_version = header.command == Command::Version.as_u16();
                let is_command = header.kind() == Some(MessageKind::Command);
                self.has_reason |= !is_command || self.sent_version == is_version;
                return;
            }
            let rest = self.pending.split_off(size);
            let message = std::mem::replace(&mut self.pending, rest);
            self.message(header, message.get(HEADER_SIZE..).unwrap_or_default());
        }
    }

    fn message(&mut self, header: Header, payload: &[u8]) {
        let (id, command) = (header.id, header.command);
        let is_version = command == Command::Version.as_u16();
        let asked = asked(command, payload);
        match header.kind() {
            Some(MessageKind::Command) => {
                let is_first = !std::mem::replace(&mut self.sent_version, true);
                self.has_reason |= is_first != is_version || header.size > SURELY_TAKEN;
                self.note(command, payload);
                if header.wants_no_reply() && !is_version {
                    self.silent.insert((id, command));
                } else {
                    self.has_reason |= header.wants_no_reply();
                    let must = header.size <= SURELY_TAKEN && !header.wants_no_reply();
                    self.owed.push_back(Owed { header, asked, must });
                }
            }
            Some(MessageKind::Reply) => {
                let known = self.server_asked.iter().position(|asked| *asked == (id, command));
                match known {
                    Some(at) => drop(self.server_asked.swap_remove(at)),
                    None => self.has_reason = true,
                }
            }
            None => {
                self.has_reason = true;
                self.owed.push_back(Owed { header, asked, must: false });
            }
        }
    }

    fn note(&mut self, command: u16, payload: &[u8]) {
        let u64_at = |at: usize| {
            let bytes = payload.get(at..).and_then(|rest| rest.first_chunk::<8>());
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        if command == Command::DmaMap.as_u16() {
            self.maps.push((u64_at(16), u64_at(24)));
        }
        if command == Command::Version.as_u16() {
            self.states_transfer |= payload.windows(8).any(|bytes| bytes == b"max_data");
        }
    }

    /// The server may end the session and is right.
    pub(crate) fn give_reason(&mut self) {
        self.has_reason = true;
    }

    /// Whether the server may end the session.
    pub(crate) fn has_reason(&self) -> bool {
        self.has_reason || !self.accepted
    }

    /// Whether nothing on this connection can be judged any more.
    pub(crate) fn is_void(&self) -> bool {
        self.void
    }

    /// Whether the session has begun.
    pub(crate) fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// The first command that must be answered and is not yet.
    pub(crate) fn unanswered(&self) -> Option<Header> {
        self.owed.iter().find(|owed| owed.must).map(|owed| owed.header)
    }

    /// How many bytes are missing for a message that has begun.
    pub(crate) fn missing(&self) -> usize {
        match self.pending.first_chunk::<HEADER_SIZE>() {
            Some(head) => (Header::parse(head).size as usize).saturating_sub(self.pending.len()),
            None if self.pending.is_empty() => 0,
            None => HEADER_SIZE - self.pending.len(),
        }
    }

    /// An id with which no command waits for its reply.
    pub(crate) fn free_id(&self) -> u16 {
        let used = |id: u16| {
            self.owed.iter().any(|owed| owed.header.id == id)
                || self.silent.iter().any(|(silent, _)| *silent == id)
        };
        (0xc000..=u16::MAX).find(|id| !used(*id)).unwrap_or(u16::MAX)
    }

    /// Judges a message that came on the main socket.
    pub(crate) fn received(&mut self, message: &Incoming) -> Result<(), Finding> {
        if self.void {
            return Ok(());
        }
        match message.header.kind() {
            Some(MessageKind::Reply) => self.reply(message),
            Some(MessageKind::Command) => self.command(message),
            None => {
                let text = format!("a message of type {}", message.header.flags & 0xf);
                Err(Finding::new(Kind::Malformed, None, text))
            }
        }
    }

    fn reply(&mut self, message: &Incoming) -> Result<(), Finding> {
        let header = message.header;
        let (id, command, name) = (header.id, header.command, layout::name(header.command));
        let found = |kind, text: String| Err(Finding::new(kind, Some(command), text));
        let is_it = |owed: &Owed| (owed.header.id, owed.header.command) == (id, command);
        let len = message.payload.len() as u64;
        let fits = |owed: &Owed| match owed.asked {
            Asked { possible, .. } if header.is_error() => !possible,
            Asked { least, most, possible, .. } => possible && (least..=most).contains(&len),
        };
        // Ids may be used twice. What may stay without an answer does not take that of what must
        // have one, nor does a command that the answer does not fit.
        let find = |is: &dyn Fn(&Owed) -> bool| self.owed.iter().position(|o| is_it(o) && is(o));
        let at = find(&|owed| owed.must && fits(owed));
        let at = at.or_else(|| find(&|owed| owed.must)).or_else(|| find(&|_| true));
        let Some(owed) = at.and_then(|at| self.owed.remove(at)) else {
            if self.silent.contains(&(id, command)) {
                return found(Kind::AnsweredNoReply, format!("a reply to {name} with NO_REPLY"));
            }
            // Which command it names says nothing: out of step, a server sends anything.
            let text = format!("a reply to command {name} with id {id}, which nobody sent");
            return Err(Finding::new(Kind::Unasked, None, text));
        };
        let Asked { least, most, fds, possible } = owed.asked;
        let fd_count = message.fds.len();
        if fd_count > 0 && (!fds || header.is_error()) {
            return found(
                Kind::Descriptors,
                format!("{fd_count} descriptors in a reply to {name}"),
            );
        }
        if header.is_error() {
            if header.error > 4095 {
                let error = header.error;
                return found(Kind::Malformed, format!("{name} is refused with error {error}"));
            }
            if len > 0 {
                let text = format!("{name} is refused with {}, and {len} bytes", header.errno());
                return found(Kind::ErrorPayload, text);
            }
            return Ok(());
        }
        self.accepted |= command == Command::Version.as_u16();
        if !possible {
            let text = format!("{name} succeeds with what can't be one ({len} bytes in the reply)");
            found(Kind::Accepted, text)
        } else if len < least {
            found(
                Kind::TooShort,
                format!("{len} bytes in a reply to {name}, at least {least} asked"),
            )
        } else if len > most {
            found(Kind::TooLong, format!("{len} bytes in a reply to {name}, at most {most} asked"))
        } else {
            Ok(())
        }
    }

    /// Judges a command of the server, on either socket.
    pub(crate) fn command(&mut self, message: &Incoming) -> Result<(), Finding> {
        let command = message.header.command;
        let name = layout::name(command);
        let found = |kind, text: String| Err(Finding::new(kind, Some(command), text));
        if !matches!(Command::from_u16(command), Some(Command::DmaRead | Command::DmaWrite)) {
            return found(Kind::Unasked, format!("the server sends a command {name}"));
        }
        if !self.accepted {
            return found(Kind::Unasked, format!("{name} before the answer to VERSION"));
        }
        if !message.fds.is_empty() {
            return found(Kind::Descriptors, format!("{name} with descriptors"));
        }
        let Some((address, count)) = range(&message.payload) else {
            return found(Kind::Malformed, format!("{name} without address and count"));
        };
        if !message.header.wants_no_reply() {
            self.server_asked.push((message.header.id, command));
        }
        if count == 0 {
            return found(Kind::Dma, format!("{name} of 0 bytes"));
        }
        if count > MAX_TRANSFER && !self.states_transfer {
            return found(Kind::Dma, format!("{name} of {count} bytes, at most {MAX_TRANSFER}"));
        }
        if !self.covers(address, count) {
            let text = format!("{name} of {count} bytes at {address:#x}, which was never mapped");
            return found(Kind::Dma, text);
        }
        Ok(())
    }

    /// Whether all of a range was mapped at some time.
    fn covers(&self, address: u64, count: u64) -> bool {
        let end = u128::from(address) + u128::from(count);
        let mut at = u128::from(address);
        while at < end {
            let ends = self.maps.iter().map(|(start, size)| {
                let (start, size) = (u128::from(*start), u128::from(*size));
                if (start..start + size).contains(&at) { start + size } else { 0 }
            });
            match ends.max() {
                Some(next) if next > at => at = next,
                _ => return false,
            }
        }
        true
    }
}

/// Address and count of a DMA command.
pub(crate) fn range(payload: &[u8]) -> Option<(u64, u64)> {
    let (address, rest) = payload.split_first_chunk::<8>()?;
    let count = rest.first_chunk::<8>()?;
    Some((u64::from_le_bytes(*address), u64::from_le_bytes(*count)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Message;

    fn begun() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.sent(&Message::new(Command::Version, 0, &[0, 1]).bytes());
        ledger.received(&reply(Command::Version, 0, 4)).unwrap();
        assert!(!ledger.has_reason());
        ledger
    }

    fn reply(command: Command, id: u16, len: usize) -> Incoming {
        let header = Header::command(id, command, 0).reply(len);
        Incoming { header, payload: vec![0; len], fds: Vec::new() }
    }

    fn kind(result: Result<(), Finding>) -> Kind {
        result.unwrap_err().kind
    }

    #[test]
    fn replies_are_compared_with_what_was_sent() {
        let mut ledger = begun();
        let read = Message::new(Command::RegionRead, 5, &[0, 7, 4]);
        ledger.sent(&read.bytes());
        assert_eq!(kind(ledger.received(&reply(Command::RegionRead, 6, 20))), Kind::Unasked);
        assert_eq!(kind(ledger.received(&reply(Command::RegionWrite, 5, 20))), Kind::Unasked);
        assert_eq!(ledger.unanswered().unwrap().id, 5);
        assert_eq!(kind(ledger.received(&reply(Command::RegionRead, 5, 21))), Kind::TooLong);
        assert!(ledger.unanswered().is_none());
        ledger.sent(&read.bytes());
        assert_eq!(kind(ledger.received(&reply(Command::RegionRead, 5, 19))), Kind::TooShort);
        ledger.sent(&Message { cut: Some(15), ..read.clone() }.bytes());
        assert_eq!(kind(ledger.received(&reply(Command::RegionRead, 5, 20))), Kind::Accepted);
        ledger.sent(&Message { flags: 0x10, ..read }.bytes());
        assert!(ledger.unanswered().is_none());
        assert_eq!(
            kind(ledger.received(&reply(Command::RegionRead, 5, 20))),
            Kind::AnsweredNoReply
        );
        assert!(!ledger.has_reason(), "none of it was a reason to close");
    }

    #[test]
    fn what_need_not_be_answered_takes_no_answer_from_what_must() {
        let mut ledger = begun();
        let reset = Message::new(Command::DeviceReset, 4, &[]);
        ledger.sent(&Message { flags: 9, ..reset.clone() }.bytes());
        ledger.sent(&reset.bytes());
        ledger.received(&reply(Command::DeviceReset, 4, 0)).unwrap();
        assert_eq!(ledger.unanswered(), None);
        ledger.received(&reply(Command::DeviceReset, 4, 0)).unwrap();
        assert_eq!(kind(ledger.received(&reply(Command::DeviceReset, 4, 0))), Kind::Unasked);
    }

    #[test]
    fn a_reply_belongs_to_the_command_that_it_fits() {
        let mut ledger = begun();
        let write = Message::new(Command::RegionWrite, 5, &[0, 7, 4]);
        ledger.sent(&write.bytes());
        ledger.sent(&Message { cut: Some(15), ..write }.bytes());
        // What is refused at once overtakes what takes long, and has the same id.
        let Incoming { header, .. } = reply(Command::RegionWrite, 5, 0);
        let refused = header.error_reply(vfu_proto::wire::Errno::EINVAL);
        let refused = Incoming { header: refused, payload: Vec::new(), fds: Vec::new() };
        ledger.received(&refused).unwrap();
        ledger.received(&reply(Command::RegionWrite, 5, 16)).unwrap();
        assert_eq!(ledger.unanswered(), None);
    }

    #[test]
    fn the_stream_is_cut_as_the_server_sees_it() {
        let mut ledger = begun();
        let reset = Message::new(Command::DeviceReset, 1, &[]);
        ledger.sent(&Message { size: Some(48), ..reset.clone() }.bytes());
        assert_eq!((ledger.unanswered(), ledger.missing()), (None, 32));
        ledger.sent(&reset.bytes());
        ledger.sent(&reset.bytes());
        assert_eq!(ledger.owed.len(), 1, "the other two were its payload");
        assert_eq!(ledger.missing(), 0);
        ledger.sent(&Message { size: Some(8), ..reset }.bytes());
        assert!(ledger.is_void() && ledger.has_reason());
    }

    #[test]
    fn dma_is_only_for_what_was_mapped() {
        let mut ledger = begun();
        ledger.sent(&Message::new(Command::DmaMap, 1, &[32, 3, 0, 0x1000, 0x1000]).bytes());
        ledger.sent(&Message::new(Command::DmaMap, 1, &[32, 3, 0, 0x2000, 0x1000]).bytes());
        let mut dma = |address: u64, count: u64| {
            let payload = [address.to_le_bytes(), count.to_le_bytes()].concat();
            let header = Header::command(9, Command::DmaRead, 16);
            ledger.received(&Incoming { header, payload, fds: Vec::new() })
        };
        dma(0x1ff0, 0x20).unwrap();
        assert_eq!(kind(dma(0x2ff0, 0x20)), Kind::Dma);
        assert_eq!(kind(dma(0x1000, 0)), Kind::Dma);
        assert_eq!(kind(dma(u64::MAX, 2)), Kind::Dma);
    }
}
