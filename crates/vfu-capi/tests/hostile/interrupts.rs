//! I1 to I7: DEVICE_SET_IRQS.

use std::os::fd::AsFd;

use vfu_testkit::{Interrupts, message};

use crate::specimen::RAISE;
use crate::talk::{INVALID, borrowed, bytes, eventfds};
use crate::{both, times};

const IRQS: u16 = 8;
const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 0x10;
const TRIGGER: u32 = 0x20;
const MSIX: u32 = 2;
/// Vectors of each type.
const COUNTS: [u32; 5] = [1, 0, 4, 1, 1];

#[test]
fn i01_ranges_that_wrap() {
    both(|scene| {
        let peer = scene.begin();
        for (start, count) in [
            (u32::MAX, 2),
            (4, 1),
            (4, 0),
            (0, 5),
            (0, u32::MAX),
            (1, u32::MAX),
            (u32::MAX, u32::MAX),
            (1, 0),
        ] {
            for data in [NONE, BOOL, EVENTFD] {
                for action in [MASK, UNMASK, TRIGGER] {
                    let errno = peer.set_irqs(data | action, MSIX, start, count, &[]);
                    assert_eq!(errno, INVALID, "{start:#x} {count:#x} {data} {action}");
                }
            }
        }
        // Bytes that are missing, or too many.
        for len in [0, 1, 3, 5] {
            let payload = [bytes!(24u32, BOOL | TRIGGER, MSIX, 0u32, 4u32), vec![1; len]].concat();
            assert_eq!(peer.errno(IRQS, &payload), INVALID, "{len}");
        }
        for len in [0, 4, 19] {
            assert_eq!(
                peer.errno(IRQS, &bytes!(20u32, NONE | MASK, MSIX, 0u32, 4u32)[..len]),
                INVALID
            );
        }
    });
}

/// What the table of the protocol's section 9.2 says; and whether descriptors by which a client masks are
/// closed and the mask done all the same, as the C library does.
fn is_allowed(flags: u32, index: u32, count: u32, fds: usize, masks_by_fd: bool) -> bool {
    let (data, action) = (flags & 7, flags & 0x38);
    let vectors = COUNTS[index as usize];
    if data.count_ones() != 1 || action.count_ones() != 1 {
        return false;
    }
    if fds > 0 {
        let takes_fds = data == EVENTFD && (action == TRIGGER || masks_by_fd);
        if !takes_fds || fds != count as usize {
            return false;
        }
    }
    if count == 0 {
        return flags == NONE | TRIGGER;
    }
    count <= vectors && (index < 3 || action == TRIGGER)
}

#[test]
fn i02_every_combination() {
    both(|scene| {
        let peer = scene.begin();
        let events = eventfds(5);
        let masks_by_fd = scene.differs(false, true, "the C library closes them, and masks");
        for flags in 0..64u32 {
            for index in 0..5u32 {
                for count in [0u32, 1, 4] {
                    for fds in [0, 1, 4] {
                        let given = &borrowed(&events)[..fds];
                        let data =
                            if flags & 7 == BOOL { vec![1; count as usize] } else { Vec::new() };
                        let payload =
                            [bytes!(20 + data.len() as u32, flags, index, 0u32, count), data]
                                .concat();
                        let errno = peer.ask_with(IRQS, &payload, given).errno();
                        let allowed = is_allowed(flags, index, count, fds, masks_by_fd);
                        assert_eq!(
                            errno.is_none(),
                            allowed,
                            "{flags:#x} {index} {count} {fds}: {errno:?}"
                        );
                    }
                }
            }
        }
        for bit in 6..32 {
            assert_eq!(
                peer.set_irqs(NONE | TRIGGER | 1 << bit, MSIX, 0, 1, &[]),
                INVALID,
                "bit {bit}"
            );
        }
        for index in [5, 6, u32::MAX] {
            assert_eq!(peer.set_irqs(NONE | TRIGGER, index, 0, 0, &[]), INVALID);
        }
    });
}

#[test]
fn i03_descriptors_that_do_not_fit() {
    both(|scene| {
        let peer = scene.begin();
        let events = eventfds(20);
        let before = scene.fds();
        for (flags, count, fds) in [
            (EVENTFD | TRIGGER, 4, 3),
            (EVENTFD | TRIGGER, 1, 2),
            (EVENTFD | TRIGGER, 4, 20),
            (NONE | TRIGGER, 1, 1),
            (BOOL | TRIGGER, 0, 1),
            (NONE | MASK, 4, 4),
            (0, 0, 20),
        ] {
            let errno = peer.set_irqs(flags, MSIX, 0, count, &borrowed(&events)[..fds]);
            assert_eq!(errno, INVALID, "{flags:#x} {count} {fds}");
        }
        peer.in_sync();
        assert_eq!(scene.fds(), before, "all are closed");
    });
}

#[test]
fn i04_eventfds_again_and_again() {
    both(|scene| {
        let peer = scene.begin();
        let events = eventfds(4);
        assert_eq!(peer.set_irqs(EVENTFD | TRIGGER, MSIX, 0, 4, &borrowed(&events)), None);
        let before = scene.fds();
        for n in 0..times(2000, 1_000_000) {
            let events = eventfds(4);
            let given = &borrowed(&events)[..1 + n % 4];
            assert_eq!(peer.set_irqs(EVENTFD | TRIGGER, MSIX, 0, given.len() as u32, given), None);
        }
        assert_eq!(scene.fds(), before);
    });
}

#[test]
fn i05_interrupts_while_eventfds_come_and_go() {
    both(|scene| {
        let peer = scene.begin();
        for n in 0..times(300, 100_000) {
            let irqs = Interrupts::new(4).unwrap();
            assert_eq!(peer.set_irqs(EVENTFD | TRIGGER, MSIX, 0, 4, &irqs.fds()), None);
            peer.operate(RAISE, 0, n as u32 % 4);
            let gone = if n % 2 == 0 { (0, 0, NONE) } else { (0, 4, EVENTFD) };
            assert_eq!(peer.set_irqs(gone.2 | TRIGGER, MSIX, gone.0, gone.1, &[]), None);
            let _either = peer.outcome();
            // What is written later goes nowhere.
            let counts: u64 = (0..4).map(|vector| irqs.count_now(vector).unwrap()).sum();
            peer.operate(RAISE, 0, n as u32 % 4);
            let _no_eventfd = peer.outcome();
            let more: u64 = (0..4).map(|vector| irqs.count_now(vector).unwrap()).sum();
            assert!(counts <= 1 && more == 0, "{counts} {more}");
        }
    });
}

#[test]
fn i06_one_eventfd_for_several() {
    both(|scene| {
        let peer = scene.begin();
        let irqs = Interrupts::new(1).unwrap();
        let same = irqs.fds()[0];
        assert_eq!(peer.set_irqs(EVENTFD | TRIGGER, MSIX, 0, 4, &[same; 4]), None);
        assert_eq!(peer.set_irqs(EVENTFD | TRIGGER, 0, 0, 1, &[same.as_fd()]), None);
        assert_eq!(peer.set_irqs(EVENTFD | TRIGGER, 4, 0, 1, &[same.as_fd()]), None);
        assert_eq!(peer.set_irqs(NONE | TRIGGER, MSIX, 0, 4, &[]), None);
        assert_eq!(irqs.wait(0).unwrap(), 4);
        assert_eq!(peer.set_irqs(NONE | TRIGGER, 0, 0, 0, &[]), None, "one type goes");
        assert_eq!(peer.set_irqs(NONE | TRIGGER, MSIX, 1, 1, &[]), None);
        assert_eq!(irqs.wait(0).unwrap(), 1, "the other stays");
    });
}

#[test]
fn i07_a_storm_of_masks() {
    both(|scene| {
        let peer = scene.begin();
        let irqs = Interrupts::new(4).unwrap();
        assert_eq!(peer.set_irqs(EVENTFD | TRIGGER, MSIX, 0, 4, &irqs.fds()), None);
        let before = scene.rss();
        let one = |n: u16| {
            let action = if n % 2 == 0 { MASK } else { UNMASK };
            message(n, IRQS, 0x10, &bytes!(20u32, NONE | action, MSIX, u32::from(n % 4), 1u32))
        };
        let storm: Vec<u8> = (0..1000).flat_map(one).collect();
        for _ in 0..times(20, 1000) {
            peer.send(&storm).unwrap();
        }
        assert_eq!(peer.set_irqs(NONE | UNMASK, MSIX, 0, 4, &[]), None);
        peer.operate(RAISE, 0, 3);
        assert_eq!(peer.outcome(), Ok(()));
        assert!(irqs.wait(3).unwrap() >= 1);
        assert!(scene.rss() < before + (8 << 20));
    });
}
