//! F1 to F15: messages that are none, and streams that lead astray.

use std::time::Instant;

use vfu::wire::Command;
use vfu_testkit::{RawPeer, message};

use crate::specimen::WRITES;
use crate::talk::{INVALID, NO_REPLY, Peer, bytes};
use crate::{both, both_with, times};

const INFO: u16 = 4;
const READ: u16 = 9;
const WRITE: u16 = 10;
const RESET: u16 = 13;
/// Why the C interface does not hang up where a stream can't be trusted.
const GOES_ON: &str = "the C library answers EINVAL and goes on, and its test suite counts on it";

fn info() -> Vec<u8> {
    message(1, INFO, 0, &bytes!(16u32, 0u32, 0u32, 0u32))
}

fn write(id: u16, flags: u32, offset: u64, value: u32) -> Vec<u8> {
    message(id, WRITE, flags, &bytes!(offset, 0u32, 4u32, value))
}

fn with_size(mut bytes: Vec<u8>, size: u32) -> Vec<u8> {
    bytes[4..8].copy_from_slice(&size.to_le_bytes());
    bytes
}

/// EINVAL, and then the end; or an answer to the next message.
fn refused(peer: &Peer, goes_on: bool) {
    assert_eq!(peer.recv().expect("an answer").errno(), INVALID);
    if goes_on {
        peer.in_sync();
    } else {
        peer.expect_eof().expect("the end");
    }
}

#[test]
fn f01_size_below_a_header() {
    both(|scene| {
        for size in [0, 8, 15] {
            let peer = scene.begin();
            peer.send(&with_size(message(1, RESET, 0, &[]), size)).unwrap();
            refused(&peer, scene.differs(false, true, GOES_ON));
        }
    });
}

#[test]
fn f02_no_payload() {
    both(|scene| {
        let peer = scene.begin();
        for command in (0..20).filter(|command| *command != RESET) {
            assert_eq!(peer.errno(command, &[]), INVALID, "command {command}");
        }
        assert_eq!(peer.errno(RESET, &[]), None);
        peer.in_sync();
    });
}

#[test]
fn f03_size_beyond_the_limit() {
    both(|scene| {
        let before = scene.rss();
        for size in [u32::MAX, 1 << 31, (1 << 20) + 4097] {
            for body in [0, 64, 100_000] {
                let peer = scene.begin();
                let _closed = peer.send(&with_size(message(1, WRITE, 0, &vec![0; body]), size));
                let answer = peer.recv().expect("an answer");
                assert_eq!(answer.errno(), INVALID);
                // In C what follows is the body, for as long as it was said to be.
                if scene.differs(true, false, GOES_ON) {
                    peer.is_hung_up();
                }
            }
        }
        assert!(scene.rss() < before + (8 << 20), "nothing is allocated by a size that is claimed");
    });
}

#[test]
fn f04_type_that_is_none() {
    both(|scene| {
        for kind in 2..16 {
            let peer = scene.begin();
            peer.send(&message(1, INFO, kind, &bytes!(16u32, 0u32, 0u32, 0u32))).unwrap();
            if scene.differs(true, false, GOES_ON) {
                peer.is_hung_up();
            } else {
                peer.in_sync(); // left out, and not answered: it need not have been a command
            }
        }
    });
}

#[test]
fn f05_replies_to_nothing() {
    both(|scene| {
        let peer = scene.begin();
        for n in 0..60u16 {
            let flags = if n % 2 == 0 { 1 } else { 0x21 };
            peer.send(&message(n, 11, flags, &vec![0xaa; usize::from(n) * 7])).unwrap();
            if scene.differs(false, true, "the C library answers a reply with EINVAL") {
                assert_eq!(peer.recv().unwrap().errno(), INVALID);
            }
        }
        peer.in_sync();
        // Ten thousand of them end it, if nobody reads what is answered.
        let flood: Vec<u8> = (0..10_000).flat_map(|n| message(n, 11, 1, &[0; 8])).collect();
        let _closed = peer.send(&flood);
        if scene.differs(true, false, "the C interface answers each, and counts none") {
            peer.is_hung_up();
        }
    });
}

#[test]
fn f06_bits_that_mean_nothing() {
    both(|scene| {
        let peer = scene.begin();
        for bit in 5..32 {
            let mut bytes = message(7, INFO, 1 << bit, &bytes!(16u32, 0u32, 0u32, 0u32));
            bytes[12..16].copy_from_slice(&u32::to_le_bytes(22 + bit));
            peer.send(&bytes).unwrap();
            let answer = peer.recv_reply(7, Command::DeviceGetInfo).unwrap();
            assert_eq!((answer.errno(), answer.header.flags), (None, 1), "bit {bit}");
        }
        peer.in_sync();
    });
}

#[test]
fn f07_any_pieces() {
    both(|scene| {
        let peer = scene.begin();
        let messages = [info(), write(2, 0, 0, 0x1234_5678), write(3, 0, 4, 0x9abc_def0)].concat();
        let answered = |what: &str| {
            for id in 1..4 {
                let answer = peer.recv().unwrap();
                assert_eq!((answer.header.id, answer.errno()), (id, None), "{what}");
            }
            assert_eq!(peer.read_bytes(0, 0, 8).unwrap(), bytes!(0x9abc_def0_1234_5678u64));
            peer.write32(0, 0);
            peer.write32(4, 0);
        };
        peer.send_bytewise(&messages).unwrap();
        answered("bytewise");
        peer.send(&messages).unwrap();
        answered("in one piece");
        for cut in 1..messages.len() {
            peer.send_split(&messages, &[cut]).unwrap();
            answered("in two pieces");
        }
    });
}

#[test]
fn f08_silence() {
    both_with("handshake_ms=100 message_ms=100", |scene| {
        let silent = scene.connect();
        let half = scene.connect();
        half.send(&RawPeer::version(0, 0, 1, Some("{}"))[..9]).unwrap();
        // Others wait for them, but not for long: see limits.md.
        let next = scene.begin();
        silent.is_hung_up();
        half.is_hung_up();
        next.in_sync();
        next.send(&info()[..20]).unwrap();
        next.is_hung_up();
    });
}

#[test]
fn f09_the_end_at_every_byte() {
    both(|scene| {
        let commands = [
            message(1, 2, 0, &bytes!(32u32, 3u32, 0u64, 0x1000u64, 0x1000u64)),
            message(1, 3, 0, &bytes!(24u32, 0u32, 0x1000u64, 0x1000u64)),
            info(),
            message(1, 5, 0, &bytes!(32u32, 0u32, 7u32, 0u32, 0u64, 0u64)),
            message(1, 6, 0, &bytes!(16u32, 0u32, 0u32, 0u32)),
            message(1, 7, 0, &bytes!(16u32, 0u32, 0u32, 0u32)),
            message(1, 8, 0, &bytes!(20u32, 0x21u32, 2u32, 0u32, 0u32)),
            message(1, READ, 0, &bytes!(0u64, 0u32, 4u32)),
            write(1, 0, 0, 1),
            message(1, RESET, 0, &[]),
            message(1, 15, 0, &bytes!(1u64, 0u64, 0u32, 4u32, 1u64)),
            message(1, 16, 0, &bytes!(16u32, 0x1_0002u32)),
            message(1, 17, 0, &bytes!(16u32, 8u32)),
            message(1, 18, 0, &bytes!(16u32, 8u32, 0u64)),
        ];
        let writes = scene.begin().read32(WRITES);
        for command in &commands {
            for len in 0..command.len() {
                let peer = scene.begin();
                peer.send(&command[..len]).unwrap();
                peer.shutdown_write();
                peer.expect_eof().expect("no answer to half a command");
            }
        }
        assert_eq!(scene.begin().read32(WRITES), writes, "nothing was executed in part");
    });
}

#[test]
fn f10_commands_that_nobody_knows() {
    both(|scene| {
        let peer = scene.begin();
        for command in [0, 14].into_iter().chain((19..=u16::MAX).step_by(257)) {
            for payload in [0, 8, 40] {
                peer.post(command, &vec![0x55; payload]);
                assert_eq!(peer.errno(command, &vec![0x55; payload]), INVALID, "{command}");
            }
        }
        peer.in_sync();
    });
}

#[test]
fn f11_commands_of_a_server() {
    both(|scene| {
        let peer = scene.begin();
        for command in [11, 12] {
            for len in [16, 32, 4096] {
                assert_eq!(peer.errno(command, &vec![0; len]), INVALID);
            }
        }
        peer.in_sync();
    });
}

#[test]
fn f12_equal_ids() {
    both(|scene| {
        let peer = scene.begin();
        let many: Vec<u8> =
            (0..300).flat_map(|_| message(0, READ, 0, &bytes!(0u64, 0u32, 4u32))).collect();
        peer.send(&many).unwrap();
        for _ in 0..300 {
            let answer = peer.recv_reply(0, Command::RegionRead).unwrap();
            assert_eq!((answer.errno(), answer.payload.len()), (None, 20));
        }
    });
}

#[test]
fn f13_no_reply_to_anything() {
    both(|scene| {
        let peer = scene.begin();
        for command in (0..24).filter(|command| *command != 1) {
            for len in [0, 8, 16, 20, 24, 32, 48] {
                peer.post(command, &vec![0; len]);
            }
        }
        peer.in_sync(); // its answer is the next message
        drop(peer);
        let peer = scene.connect();
        let mut version = RawPeer::version(3, 0, 1, Some("{}"));
        version[8] |= NO_REPLY as u8;
        peer.send(&version).unwrap();
        peer.expect_eof().expect("nothing was agreed on");
    });
}

#[test]
fn f14_a_burst_that_wants_no_reply() {
    both(|scene| {
        let peer = scene.begin();
        let before = scene.rss();
        let count = times(20_000, 1_000_000);
        let piece: Vec<u8> = (0..1000).flat_map(|n| write(n, NO_REPLY, 8, 7)).collect();
        let writes = peer.read32(WRITES);
        for _ in 0..count / 1000 {
            peer.send(&piece).unwrap();
        }
        assert_eq!(peer.read32(WRITES).wrapping_sub(writes), count as u32, "all in order");
        assert!(scene.rss() < before + (24 << 20));
    });
}

#[test]
fn f15_an_answer_that_nobody_takes() {
    both(|scene| {
        let begun = Instant::now();
        for _ in 0..200 {
            let peer = scene.begin();
            let reads: Vec<u8> =
                (0..20).flat_map(|n| message(n, READ, 0, &bytes!(0u64, 7u32, 256u32))).collect();
            peer.send(&reads).unwrap();
            drop(peer);
        }
        scene.begin().in_sync();
        assert!(begun.elapsed() < vfu_testkit::DEADLINE);
    });
}
