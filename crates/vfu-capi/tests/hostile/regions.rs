//! R1 to R10: accesses to regions, and to configuration space.

use vfu::wire::Errno;
use vfu_testkit::message;

use crate::specimen::{BAR0, STATUS, WRITES};
use crate::talk::{INVALID, NO_REPLY, Peer, bytes};
use crate::{both, both_with, times};

const INFO: u16 = 5;
const IO_FDS: u16 = 6;
const READ: u16 = 9;
const WRITE: u16 = 10;
const RESET: u16 = 13;
const MULTI: u16 = 15;
const CONFIG: u32 = 7;
const MOST: u32 = 1 << 20;

/// Errno of a read, and of a write that has `payload` bytes of data.
fn access(peer: &Peer, region: u32, offset: u64, count: u32) -> [Option<Errno>; 2] {
    let head = bytes!(offset, region, count);
    let write = [&head[..], &vec![0; count.min(MOST) as usize]].concat();
    [peer.ask(READ, &head).errno(), peer.ask(WRITE, &write).errno()]
}

#[test]
fn r01_ranges_that_wrap() {
    both(|scene| {
        let peer = scene.begin();
        for (region, size) in [(0, BAR0), (CONFIG, 4096)] {
            let writes = peer.read32(WRITES);
            for (offset, count) in [
                (u64::MAX, 1),
                (u64::MAX - 7, 16),
                (size, 1),
                (size - 1, 2),
                (1 << 63, 4),
                (1 << 32, 4),
            ] {
                assert_eq!(
                    access(&peer, region, offset, count),
                    [INVALID; 2],
                    "{offset:#x} {count}"
                );
            }
            assert_eq!(peer.read32(WRITES), writes, "the device was not asked");
        }
    });
}

#[test]
fn r02_counts_and_regions_that_can_not_be() {
    both(|scene| {
        let peer = scene.begin();
        let before = scene.rss();
        for count in [u32::MAX, MOST + 1, MOST, 1 << 31] {
            assert_eq!(peer.errno(READ, &bytes!(0u64, 0u32, count)), INVALID, "{count:#x}");
        }
        for region in [3, 6, 8, 9, 100, u32::MAX] {
            assert_eq!(access(&peer, region, 0, 4), [INVALID; 2], "region {region}");
        }
        for region in [0, CONFIG] {
            let nothing = peer.ask(READ, &bytes!(0u64, region, 0u32));
            let len = scene.differs(16, 0, "the C library sends a header only");
            assert_eq!((nothing.errno(), nothing.payload.len()), (None, len));
            assert_eq!(peer.ask(WRITE, &bytes!(0u64, region, 0u32)).errno(), None);
        }
        assert!(scene.rss() < before + (8 << 20));
    });
}

#[test]
fn r03_writes_of_another_length_than_they_say() {
    both(|scene| {
        let peer = scene.begin();
        let writes = peer.read32(WRITES);
        for (count, len) in
            [(4u32, 0), (4, 3), (4, 5), (0, 4), (u32::MAX, 4), (1 << 20, 100), (u32::MAX - 15, 0)]
        {
            let payload = [bytes!(0u64, 0u32, count), vec![0; len]].concat();
            assert_eq!(peer.errno(WRITE, &payload), INVALID, "{count:#x} {len}");
        }
        peer.in_sync();
        assert_eq!(peer.read32(WRITES), writes);
    });
}

#[test]
fn r04_every_write_to_configuration_space() {
    both(|scene| {
        let peer = scene.begin();
        for offset in (0..0x140).chain(4088..4096u64) {
            for width in [1, 2, 3, 4, 8] {
                if offset + width > 4096 {
                    assert_eq!(peer.write_bytes(CONFIG, offset, &vec![0; width as usize]), INVALID);
                    continue;
                }
                for value in [0, 0xff] {
                    let errno = peer.write_bytes(CONFIG, offset, &vec![value; width as usize]);
                    let may_refuse = scene.differs(
                        false,
                        true,
                        "the C library refuses writes to what it does not know, and its test suite counts on that",
                    );
                    assert!(
                        errno.is_none() || may_refuse,
                        "{offset:#x}/{width} of {value:#x}: {errno:?}"
                    );
                }
                assert_eq!(
                    peer.read_bytes(CONFIG, offset, width as u32).unwrap().len(),
                    width as usize
                );
            }
        }
        let ids = peer.read_bytes(CONFIG, 0, 4).unwrap();
        let known = scene.differs([0x34, 0x12, 1, 0], [0; 4], "the C program gave it none");
        assert_eq!(ids, known, "read-only");
        peer.in_sync();
    });
}

#[test]
fn r05_what_may_not_be_written() {
    both(|scene| {
        let peer = scene.begin();
        // What no device knows reads as ones, and drops what is written.
        assert_eq!(peer.read_bytes(0, 0x400, 4).unwrap(), [0xff; 4]);
        assert_eq!(peer.write_bytes(0, 0x400, &[1; 4]), None);
        assert_eq!(peer.write_bytes(0, STATUS, &[0xff; 4]), None);
        // BAR 2 is the client's memory: the device behind it has no handlers.
        let shared = peer.read_bytes(2, 0, 4);
        let refused =
            scene.differs(None, INVALID, "a region without a callback, as in the C library");
        assert_eq!(shared.err(), refused);
        peer.in_sync();
    });
}

#[test]
fn r06_a_reset_among_other_commands() {
    both(|scene| {
        let peer = scene.begin();
        let mut capability = peer.read_bytes(CONFIG, 0x34, 1).unwrap()[0];
        for _ in 0..16 {
            let head = peer.read_bytes(CONFIG, capability.into(), 2).unwrap();
            if head[0] == 0x10 {
                break;
            }
            capability = head[1];
        }
        let control = u64::from(capability) + 8;
        let write = |id, region: u32, offset: u64, value: u32, len: u32| {
            let data =
                [bytes!(offset, region, len), bytes!(value)[..len as usize].to_vec()].concat();
            message(id, WRITE, 0, &data)
        };
        let bytes = [
            write(1, 0, 0, 0x11, 4),
            write(2, CONFIG, control, 0x8000, 2),
            write(3, 0, 4, 0x22, 4),
            message(4, RESET, 0, &[]),
            message(5, READ, 0, &bytes!(4u64, 0u32, 4u32)),
        ];
        peer.send(&bytes.concat()).unwrap();
        for id in 1..=5 {
            let answer = peer.recv().unwrap();
            assert_eq!((answer.header.id, answer.errno()), (id, None), "in order");
        }
    });
}

fn multi(count: u64, entries: &[(u64, u32, u32)]) -> Vec<u8> {
    let entries =
        entries.iter().flat_map(|(offset, region, len)| bytes!(*offset, *region, *len, 1u64));
    [bytes!(count), entries.collect()].concat()
}

#[test]
fn r07_many_writes_that_make_no_sense() {
    both(|scene| {
        let peer = scene.begin();
        let one = [(0, 0, 4)];
        let writes = peer.read32(WRITES);
        for count in [0, 2, 201, 1 << 32, 1 << 61, (1 << 61) + 1, u64::MAX, u64::MAX / 24 + 1] {
            assert_eq!(peer.errno(MULTI, &multi(count, &one)), INVALID, "{count:#x}");
        }
        for len in [9, u32::MAX] {
            assert_eq!(peer.errno(MULTI, &multi(1, &[(0, 0, len)])), INVALID, "{len}");
        }
        assert_eq!(peer.errno(MULTI, &multi(1, &one)[..31]), INVALID);
        assert_eq!(peer.read32(WRITES), writes);
        // A bad one in the middle: nothing beyond it.
        for bad in [(u64::MAX, 0, 4), (0, 9, 4), (BAR0, 0, 1), (0, u32::MAX, 4)] {
            let writes = peer.read32(WRITES);
            let _either = peer.ask(MULTI, &multi(3, &[(0, 0, 4), bad, (4, 0, 4)]));
            assert!(peer.read32(WRITES) - writes <= 1, "{bad:x?}");
        }
        let good = peer.ask(MULTI, &multi(3, &[(0, 0, 4), (4, 0, 3), (8, 0, 8)]));
        assert_eq!((good.errno(), &good.payload[..]), (None, &bytes!(3u64)[..]));
        drop(peer);
        let peer = scene.connect();
        assert_eq!(peer.handshake("{}").unwrap().errno(), None);
        assert_eq!(peer.errno(MULTI, &multi(1, &one)), INVALID, "it was not agreed on");
    });
}

#[test]
fn r08_region_info_for_clients_with_no_room() {
    both(|scene| {
        let peer = scene.begin();
        let before = scene.rss();
        for index in [0u32, 2, CONFIG, 8] {
            for argsz in [0u32, 31] {
                assert_eq!(
                    peer.errno(INFO, &bytes!(argsz, 0u32, index, 0u32, 0u64, 0u64)),
                    INVALID
                );
            }
            for argsz in [32, 33, 47, u32::MAX] {
                let answer = peer.ask(INFO, &bytes!(argsz, 0u32, index, 0u32, 0u64, 0u64));
                let is_shared = index == 2 && argsz == u32::MAX;
                assert_eq!(answer.errno(), None);
                assert_eq!(answer.fds.len(), usize::from(is_shared), "{index} {argsz}");
                assert_eq!(answer.payload.len() > 32, is_shared, "{index} {argsz}");
            }
        }
        for index in [9, 100, u32::MAX] {
            assert_eq!(peer.errno(INFO, &bytes!(32u32, 0u32, index, 0u32, 0u64, 0u64)), INVALID);
        }
        assert!(scene.rss() < before + (8 << 20), "nothing is allocated by argsz");
    });
}

#[test]
fn r09_doorbells_that_are_not_there() {
    both(|scene| {
        let peer = scene.begin();
        for (argsz, flags, index, count) in [
            (0u32, 0u32, 0u32, 0u32),
            (15, 0, 0, 0),
            (16, 1, 0, 0),
            (16, 0, 0, 1),
            (16, 0, 9, 0),
            (16, 0, u32::MAX, 0),
        ] {
            assert_eq!(peer.errno(IO_FDS, &bytes!(argsz, flags, index, count)), INVALID);
        }
        for argsz in [16u32, 4096] {
            let answer = peer.ask(IO_FDS, &bytes!(argsz, 0u32, 0u32, 0u32));
            assert_eq!((answer.errno(), answer.fds.len(), answer.payload.len()), (None, 0, 16));
        }
    });
}

#[test]
fn r10_a_flood_of_reads_that_want_no_reply() {
    both_with("queued_commands=64", |scene| {
        let peer = scene.begin();
        let before = scene.rss();
        let piece: Vec<u8> = (0..1000)
            .flat_map(|n| message(n, READ, NO_REPLY, &bytes!(0u64, CONFIG, 4096u32)))
            .collect();
        for _ in 0..times(10, 1000) {
            peer.send(&piece).unwrap();
        }
        peer.in_sync();
        assert!(scene.rss() < before + (8 << 20));
    });
}
