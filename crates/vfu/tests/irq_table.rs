//! I2: every combination of flags, descriptors, count and index of DEVICE_SET_IRQS, against the table of
//! what the specification allows.

mod irq_bench;

use std::os::fd::BorrowedFd;

use irq_bench::{Silent, VECTORS, counts, pci};
use vfu::Server;
use vfu::wire::{Command, Errno};
use vfu_testkit::{Interrupts, RawPeer, message, serve_in_process};

const NONE: u32 = 1 << 0;
const BOOL: u32 = 1 << 1;
const EVENTFD: u32 = 1 << 2;
const MASK: u32 = 1 << 3;
const UNMASK: u32 = 1 << 4;
const TRIGGER: u32 = 1 << 5;

/// How many vectors each index has.
const COUNTS: [u32; 5] = [1, 4, VECTORS as u32, 1, 1];

/// Whether the specification allows it.
fn allowed(flags: u32, index: u32, start: u32, count: u32, bytes: usize, fds: usize) -> bool {
    let (data, action) = (flags & 0b111, flags & 0b11_1000);
    if !data.is_power_of_two() || !action.is_power_of_two() {
        return false;
    }
    let have = COUNTS[index as usize];
    let disables = flags == NONE | TRIGGER && (start, count) == (0, 0);
    let fds_fit = match flags {
        f if f == EVENTFD | TRIGGER => fds == 0 || fds == count as usize,
        _ => fds == 0,
    };
    let range = disables || (count > 0 && start < have && count <= have - start);
    // Bytes that nobody asked for are ignored.
    let bytes_fit = data != BOOL || bytes == count as usize;
    let maskable = index < 3 || action == TRIGGER;
    range && fds_fit && bytes_fit && maskable
}

#[test]
fn every_combination_is_answered_by_the_table() {
    let served = serve_in_process(Server::builder(pci()), |_| Silent).unwrap();
    let peer = RawPeer::begin(served.path()).unwrap();
    let interrupts = Interrupts::new(5).unwrap();
    let fds = interrupts.fds();
    let try_one = |flags: u32, index: u32, (start, count): (u32, u32), bytes: &[u8], n: usize| {
        let mut payload: Vec<u8> = [20, flags, index, start, count]
            .iter()
            .flat_map(|word: &u32| word.to_le_bytes())
            .collect();
        payload.extend(bytes);
        let chosen: &[BorrowedFd<'_>] = &fds[..n];
        let request = message(1, Command::DeviceSetIrqs.as_u16(), 0, &payload);
        peer.send_with(&request, chosen).unwrap();
        let reply = peer.recv_reply(1, Command::DeviceSetIrqs).unwrap();
        let expected = if allowed(flags, index, start, count, bytes.len(), n) {
            None
        } else {
            Some(Errno::EINVAL)
        };
        let what = format!("flags {flags:#b} index {index} {start}+{count} {bytes:?} {n} fds");
        assert_eq!(reply.errno(), expected, "{what}");
        assert!(reply.payload.is_empty(), "{what}");
    };
    for flags in 0..64 {
        for index in 0..5 {
            let have = COUNTS[index as usize];
            for start in [0, 1, have] {
                for count in [0, 1, 2, have, have + 1] {
                    let right = vec![1; count as usize];
                    for bytes in [&[][..], &right] {
                        for n in [0, 1, 2, 5] {
                            try_one(flags, index, (start, count), bytes, n);
                        }
                    }
                }
            }
        }
    }
    // Whatever is left of that, the client can put it in order.
    for index in 0..5 {
        try_one(NONE | TRIGGER, index, (0, 0), &[], 0);
        counts(&interrupts);
        try_one(EVENTFD | TRIGGER, index, (0, 1), &[], 1);
        try_one(NONE | TRIGGER, index, (0, 1), &[], 0);
        assert_eq!(counts(&interrupts), [1, 0, 0, 0, 0], "index {index}");
        if index < 3 {
            try_one(NONE | MASK, index, (0, 1), &[], 0);
            try_one(NONE | UNMASK, index, (0, 1), &[], 0);
        }
    }
}

#[test]
fn unknown_flags_are_refused() {
    let served = serve_in_process(Server::builder(pci()), |_| Silent).unwrap();
    let peer = RawPeer::begin(served.path()).unwrap();
    for bit in 6..32 {
        let words = [20, NONE | TRIGGER | 1 << bit, 2, 0, 1];
        let payload: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        peer.send(&message(1, Command::DeviceSetIrqs.as_u16(), 0, &payload)).unwrap();
        let reply = peer.recv_reply(1, Command::DeviceSetIrqs).unwrap();
        assert_eq!(reply.errno(), Some(Errno::EINVAL), "bit {bit}");
    }
}
