//! How a hostile client answers DMA commands.

use vfu_proto::wire::{Command, Errno, Header};

use crate::channel::Incoming;
use crate::descriptors::Descriptor;
use crate::ledger;
use crate::script::DmaAnswer;

/// The most bytes that one command gets: the largest transfer.
const MOST: u64 = 1 << 20;

/// What is sent for a command, each with the descriptors that go with it.
pub(crate) fn answer(how: DmaAnswer, command: &Incoming) -> Vec<(Vec<u8>, Option<Descriptor>)> {
    let header = command.header;
    if header.wants_no_reply() {
        return Vec::new();
    }
    let is_read = header.command == Command::DmaRead.as_u16();
    let is_dma = is_read || header.command == Command::DmaWrite.as_u16();
    let Some((address, count)) = ledger::range(&command.payload).filter(|_| is_dma) else {
        return vec![(header.error_reply(Errno::EINVAL).emit().to_vec(), None)];
    };
    let good_at = |header: Header, address: u64, claimed: u64, given: u64| {
        let mut payload = [address.to_le_bytes(), claimed.to_le_bytes()].concat();
        if is_read {
            payload.resize(payload.len() + given.min(MOST) as usize, 0);
        }
        let mut bytes = header.reply(payload.len()).emit().to_vec();
        bytes.extend(payload);
        bytes
    };
    let good = |header, claimed, given| good_at(header, address, claimed, given);
    let as_asked = good(header, count, count);
    let one = |bytes| vec![(bytes, None)];
    match how {
        DmaAnswer::Serve | DmaAnswer::Late | DmaAnswer::WrongSocket => one(as_asked),
        DmaAnswer::Refuse => one(header.error_reply(Errno::EFAULT).emit().to_vec()),
        DmaAnswer::Never => Vec::new(),
        DmaAnswer::Less => one(good(header, count / 2, count / 2)),
        DmaAnswer::More => one(good(header, count.saturating_add(8), count.saturating_add(8))),
        DmaAnswer::Bare => one(header.reply(0).emit().to_vec()),
        DmaAnswer::Lie => one(good(header, u64::MAX, count)),
        DmaAnswer::WrongAddress => one(good_at(header, !address, count, count)),
        DmaAnswer::WrongId => one(good(Header { id: !header.id, ..header }, count, count)),
        DmaAnswer::WrongCommand => one(good(Header { command: 9, ..header }, count, count)),
        DmaAnswer::Command => {
            let mut bytes = as_asked;
            // The lowest bits of the flags are the type.
            bytes.iter_mut().skip(8).take(1).for_each(|flags| *flags = 0);
            one(bytes)
        }
        DmaAnswer::Twice => vec![(as_asked.clone(), None), (as_asked, None)],
        DmaAnswer::ErrorWithData => {
            let error = header.error_reply(Errno::EIO);
            let size = as_asked.len() as u32;
            let rest = as_asked.get(16..).unwrap_or_default();
            one([&Header { size, ..error }.emit()[..], rest].concat())
        }
        DmaAnswer::BadErrno => {
            let error = header.error_reply(Errno::EIO);
            one(Header { error: 0x8000_0000, ..error }.emit().to_vec())
        }
        DmaAnswer::Single => {
            let (first, rest) = as_asked.split_at(as_asked.len().min(48));
            let mut pieces: Vec<_> = first.iter().map(|byte| (vec![*byte], None)).collect();
            pieces.push((rest.to_vec(), None));
            pieces
        }
        DmaAnswer::WithFds => vec![(as_asked, Some(Descriptor::Eventfd))],
        DmaAnswer::Half => {
            let half = as_asked.len() / 2;
            one(as_asked.into_iter().take(half).collect())
        }
    }
}
