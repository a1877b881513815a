//! Everything that a client can make us hold, up to its limit. The defaults stand in limits.md, one row for
//! each test here.
//!
//! Limits that a session's engine keeps by itself (requests in flight, replies still owed, replies to
//! nothing) also have their tests beside it: `vfu/tests/crossing_limits.rs`, `crossing_reset.rs`.

use std::os::fd::AsFd;

use rustix::net::{SendFlags, send};
use vfu::wire::Errno;
use vfu_testkit::{RawPeer, SharedRam, message};

use crate::specimen::READ;
use crate::talk::{INVALID, borrowed, bytes, eventfds};
use crate::{both, both_with};

const BASE: u64 = 0x10_0000;

fn config_read(id: u16) -> Vec<u8> {
    message(id, 9, 0, &bytes!(0u64, 7u32, 4096u32))
}

#[test]
fn budget_maps() {
    both_with("maps=3", |scene| {
        let peer = scene.begin();
        for n in 0..4 {
            let full = (n == 3).then_some(Errno::EINVAL);
            assert_eq!(peer.map(BASE + 0x1000 * n, 0x1000, 3, None), full);
        }
        assert_eq!(peer.unmap(BASE, 0x1000), None);
        assert_eq!(peer.map(BASE + 0x8000, 0x1000, 3, None), None, "there is room again");
    });
}

/// What is mapped costs addresses, of which a process has 128 TiB.
#[test]
fn budget_bytes_mapped() {
    both(|scene| {
        let peer = scene.begin();
        let large = || SharedRam::new(0, 8 << 40).unwrap();
        let small = SharedRam::new(0, 0x1000).unwrap();
        let (one, other) = (large(), large());
        assert_eq!(peer.map(0, 8 << 40, 3, Some(&one)), None);
        assert_eq!(peer.map(1 << 44, 8 << 40, 3, Some(&other)), None, "up to the limit");
        assert_eq!(peer.map(1 << 45, 0x1000, 3, Some(&small)), Some(Errno::ENOSPC));
        assert_eq!(peer.map(1 << 45, 0x1000, 3, None), None, "that takes none");
        assert_eq!(peer.map(0, 8 << 40, 3, Some(&one)), None, "the same again is no more");
        assert_eq!(peer.unmap(0, 8 << 40), None);
        assert_eq!(peer.map(1 << 46, 0x1000, 3, Some(&small)), None, "there is room again");
    });
    both_with("map_bytes=65536", |scene| {
        let peer = scene.begin();
        let files: Vec<_> = (0..3).map(|_| SharedRam::new(0, 0x10_0000).unwrap()).collect();
        let set = scene.differs(Some(Errno::ENOSPC), None, "a C program can't set it");
        assert_eq!(peer.map(BASE, 0x8000, 3, Some(&files[0])), None);
        assert_eq!(peer.map(BASE + 0x10_0000, 0x8001, 3, Some(&files[1])), set);
        // A piece of a file that is too large to be mapped as a whole.
        assert_eq!(peer.map(BASE + 0x20_0000, 0x8000, 3, Some(&files[2])), None);
    });
}

/// Descriptors that are kept: one for each file that is mapped, one for each vector.
#[test]
fn budget_descriptors() {
    both_with("maps=8", |scene| {
        let peer = scene.begin();
        let before = scene.fds();
        for n in 0..20 {
            let ram = SharedRam::new(0, 0x1000).unwrap();
            let full = (n >= 8).then_some(Errno::EINVAL);
            assert_eq!(peer.map(BASE + 0x1000 * n, 0x1000, 3, Some(&ram)), full);
        }
        assert_eq!(peer.set_irqs(0x24, 2, 0, 4, &borrowed(&eventfds(4))), None);
        assert!(scene.fds() <= before + 8 + 4, "{} of {before}", scene.fds());
    });
}

#[test]
fn budget_descriptors_of_a_message() {
    both(|scene| {
        let peer = scene.begin();
        let before = scene.fds();
        let one = eventfds(1);
        let many: Vec<_> = (0..253).map(|_| one[0].as_fd()).collect();
        let info = message(1, 4, 0, &bytes!(16u32, 0u32, 0u32, 0u32));
        // With each byte of one message.
        for byte in &info[..info.len() - 1] {
            if peer.send_with(&[*byte], &many).is_err() {
                break; // the kernel counts them as well
            }
        }
        let _gone = peer.send(&info[info.len() - 1..]);
        match peer.recv() {
            Ok(answer) => assert_eq!(answer.errno(), None),
            Err(_) => peer.is_hung_up(),
        }
        drop(peer);
        scene.begin().in_sync();
        assert!(scene.fds() <= before + 1);
    });
}

#[test]
fn budget_vectors() {
    both(|scene| {
        let peer = scene.begin();
        assert_eq!(peer.set_irqs(0x24, 2, 0, 5, &borrowed(&eventfds(5))), INVALID);
        assert_eq!(peer.set_irqs(0x24, 2, 0, 4, &borrowed(&eventfds(4))), None);
    });
}

#[test]
fn budget_size_of_a_message() {
    both(|scene| {
        let most = scene.differs(4096 + (1 << 20), 32 + (1 << 20), "as the C library");
        let before = scene.rss();
        let mut bytes = message(1, 4, 0, &bytes!(16u32, 0u32, 0u32, 0u32));
        bytes.resize(most, 0);
        let head = |bytes: &mut Vec<u8>| {
            let len = bytes.len() as u32;
            bytes[4..8].copy_from_slice(&len.to_le_bytes());
        };
        head(&mut bytes);
        let peer = scene.begin();
        peer.send(&bytes).unwrap();
        assert_eq!(peer.recv().unwrap().errno(), None, "as long as may be");
        bytes.push(0);
        head(&mut bytes);
        let _closed = peer.send(&bytes);
        let refused = peer.recv().unwrap().errno();
        assert_eq!(refused, INVALID);
        assert!(scene.rss() < before + (16 << 20));
    });
}

#[test]
fn budget_commands_that_wait() {
    both_with("queued_commands=16 queued_bytes=65536 unsent_bytes=65536 send_ms=60000", |scene| {
        let peer = scene.begin();
        let before = scene.rss();
        let many: Vec<u8> = (0..1000).flat_map(config_read).collect();
        // As much as it takes: then the socket is full, and stays so.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let mut sent = 0;
        while sent < 256 << 20 {
            match send(&peer, &many, flags) {
                Ok(n) => sent += n,
                Err(_) if peer.has_input().unwrap() => break,
                Err(_) => std::thread::yield_now(),
            }
        }
        assert!(sent < 64 << 20, "{sent} bytes of commands are taken from who reads no answer");
        assert!(scene.rss() < before + (16 << 20));
        drop(peer);
    });
}

#[test]
fn budget_time_without_reading() {
    both_with("send_ms=100 unsent_bytes=65536", |scene| {
        let peer = scene.begin();
        let many: Vec<u8> = (0..2000).flat_map(config_read).collect();
        let _full = send(&peer, &many, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        scene.begin().in_sync(); // its turn comes when the other's time is over
        drop(peer);
    });
}

#[test]
fn budget_time_for_version() {
    both_with("handshake_ms=100 message_ms=60000", |scene| {
        let silent = scene.connect();
        silent.expect_eof().unwrap();
        let slow = scene.connect();
        slow.send(&RawPeer::version(0, 0, 1, Some("{}"))[..20]).unwrap();
        slow.expect_eof().unwrap();
    });
}

#[test]
fn budget_time_for_a_message() {
    both_with("message_ms=100", |scene| {
        for len in [1, 15, 16, 20] {
            let peer = scene.begin();
            peer.send(&message(1, 4, 0, &[0; 16])[..len]).unwrap();
            peer.expect_eof().unwrap();
        }
    });
}

#[test]
fn budget_requests_in_flight() {
    both_with("reply_ms=100 zombies=3", |scene| {
        let peer = scene.begin();
        assert_eq!(peer.map(BASE, 0x1000, 3, None), None);
        // Four replies are owed: one too many.
        for n in 1..=4 {
            peer.operate(READ, BASE, 16);
            match peer.recv() {
                Ok(request) => assert_eq!(request.header.command, 11),
                Err(e) => panic!("request {n}: {e}"),
            }
            if n < 4 {
                assert_eq!(peer.outcome(), Err(Errno::ETIMEDOUT));
            }
        }
        peer.is_hung_up();
    });
}

#[test]
fn budget_bitmaps() {
    both(|scene| {
        let peer = scene.begin();
        // 64 TiB in pages of 4 KiB would be 2 GiB of bits. They cost what is written.
        let ram = SharedRam::new(0, 1 << 42).unwrap();
        let before = scene.rss();
        assert_eq!(peer.map(0, 1 << 42, 3, Some(&ram)), None);
        assert_eq!(peer.ask(16, &bytes!(24u32, 2u32 << 16 | 6, 4096u64, 0u32, 0u32)).errno(), None);
        for n in 0..64u64 {
            assert_eq!(peer.dma_write(n << 36, 16), Ok(()));
        }
        assert!(scene.rss() < before + (16 << 20), "{} more", scene.rss() - before);
        let len = bytes!(1u32 << 20, 1u32 << 16 | 8, 0u64, 1u64 << 42, 4096u64);
        assert!(peer.errno(16, &len).is_some(), "nor is it told in one piece");
    });
}

#[test]
fn budget_json() {
    both(|scene| {
        let served = |text: String| {
            let peer = scene.connect();
            peer.send(&RawPeer::version(1, 0, 1, Some(&text))).unwrap();
            peer.recv().unwrap().errno().is_none()
        };
        let (size, depth) = (vfu::wire::MAX_JSON_LEN, vfu::wire::MAX_JSON_DEPTH);
        assert!(served(format!("{{}}{}", " ".repeat(size - 3))));
        assert!(!served(format!("{{}}{}", " ".repeat(size - 2))));
        let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n - 1), "]".repeat(n - 1));
        assert!(served(nested(depth)));
        assert!(!served(nested(depth + 1)));
    });
}

#[test]
fn budget_saved_state() {
    both(|scene| {
        let peer = scene.begin();
        let before = scene.rss();
        assert_eq!(peer.ask(16, &bytes!(16u32, 2u32 | 2 << 16, 4u32, 0u32)).errno(), None);
        let piece = [bytes!(8u32 + (1 << 20), 1u32 << 20), vec![0; 1 << 20]].concat();
        let refused = (0..32).filter(|_| peer.ask(18, &piece).errno().is_some()).count();
        assert!(refused >= 30, "{refused}");
        assert!(scene.rss() < before + (16 << 20));
        assert_eq!(peer.errno(13, &[]), None);
    });
}

/// The guide has a row for each of these tests, and names what changes the limit.
/// What it takes to answer is there, or the answer is that it is not.
#[test]
fn budget_memory() {
    both(|scene| {
        let (size, page) = (8u64 << 40, 2u64 << 20);
        let peer = scene.begin();
        let ram = SharedRam::new(0, size).unwrap();
        assert_eq!(peer.map(0, size, 3, Some(&ram)), None);
        // DMA_LOGGING_START: bitmaps of pages of 4 KiB, once they are written to, in pieces.
        let start = bytes!(24u32, 0x2_0006u32, 4096u64, 0u32, 0u32);
        let little = Some(64 << 10);
        scene.limit_memory(little);
        assert_eq!(peer.errno(16, &start), Some(Errno::ENOMEM));
        scene.limit_memory(None);
        let report = bytes!(40u32 + (512 << 10), 0x1_0008u32, 0u64, size, page);
        assert_eq!(peer.errno(16, &report), INVALID, "nothing was begun");
        assert_eq!(peer.errno(16, &start), None);
        // DMA_UNMAP with GET_DIRTY_BITMAP.
        let bits = 512u64 << 10;
        let unmap = bytes!(40u32 + bits as u32, 1u32, 0u64, size, page, bits);
        scene.limit_memory(little);
        assert_eq!(peer.errno(3, &unmap), Some(Errno::ENOMEM));
        scene.limit_memory(None);
        assert_eq!(peer.dma_write(0x1000, 8), Ok(()), "it is still there");
        let answer = peer.ask(3, &unmap);
        assert_eq!(answer.payload[40..][..8], [1, 0, 0, 0, 0, 0, 0, 0], "the first page");
        assert_eq!(answer.payload.len(), 40 + bits as usize);
    });
}

#[test]
fn budgets_are_documented() {
    let source = include_str!("budgets.rs");
    let guide = include_str!("../../../../docs/src/limits.md");
    let tests = source.lines().filter_map(|line| line.strip_prefix("fn ")?.split('(').next());
    let tests: Vec<&str> = tests.filter(|name| name.starts_with("budget_")).collect();
    assert!(tests.len() >= 14, "{tests:?}");
    for test in tests {
        assert!(guide.contains(&format!("`{test}`")), "limits.md has no row for {test}");
    }
}
