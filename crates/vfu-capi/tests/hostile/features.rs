//! G1 to G11: DEVICE_FEATURE, migration, and logs of dirty pages.

use std::os::fd::AsFd;

use vfu::wire::Errno;
use vfu_testkit::{RawMessage, SharedRam};

use crate::scene::Scene;
use crate::talk::{INVALID, Peer, bytes};
use crate::{both, times};

const FEATURE: u16 = 16;
const DATA_READ: u16 = 17;
const DATA_WRITE: u16 = 18;
const RESET: u16 = 13;
const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;
const PROBE: u32 = 1 << 18;
const STATE: u32 = 2;
const START: u32 = 6;
const STOP: u32 = 7;
const REPORT: u32 = 8;
const MOST: u32 = 1 << 20;
const BASE: u64 = 0x10_0000;
const SIZE: u64 = 0x10_0000;

/// The states of VFIO.
const ERROR: u32 = 0;
const STOPPED: u32 = 1;
const RUNNING: u32 = 2;
const STOP_COPY: u32 = 3;
const RESUMING: u32 = 4;
const PRE_COPY: u32 = 6;

fn set_state(peer: &Peer, state: u32) -> Option<Errno> {
    peer.ask(FEATURE, &bytes!(16u32, SET | STATE, state, 0u32)).errno()
}

fn state(peer: &Peer) -> u32 {
    let answer = peer.ask(FEATURE, &bytes!(16u32, GET | STATE));
    u32::from_le_bytes(answer.payload[8..12].try_into().unwrap())
}

fn start(peer: &Peer, page: u64) -> Option<Errno> {
    peer.ask(FEATURE, &bytes!(24u32, SET | START, page, 0u32, 0u32)).errno()
}

fn report(peer: &Peer, iova: u64, length: u64, page: u64) -> RawMessage {
    peer.ask(FEATURE, &bytes!(MOST, GET | REPORT, iova, length, page))
}

fn ones(answer: &RawMessage) -> u32 {
    assert_eq!(answer.errno(), None);
    answer.payload[32..].iter().map(|byte| byte.count_ones()).sum()
}

#[test]
fn g01_every_feature_of_every_length() {
    both(|scene| {
        let peer = scene.begin();
        for feature in 0..10u32 {
            for methods in 0..8 {
                for len in (0..=64).step_by(4).chain([1, 7, 9, 15, 17, 31, 33]) {
                    for argsz in [0u32, 8, 16, 24, 32, 40, 64] {
                        let head = bytes!(argsz, feature | methods << 16);
                        let payload: Vec<u8> = head.into_iter().chain([0; 64]).take(len).collect();
                        let answer = peer.ask(FEATURE, &payload);
                        assert!(
                            answer.errno().is_none() || answer.errno() == INVALID,
                            "{payload:x?}"
                        );
                        if answer.errno().is_none() {
                            assert!(len >= 8 && answer.payload[4..8] == payload[4..8]);
                            assert!(answer.payload.len() <= payload.len().max(argsz as usize));
                        }
                    }
                }
            }
        }
        assert_eq!(state(&peer), RUNNING, "0 is no state that can be set");
    });
}

#[test]
fn g02_features_that_nobody_knows() {
    both(|scene| {
        let peer = scene.begin();
        for index in [0, 3, 4, 5, 9, 10, 0xff, 0xffff] {
            for method in [GET, SET, PROBE, PROBE | GET, PROBE | SET] {
                assert_eq!(
                    peer.errno(FEATURE, &bytes!(64u32, index | method, 0u64)),
                    INVALID,
                    "{index}"
                );
            }
        }
        for bit in 19..32 {
            assert_eq!(
                peer.errno(FEATURE, &bytes!(64u32, STATE | GET | 1 << bit)),
                INVALID,
                "bit {bit}"
            );
        }
    });
}

#[test]
fn g03_states_that_can_not_be() {
    both(|scene| {
        for from in [RUNNING, STOPPED, STOP_COPY, RESUMING, PRE_COPY] {
            for to in (0..12).chain([1 << 31, u32::MAX]) {
                let peer = scene.begin();
                assert_eq!(peer.errno(RESET, &[]), None);
                let begun = set_state(&peer, from);
                if begun.is_some() {
                    let can_pre_copy = scene.differs(
                        false,
                        true,
                        "the device in Rust has no state worth sending early",
                    );
                    assert!(from == PRE_COPY && !can_pre_copy, "{from}: {begun:?}");
                    continue;
                }
                let errno = set_state(&peer, to);
                match to {
                    ERROR | 5 | 7.. => assert_eq!(errno, INVALID, "{from} to {to}"),
                    _ => {
                        assert!(errno.is_none() || state(&peer) != to, "{from} to {to}: {errno:?}")
                    }
                }
                if to == from {
                    assert_eq!(errno, None);
                }
                assert_eq!(peer.errno(RESET, &[]), None, "out of every state");
                assert_eq!(state(&peer), RUNNING);
            }
        }
    });
}

#[test]
fn g04_reading_a_state() {
    both(|scene| {
        let peer = scene.begin();
        let read = |argsz: u32, size: u32| peer.ask(DATA_READ, &bytes!(argsz, size));
        assert_eq!(read(1024, 8).errno(), INVALID, "it runs");
        assert_eq!(set_state(&peer, STOP_COPY), None);
        for (argsz, size) in
            [(u32::MAX, MOST + 1), (u32::MAX, u32::MAX), (7, 0), (8, 1), (15, 8), (0, u32::MAX)]
        {
            assert_eq!(read(argsz, size).errno(), INVALID, "{argsz} {size}");
        }
        for len in [0, 4, 7] {
            assert_eq!(peer.errno(DATA_READ, &bytes!(64u32, 8u32)[..len]), INVALID);
        }
        let size = |answer: RawMessage| {
            assert_eq!(answer.errno(), None);
            let size = u32::from_le_bytes(answer.payload[4..8].try_into().unwrap());
            assert_eq!(answer.payload.len(), 8 + size as usize);
            size
        };
        assert_eq!(size(read(8, 0)), 0);
        assert_eq!(size(read(9, 1)), 1);
        while size(read(8 + MOST, MOST)) > 0 {}
        assert_eq!(size(read(16, 8)), 0, "behind the end");
        assert_eq!(set_state(&peer, RUNNING), None);
    });
}

fn write(peer: &Peer, size: u32, data: &[u8]) -> Option<Errno> {
    peer.ask(DATA_WRITE, &[&bytes!(8u32.saturating_add(size), size)[..], data].concat()).errno()
}

fn saved(peer: &Peer) -> Vec<u8> {
    assert_eq!(set_state(peer, STOP_COPY), None);
    let mut all = Vec::new();
    loop {
        let answer = peer.ask(DATA_READ, &bytes!(64u32, 56u32));
        assert_eq!(answer.errno(), None);
        all.extend_from_slice(&answer.payload[8..]);
        if answer.payload.len() == 8 {
            assert_eq!(set_state(peer, RUNNING), None);
            return all;
        }
    }
}

#[test]
fn g05_writing_a_state() {
    both(|scene| {
        let peer = scene.begin();
        let good = saved(&peer);
        assert!(write(&peer, 4, &[0; 4]).is_some(), "it runs");
        // Garbage, half a state, and a state without an end.
        let before = scene.rss();
        let load = |pieces: Vec<Vec<u8>>| {
            assert_eq!(set_state(&peer, RESUMING), None);
            let mut pieces = pieces.iter();
            let taken = pieces.all(|piece| write(&peer, piece.len() as u32, piece).is_none());
            let ran = set_state(&peer, RUNNING).is_none();
            peer.in_sync();
            if !ran {
                assert_eq!(peer.errno(RESET, &[]), None);
            }
            taken && ran
        };
        assert_eq!(set_state(&peer, RESUMING), None);
        for (size, len) in [(5, 4), (u32::MAX, 4), (MOST + 1, 4), (1 << 31, 0)] {
            assert_eq!(write(&peer, size, &vec![0; len]), INVALID, "{size}");
        }
        assert_eq!(peer.errno(RESET, &[]), None);
        assert!(!load(vec![vec![0x5a; 100]]));
        assert!(!load(vec![good[..good.len() / 2].to_vec()]));
        assert!(!load(vec![vec![0x5a; MOST as usize]; 16]));
        assert!(!load(vec![good.clone(); 2]));
        assert!(load(good.iter().map(|byte| vec![*byte]).collect()), "byte by byte");
        assert_eq!(state(&peer), RUNNING);
        assert!(scene.rss() < before + (8 << 20));
    });
}

#[test]
fn g06_states_of_any_bytes() {
    both(|scene| {
        let peer = scene.begin();
        let good = saved(&peer);
        let mut random = 0x1234_5678_9abc_def1u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for _ in 0..times(100, 100_000) {
            let mut bad = good.clone();
            for _ in 0..1 + next() % 4 {
                let at = next() as usize % bad.len();
                bad[at] ^= 1 << (next() % 8);
            }
            bad.truncate(good.len() - next() as usize % 3);
            assert_eq!(set_state(&peer, RESUMING), None);
            let _either = write(&peer, bad.len() as u32, &bad);
            let _either = set_state(&peer, RUNNING);
            assert_eq!(peer.errno(RESET, &[]), None);
            peer.in_sync();
        }
    });
}

#[test]
fn g07_logs_that_can_not_be() {
    both(|scene| {
        let peer = scene.begin();
        let ram = SharedRam::new(BASE, SIZE).unwrap();
        assert_eq!(peer.map(BASE, SIZE, 3, Some(&ram)), None);
        let huge = SharedRam::new(0, 1 << 40).unwrap();
        assert_eq!(peer.map(1 << 40, 1 << 40, 3, Some(&huge)), None);
        for page in [0, 3, 4097, u64::MAX, (1 << 63) + 1] {
            assert_eq!(start(&peer, page), INVALID, "{page}");
        }
        let ranges = |argsz: u32, count: u32, data: &[u64]| {
            let data: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
            let head = bytes!(argsz, SET | START, 4096u64, count, 0u32);
            peer.ask(FEATURE, &[head, data].concat()).errno()
        };
        for (count, data) in [
            (5, &[][..]),
            (u32::MAX, &[]),
            (1, &[0]),
            (2, &[0, 4096]),
            (1, &[u64::MAX, 4096]),
            (1, &[0, 4096, 0, 4096]),
        ] {
            assert_eq!(ranges(1024, count, data), INVALID, "{count} {data:x?}");
        }
        let before = scene.rss();
        for page in [1, 2, 4096, 1 << 21, 1 << 63] {
            assert_eq!(start(&peer, page), None, "{page:#x}");
            assert_eq!(peer.ask(FEATURE, &bytes!(8u32, SET | STOP)).errno(), None);
        }
        assert!(scene.rss() < before + (8 << 20), "a terabyte in tiny pages takes nothing");
    });
}

#[test]
fn g08_reports_that_can_not_be() {
    both(|scene| {
        let peer = scene.begin();
        let ram = SharedRam::new(BASE, SIZE).unwrap();
        assert_eq!(peer.map(BASE, SIZE, 3, Some(&ram)), None);
        assert_eq!(peer.map(BASE + SIZE, SIZE, 3, None), None);
        assert_eq!(report(&peer, BASE, SIZE, 4096).errno(), INVALID, "nothing is logged");
        assert_eq!(start(&peer, 4096), None);
        for (iova, length, page) in [
            (BASE, 0, 4096),
            (BASE, SIZE, 0),
            (BASE, SIZE, 3),
            (BASE, SIZE, u64::MAX),
            (u64::MAX, 2, 4096),
            (BASE, u64::MAX, 4096),
            (0, u64::MAX, 1),
            (BASE, 1 << 40, 1),
        ] {
            assert!(
                report(&peer, iova, length, page).errno().is_some(),
                "{iova:#x} {length:#x} {page:#x}"
            );
        }
        for argsz in [0u32, 31, 32, 63] {
            let payload = bytes!(argsz, GET | REPORT, BASE, SIZE, 4096u64);
            assert_eq!(peer.errno(FEATURE, &payload), INVALID, "{argsz}");
        }
        // The right ones. Pages smaller and larger than those of the log.
        for (page, bits) in [(1024, 4), (4096, 1), (1 << 16, 1), (1 << 20, 1)] {
            assert_eq!(peer.dma_write(BASE + 0x5_5000, 16), Ok(()));
            assert_eq!(ones(&report(&peer, BASE, SIZE, page)), bits, "{page:#x}");
            assert_eq!(ones(&report(&peer, BASE, SIZE, page)), 0, "told once");
        }
        let inside = report(&peer, BASE + 0x1000, 0x1000, 4096).errno();
        let from_the_start = Some(Errno::ENOTSUP);
        let as_c = "the C library reports from the start of a mapping only, and its test suite counts on that";
        assert_eq!(inside, scene.differs(None, from_the_start, as_c));
    });
}

#[test]
fn g09_mappings_that_come_and_go_in_a_log() {
    both(|scene| {
        for _ in 0..20 {
            let peer = scene.begin();
            let ram = SharedRam::new(BASE, SIZE).unwrap();
            assert_eq!(start(&peer, 4096), None);
            assert_eq!(start(&peer, 4096), None, "the same again");
            assert_eq!(start(&peer, 8192), INVALID, "another one");
            for _ in 0..3 {
                assert_eq!(peer.map(BASE, SIZE, 3, Some(&ram)), None);
                assert_eq!(peer.dma_write(BASE, 4), Ok(()));
                assert_eq!(peer.unmap(BASE, SIZE), None);
            }
            assert_eq!(peer.map(BASE, SIZE, 3, Some(&ram)), None);
            assert!(ones(&report(&peer, BASE, SIZE, 4096)) <= 1);
            for _ in 0..2 {
                assert_eq!(peer.ask(FEATURE, &bytes!(8u32, SET | STOP)).errno(), None);
            }
            assert_eq!(start(&peer, 4096), None);
            drop(peer); // while it logs
            let peer = scene.begin();
            assert_eq!(report(&peer, BASE, SIZE, 4096).errno(), INVALID, "the log has ended");
        }
    });
}

#[test]
fn g10_writes_while_it_is_reported() {
    both(|scene| {
        let peer = scene.begin();
        let ram = SharedRam::new(BASE, SIZE).unwrap();
        assert_eq!(peer.map_fd(BASE, SIZE, 3, 0, Some(ram.as_fd())), None);
        assert_eq!(start(&peer, 4096), None);
        for _ in 0..times(50, 10_000) {
            peer.operate(crate::specimen::WRITE, BASE, SIZE as u32);
            let mut told = vec![0u8; SIZE as usize / 4096 / 8];
            let mut take = |answer: RawMessage| {
                assert_eq!(answer.errno(), None);
                told.iter_mut().zip(&answer.payload[32..]).for_each(|(all, new)| *all |= new);
            };
            take(report(&peer, BASE, SIZE, 4096));
            assert_eq!(peer.outcome(), Ok(()));
            take(report(&peer, BASE, SIZE, 4096));
            assert!(told.iter().all(|byte| *byte == 0xff), "{told:x?}");
        }
    });
}

/// What a client that leaves makes of each state.
fn left_in(scene: &Scene, begun: u32) -> u32 {
    let peer = scene.begin();
    assert_eq!(peer.errno(RESET, &[]), None);
    assert_eq!(set_state(&peer, begun), None);
    drop(peer);
    let peer = scene.begin();
    peer.in_sync();
    let left = state(&peer);
    assert_eq!(peer.errno(RESET, &[]), None, "a new client can always reset");
    assert_eq!(state(&peer), RUNNING);
    left
}

#[test]
fn g11_clients_that_leave_in_every_state() {
    both(|scene| {
        for (begun, left) in
            [(RUNNING, RUNNING), (STOPPED, STOPPED), (STOP_COPY, STOPPED), (RESUMING, ERROR)]
        {
            assert_eq!(left_in(scene, begun), left, "{begun}");
        }
        if scene.differs(false, true, "only the device in C sends anything early") {
            assert_eq!(left_in(scene, PRE_COPY), RUNNING);
        }
    });
}
