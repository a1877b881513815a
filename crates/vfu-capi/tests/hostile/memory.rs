//! M1 to M18: mappings, and the messages that stand in for them.

use std::os::fd::AsFd;
use std::thread;

use vfu::wire::{Command, Errno};
use vfu_testkit::{RawMessage, SharedRam};

use crate::scene::Scene;
use crate::specimen::{READ, WINDOW, WRITE};
use crate::talk::{INVALID, Peer, bytes, eventfds};
use crate::{both, both_with, times};

const MAP: u16 = 2;
const UNMAP: u16 = 3;
const BASE: u64 = 0x10_0000;

fn ram(size: u64) -> SharedRam {
    SharedRam::new(BASE, size).unwrap()
}

/// The answer to a DMA message, with its payload.
fn answer(request: &RawMessage, payload: &[u8]) -> Vec<u8> {
    request.reply(payload)
}

#[test]
fn m01_maps_of_nothing() {
    both(|scene| {
        let peer = scene.begin();
        let ram = ram(4096);
        for address in [0, BASE, u64::MAX] {
            for fd in [None, Some(&ram)] {
                assert_eq!(peer.map(address, 0, 3, fd), INVALID, "{address:#x}");
            }
        }
        assert_eq!(peer.errno(UNMAP, &bytes!(24u32, 0u32, BASE, 0u64)), INVALID);
    });
}

#[test]
fn m02_maps_around_the_end() {
    both(|scene| {
        let peer = scene.begin();
        let ram = ram(0x2000);
        for fd in [None, Some(&ram)] {
            for (address, size) in [(u64::MAX, 2), (u64::MAX - 4095, 4097), (BASE, u64::MAX)] {
                let size_limit =
                    scene.differs(INVALID, None, "the C library looks for 8 TiB first");
                let errno = peer.map(address, size, 3, fd);
                let too_large = size > 8 << 40 && errno == Some(Errno::ENOSPC);
                assert!(
                    errno == INVALID || size_limit.is_none() && too_large,
                    "{address:#x} {errno:?}"
                );
            }
            assert_eq!(peer.map(u64::MAX - 4095, 4096, 3, fd), None, "up to 2^64");
            assert_eq!(peer.unmap(u64::MAX - 4095, 4096), None, "and back");
        }
        assert_eq!(peer.errno(UNMAP, &bytes!(24u32, 0u32, u64::MAX, 2u64)), INVALID);
    });
}

#[test]
fn m03_maps_over_maps() {
    both(|scene| {
        let peer = scene.begin();
        let ram = ram(0x4000);
        let overlap = Some(Errno::EEXIST);
        assert_eq!(peer.map(BASE + 0x1000, 0x2000, 3, Some(&ram)), None);
        for (at, size) in [
            (0, 0x1001),
            (0x2fff, 0x1000),
            (0x1800, 1),
            (0, 0x4000),
            (0x1000, 0x1000),
            (0x1000, 0x2001),
        ] {
            for fd in [None, Some(&ram)] {
                assert_eq!(peer.map(BASE + at, size, 3, fd), overlap, "{at:#x} {size:#x}");
            }
        }
        assert_eq!(peer.map(BASE, 0x1000, 3, Some(&ram)), None, "right before");
        assert_eq!(peer.map(BASE + 0x3000, 1, 3, None), None, "right behind");
    });
}

#[test]
fn m04_the_same_map_again_and_again() {
    both(|scene| {
        let peer = scene.begin();
        let ram = ram(0x1000);
        assert_eq!(peer.map(BASE, 0x1000, 3, Some(&ram)), None);
        let (fds, vmas) = (scene.fds(), scene.vmas());
        for _ in 0..times(2000, 1_000_000) {
            assert_eq!(peer.map(BASE, 0x1000, 3, Some(&ram)), None);
        }
        assert_eq!(scene.fds(), fds);
        // A heap of the C library for one more thread is some.
        assert!(scene.vmas() <= vmas + 16);
        assert_eq!(peer.unmap(BASE, 0x1000), None, "it is one");
        assert!(peer.dma_read(BASE, 4).is_err());
    });
}

#[test]
fn m05_more_maps_than_may_be() {
    both_with("maps=100", |scene| {
        let peer = scene.begin();
        let vmas = scene.vmas();
        let files: Vec<SharedRam> = (0..101).map(|_| ram(0x1000)).collect();
        for (n, file) in files.iter().enumerate() {
            let full = (n >= 100).then_some(Errno::EINVAL);
            assert_eq!(peer.map(BASE + 0x2000 * n as u64, 0x1000, 3, Some(file)), full, "{n}");
        }
        assert!(scene.vmas() <= vmas + 120);
        for _ in 0..times(500, 1_000_000) {
            assert_eq!(peer.unmap(BASE, 0x1000), None);
            assert_eq!(peer.map(BASE, 0x1000, 3, Some(&files[100])), None);
        }
        assert!(scene.vmas() <= vmas + 120);
    });
}

#[test]
fn m06_more_memory_than_there_are_addresses() {
    both(|scene| {
        let peer = scene.begin();
        let large = SharedRam::new(0, 8 << 40).unwrap();
        let mut refused = 0;
        for n in 0..20u64 {
            refused += u32::from(peer.map(n << 44, 8 << 40, 3, Some(&large)).is_some());
            // Other files, so that no mapping of them serves for the next.
            let other = SharedRam::new(0, 8 << 40).unwrap();
            refused +=
                u32::from(peer.map((n << 44) + (8 << 40), 8 << 40, 3, Some(&other)).is_some());
        }
        assert!(refused > 0, "128 TiB is all there is");
        let huge = [Some(Errno::ENOMEM), Some(Errno::ENOSPC), Some(Errno::EINVAL)];
        for size in [1 << 47, 1 << 62, 1 << 63] {
            assert!(huge.contains(&peer.map(1 << 63, size, 3, Some(&large))), "{size:#x}");
        }
        peer.in_sync();
    });
}

#[test]
fn m07_unmaps_of_other_bytes() {
    both(|scene| {
        let peer = scene.begin();
        let ram = ram(0x2000);
        assert_eq!(peer.map(BASE, 0x1000, 3, Some(&ram)), None);
        assert_eq!(peer.map(BASE + 0x1000, 0x1000, 3, None), None);
        for (address, size) in
            [(BASE, 0xfff), (BASE + 1, 0xfff), (BASE, 0x1001), (BASE, 0x2000), (BASE + 1, 0x1000)]
        {
            assert_eq!(peer.unmap(address, size), Some(Errno::ENOENT), "{address:#x} {size:#x}");
        }
        let all = bytes!(24u32, 2u32, 0u64, 0u64);
        for payload in [
            bytes!(24u32, 2u32, BASE, 0x1000u64),
            bytes!(24u32, 2u32, 0u64, 0x1000u64),
            bytes!(24u32, 3u32, 0u64, 0u64),
            bytes!(24u32, 4u32, BASE, 0x1000u64),
            bytes!(24u32, 0x8000_0000u32, BASE, 0x1000u64),
            bytes!(0u32, 0u32, BASE, 0x1000u64),
            bytes!(23u32, 0u32, BASE, 0x1000u64),
            all[..20].to_vec(),
        ] {
            assert_eq!(peer.errno(UNMAP, &payload), INVALID, "{payload:x?}");
        }
        let huge = bytes!(u32::MAX, 0u32, BASE, 0x1000u64);
        let limit =
            scene.differs(None, INVALID, "the C library refuses to answer with more than 1 MiB");
        assert_eq!(peer.ask(UNMAP, &huge).errno(), limit);
        assert_eq!(peer.ask(UNMAP, &all).errno(), None);
        let twice = scene.differs(
            None,
            Some(Errno::ENOENT),
            "as the C library; clients with a vIOMMU do it",
        );
        assert_eq!(peer.unmap(BASE, 0x1000), twice);
    });
}

#[test]
fn m08_unmaps_with_a_bitmap_that_can_not_be() {
    both(|scene| {
        let peer = scene.begin();
        let ram = ram(0x10_0000);
        assert_eq!(peer.map(BASE, 0x10_0000, 3, Some(&ram)), None);
        let mut bad = vec![
            bytes!(24u32, 1u32, BASE, 0x10_0000u64),
            bytes!(48u32, 1u32, BASE, 0x10_0000u64, 4096u64),
        ];
        for (page, size) in [
            (4096, u64::MAX),
            (4096, u64::MAX - 39),
            (4096, 0),
            (4096, 8),
            (0, 32),
            (3, 32),
            (u64::MAX, 32),
            (1 << 63, 32),
        ] {
            bad.push(bytes!(u32::MAX, 1u32, BASE, 0x10_0000u64, page, size));
            bad.push(bytes!(80u32, 1u32, BASE, 0x10_0000u64, page, size));
        }
        // Without a log, and with one.
        for _ in 0..2 {
            for payload in &bad {
                assert_eq!(peer.errno(UNMAP, payload), INVALID, "{payload:x?}");
            }
            let start = bytes!(24u32, 0x2_0006u32, 4096u64, 0u32, 0u32);
            assert_eq!(peer.ask(16, &start).errno(), None);
        }
        let good = bytes!(72u32, 1u32, BASE, 0x10_0000u64, 4096u64, 32u64);
        let answer = peer.ask(UNMAP, &good);
        assert_eq!((answer.errno(), answer.payload.len()), (None, 72));
    });
}

#[test]
fn m09_unmaps_under_a_device_that_copies() {
    both(|scene| {
        let peer = scene.begin();
        let ram = ram(1 << 20);
        for _ in 0..times(200, 20_000) {
            assert_eq!(peer.map(BASE, 1 << 20, 3, Some(&ram)), None);
            peer.operate(WRITE, BASE, 1 << 20);
            assert_eq!(peer.unmap(BASE, 1 << 20), None);
            let _either = peer.outcome();
        }
    });
}

#[test]
fn m10_other_memory_at_the_same_address() {
    both(|scene| {
        let peer = scene.begin();
        let (old, new) = (ram(0x1000), ram(0x1000));
        assert_eq!(peer.map(BASE, 0x1000, 3, Some(&old)), None);
        assert_eq!(peer.dma_write(BASE, 16), Ok(()));
        assert_eq!(peer.unmap(BASE, 0x1000), None);
        assert_eq!(peer.map(BASE, 0x1000, 3, Some(&new)), None);
        assert_eq!(peer.write_bytes(0, WINDOW, &[7; 16]), None);
        assert_eq!(peer.dma_write(BASE, 16), Ok(()));
        assert_eq!(new.bytes(BASE, 16).unwrap(), [7; 16]);
        assert_eq!(old.bytes(BASE, 16).unwrap(), [0; 16]);
    });
}

#[test]
fn m11_what_may_not_be_done() {
    both(|scene| {
        let peer = scene.begin();
        let ram = ram(0x1000);
        for fd in [Some(&ram), None] {
            assert_eq!(peer.map(BASE, 0x1000, 0, fd), INVALID);
            for (flags, what) in [(1, WRITE), (2, READ)] {
                assert_eq!(peer.map(BASE, 0x1000, flags, fd), None);
                peer.operate(what, BASE, 4);
                let refused = peer.outcome();
                assert!(
                    matches!(refused, Err(Errno::EACCES | Errno::EPERM | Errno::EFAULT)),
                    "{refused:?}"
                );
                assert_eq!(peer.unmap(BASE, 0x1000), None);
            }
        }
        for flags in [0x10, 0x8000_0000, 4 | 8] {
            assert_eq!(peer.map(BASE, 0x1000, 3 | flags, Some(&ram)), INVALID, "{flags:#x}");
        }
        for flags in [4, 8] {
            assert_eq!(peer.map(BASE, 0x1000, 3 | flags, None), INVALID, "no descriptor");
        }
    });
}

#[test]
fn m12_parts_of_pages() {
    both(|scene| {
        let peer = scene.begin();
        for mode in [0, 8] {
            let ram = SharedRam::new(0, 0x4000).unwrap();
            ram.write(0, &[0x11; 0x4000]).unwrap();
            assert_eq!(peer.map_fd(BASE + 0x123, 0x321, 3 | mode, 0x1abc, Some(ram.as_fd())), None);
            assert_eq!(peer.write_bytes(0, WINDOW, &[0x22; 0x321]), None);
            assert_eq!(peer.dma_write(BASE + 0x123, 0x321), Ok(()));
            let file = ram.bytes(0, 0x4000).unwrap();
            let is_ours = |at: usize| (0x1abc..0x1abc + 0x321).contains(&at);
            assert!(
                file.iter()
                    .enumerate()
                    .all(|(at, byte)| *byte == if is_ours(at) { 0x22 } else { 0x11 })
            );
            for at in [0x122, 0x123 + 0x321] {
                assert!(peer.dma_write(BASE + at, 1).is_err());
            }
            assert_eq!(peer.unmap(BASE + 0x123, 0x321), None);
        }
    });
}

#[test]
fn m13_huge_pages_in_small_pieces() {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    both(|scene| {
        let peer = scene.begin();
        let Ok(huge) = memfd_create("huge", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB) else {
            println!("the kernel has no huge pages");
            return;
        };
        ftruncate(&huge, 2 << 20).unwrap();
        for offset in [0, 0x1000, 0x1000 * 511] {
            // Without pages behind it the access may fail; it must not kill.
            if peer.map_fd(BASE, 0x1000, 3, offset, Some(huge.as_fd())).is_none() {
                assert_eq!(peer.unmap(BASE, 0x1000), None);
            }
        }
        peer.in_sync();
    });
}

#[test]
fn m14_memory_that_changes_while_it_is_read() {
    both(|scene| {
        let peer = scene.begin();
        let ram = ram(0x1000);
        assert_eq!(peer.map(BASE, 0x1000, 3, Some(&ram)), None);
        let stop = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut value = 0u8;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    value = value.wrapping_add(1);
                    ram.write(BASE, &[value; 256]).unwrap();
                }
            });
            for _ in 0..200 {
                assert_eq!(peer.dma_read(BASE, 256), Ok(()));
                // A copy: it does not change any more.
                let once = peer.read_bytes(0, WINDOW, 256).unwrap();
                assert_eq!(peer.read_bytes(0, WINDOW, 256).unwrap(), once);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

/// What a client says to a DMA_READ of 16 bytes at [`BASE`], and how that ends.
type Reply = (&'static str, fn(&RawMessage) -> Vec<u8>, Option<Errno>);

fn data(address: u64, count: u64, len: usize) -> Vec<u8> {
    [bytes!(address, count), vec![7; len]].concat()
}

fn with_error(mut bytes: Vec<u8>, error: u32) -> Vec<u8> {
    bytes[8] |= 0x20;
    bytes[12..16].copy_from_slice(&error.to_le_bytes());
    bytes
}

const REPLIES: [Reply; 15] = [
    ("as it should be", |r| answer(r, &data(BASE, 16, 16)), None),
    ("another address", |r| answer(r, &data(BASE + 1, 16, 16)), INVALID),
    ("more than was asked for", |r| answer(r, &data(BASE, 17, 17)), INVALID),
    ("a count that wraps", |r| answer(r, &data(BASE, 1 << 63, 16)), INVALID),
    ("the largest count", |r| answer(r, &data(BASE, u64::MAX, 16)), INVALID),
    ("nothing", |r| answer(r, &data(BASE, 0, 0)), Some(Errno::EIO)),
    ("less data than it says", |r| answer(r, &data(BASE, 16, 15)), INVALID),
    ("more data than it says", |r| answer(r, &data(BASE, 16, 17)), INVALID),
    ("a header alone", |r| answer(r, &[]), INVALID),
    ("half the payload", |r| answer(r, &[0; 8]), INVALID),
    (
        "an error with a payload",
        |r| with_error(answer(r, &data(BASE, 16, 16)), 5),
        Some(Errno::EIO),
    ),
    ("an error of 0", |r| with_error(answer(r, &[]), 0), Some(Errno::EIO)),
    ("an error of -1", |r| with_error(answer(r, &[]), u32::MAX), Some(Errno::EIO)),
    ("an error beyond all", |r| with_error(answer(r, &[]), 1 << 31), Some(Errno::EIO)),
    (
        "no reply wanted",
        |r| {
            let mut bytes = answer(r, &data(BASE, 16, 16));
            bytes[8] |= 0x10;
            bytes
        },
        None,
    ),
];

fn outcome_of(scene: &Scene, main: &Peer, dma: &Peer, reply: &Reply) {
    let (what, reply, expected) = reply;
    main.operate(READ, BASE, 16);
    let request = dma.recv().unwrap();
    assert_eq!(request.header.command, Command::DmaRead.as_u16());
    dma.send(&reply(&request)).unwrap();
    let expected = match expected {
        Some(Errno::EINVAL) => {
            Some(scene.differs(Errno::EPROTO, Errno::EINVAL, "as the C library"))
        }
        other => *other,
    };
    assert_eq!(main.outcome().err(), expected, "{what}");
}

#[test]
fn m15_answers_to_dma() {
    both(|scene| {
        let peer = scene.begin();
        assert_eq!(peer.map(BASE, 0x1000, 3, None), None);
        for reply in &REPLIES {
            outcome_of(scene, &peer, &peer, reply);
        }
        drop(peer);
        let (main, twin) = scene.begin_twin();
        assert_eq!(main.map(BASE, 0x1000, 3, None), None);
        for reply in &REPLIES {
            outcome_of(scene, &main, &twin, reply);
        }
    });
}

#[test]
fn m15_answers_that_do_not_come_in_time() {
    both_with("reply_ms=50", |scene| {
        let peer = scene.begin();
        assert_eq!(peer.map(BASE, 0x1000, 3, None), None);
        peer.operate(READ, BASE, 16);
        let late = peer.recv().unwrap();
        assert_eq!(peer.outcome(), Err(Errno::ETIMEDOUT));
        // Of a zombie, twice; and with an id of nobody.
        peer.send(&answer(&late, &data(BASE, 16, 16))).unwrap();
        peer.send(&answer(&late, &data(BASE, 16, 16))).unwrap();
        let mut other = answer(&late, &data(BASE, 16, 16));
        other[0] ^= 0x55;
        peer.send_bytewise(&other).unwrap();
        if scene.differs(false, true, "the C library answers a reply to nothing with EINVAL") {
            for _ in 0..2 {
                assert_eq!(peer.recv().unwrap().errno(), INVALID);
            }
        }
        peer.in_sync();
    });
}

#[test]
fn m16_answers_with_descriptors() {
    both(|scene| {
        let peer = scene.begin();
        assert_eq!(peer.map(BASE, 0x1000, 3, None), None);
        let fds = eventfds(5);
        let mut before = None;
        for _ in 0..20 {
            peer.operate(READ, BASE, 16);
            let request = peer.recv().unwrap();
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            peer.send_with(&answer(&request, &data(BASE, 16, 16)), &fds).unwrap();
            assert_eq!(peer.outcome(), Ok(()));
            assert_eq!(scene.fds(), *before.get_or_insert(scene.fds()));
        }
    });
}

#[test]
fn m17_maps_and_unmaps_around_dma_that_is_under_way() {
    both(|scene| {
        let peer = scene.begin();
        assert_eq!(peer.map(BASE, 0x1000, 3, None), None);
        peer.operate(READ, BASE, 16);
        let request = peer.recv().unwrap();
        assert_eq!(peer.map(BASE + 0x1000, 0x1000, 3, None), None, "a map disturbs nothing");
        let again = peer.ask(MAP, &bytes!(32u32, 3u32, 0u64, BASE, 0x1000u64));
        assert_eq!(again.errno(), None, "nor does the same");
        peer.send(&answer(&request, &data(BASE, 16, 16))).unwrap();
        assert_eq!(peer.outcome(), Ok(()));
        // An unmap ends it, and does not wait for us.
        peer.operate(READ, BASE, 16);
        let request = peer.recv().unwrap();
        assert_eq!(peer.unmap(BASE, 0x1000), None);
        assert_eq!(peer.outcome(), Err(Errno::ECANCELED));
        peer.send(&answer(&request, &data(BASE, 16, 16))).unwrap();
        peer.in_sync();
    });
}

#[test]
fn m18_dma_to_the_devices_own_bar() {
    both(|scene| {
        let peer = scene.begin();
        let info = peer.ask(5, &bytes!(80u32, 0u32, 2u32, 0u32, 0u64, 0u64));
        let bar = info.fds.first().expect("BAR 2 can be mapped").as_fd();
        assert_eq!(peer.map_fd(BASE, 0x1000, 3, 0, Some(bar)), None);
        assert_eq!(peer.write_bytes(0, WINDOW, b"to itself"), None);
        assert_eq!(peer.dma_write(BASE, 9), Ok(()));
        assert_eq!(peer.write_bytes(0, WINDOW, &[0; 9]), None);
        assert_eq!(peer.dma_read(BASE, 9), Ok(()));
        assert_eq!(peer.read_bytes(0, WINDOW, 9).unwrap(), b"to itself");
    });
}
