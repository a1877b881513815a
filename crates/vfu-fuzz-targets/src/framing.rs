//! A stream in any pieces, with descriptors anywhere, against one that is read at leisure.

use std::collections::VecDeque;

use vfu_proto::session::{FrameError, Framer, MAX_FDS};
use vfu_proto::wire::{HEADER_SIZE, Header};

use crate::script::Script;

pub(crate) const ABOUT: &str = "a stream of bytes and descriptors, in any pieces";

/// What was sent, and what of it has come out.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    /// How much of it has been received.
    received: usize,
    /// Where the next message begins.
    at: usize,
    /// Descriptors, each with the position behind the byte that brought it.
    fds: VecDeque<(usize, u32)>,
    last_fd: u32,
}

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let limit = script.pick(&[16, 17, 64, 4096, 4160, 4161, 70_000, 300_000]);
    let mut framer = Framer::new(limit);
    let mut stream = Stream::default();
    while !script.is_empty() && stream.bytes.len() < 1 << 20 {
        crate::steps::add(1);
        match script.below(8) {
            0..4 => stream.send(&mut script, limit),
            4 => stream.bytes.extend_from_slice(script.bytes(24)),
            _ => {}
        }
        let len = match script.below(4) {
            0 => script.below(40),
            1 => usize::from(script.u16()),
            _ => usize::MAX,
        };
        stream.receive(&mut framer, len, if script.one_in(3) { script.below(5) } else { 0 });
        if stream.pop(&mut framer, limit).is_err() {
            return;
        }
    }
    while stream.received < stream.bytes.len() {
        stream.receive(&mut framer, usize::MAX, 0);
        if stream.pop(&mut framer, limit).is_err() {
            return;
        }
    }
    assert_eq!(framer.is_mid_message(), stream.at < stream.bytes.len());
}

impl Stream {
    /// One more message, of a size that is mostly allowed.
    fn send(&mut self, script: &mut Script<'_>, limit: usize) {
        let size = match script.below(8) {
            0 => script.u32() as usize,
            1 => limit + script.below(3),
            2 => limit - script.below(3),
            3 => script.u16().into(),
            _ => HEADER_SIZE + script.below(64),
        };
        let (id, command) = (script.u16(), script.u16());
        let flags = if script.one_in(20) { script.u32() } else { script.pick(&[0, 1, 0x10, 0x21]) };
        let header = Header { id, command, size: size as u32, flags, error: 0 };
        self.bytes.extend_from_slice(&header.emit());
        let payload = size.saturating_sub(HEADER_SIZE).min(limit);
        self.bytes.extend((0..payload).map(|i| (i % 251) as u8));
    }

    fn receive(&mut self, framer: &mut Framer<u32>, len: usize, fds: usize) {
        let space = framer.space();
        assert!(!space.is_empty(), "who can't receive waits for ever");
        let len = len.min(space.len()).min(self.bytes.len() - self.received);
        if len == 0 {
            return; // that would be the end of the stream
        }
        space[..len].copy_from_slice(&self.bytes[self.received..self.received + len]);
        self.received += len;
        // No more than are certainly kept.
        let fds = if self.fds.len() + fds <= MAX_FDS { fds } else { 0 };
        let new = self.last_fd + 1..=self.last_fd + fds as u32;
        self.last_fd += fds as u32;
        self.fds.extend(new.clone().map(|fd| (self.received, fd)));
        framer.received(len, new);
    }

    /// Takes every message that is there; an error ends the stream.
    fn pop(&mut self, framer: &mut Framer<u32>, limit: usize) -> Result<(), ()> {
        loop {
            let here = &self.bytes[self.at..self.received];
            let header = here.first_chunk::<HEADER_SIZE>().map(Header::parse);
            let got = framer.pop();
            let Some(header) = header else {
                assert_eq!(got.map(|message| message.is_some()), Ok(false));
                assert_eq!(framer.missing(), HEADER_SIZE - here.len());
                return Ok(());
            };
            let size = header.size as usize;
            let message = match got {
                Err(e) => {
                    let expected = if size < HEADER_SIZE {
                        FrameError::TooSmall(header)
                    } else if size > limit {
                        FrameError::TooLarge { header, limit }
                    } else {
                        assert!(header.kind().is_none());
                        FrameError::BadType(header)
                    };
                    assert_eq!(e, expected);
                    assert_eq!(framer.pop().map(drop), Err(e), "it stays broken");
                    return Err(());
                }
                Ok(None) => {
                    assert!(here.len() < size, "a whole message is not given");
                    assert_eq!(framer.missing(), size - here.len());
                    return Ok(());
                }
                Ok(Some(message)) => message,
            };
            assert!((HEADER_SIZE..=limit).contains(&size) && header.kind().is_some());
            assert_eq!((message.header(), message.len()), (&header, size));
            assert_eq!(message.payload(), &here[HEADER_SIZE..size]);
            self.at += size;
            let mut fds = Vec::new();
            while self.fds.front().is_some_and(|(end, _)| *end <= self.at) {
                fds.extend(self.fds.pop_front().map(|(_, fd)| fd));
            }
            assert_eq!(message.fds(), fds);
            framer.recycle(message);
        }
    }
}
