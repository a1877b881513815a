//! Each limit of [`vfu::Limits`], reached, and what is answered then.
//!
//! | limit | test |
//! |---|---|
//! | `max_message` | `framing.rs` |
//! | `outstanding` | `crossing_flow.rs` c18, `crossing_client.rs` k6 |
//! | `zombies` | `crossing_reset.rs` c2f |
//! | `queued_commands`, `queued_bytes` | here |
//! | `stray_replies` | `crossing_twin.rs` c10c |
//! | `misplaced_commands` | here; for a client, `crossing_client.rs` c8b |
//! | `unsent_bytes`, `send_timeout` | `crossing_flow.rs` c19; `unsent_bytes` of a client, k6 |
//! | `reply_timeout`, `handler_timeout` | `crossing_timeout.rs` c7a, c7e; for a client, k3 |
//! | `handshake_timeout`, `message_timeout` | here |

mod crossing;

use std::sync::mpsc::channel;
use std::time::Duration;

use crossing::*;
use vfu::wire::{Command, Errno, RegionWriteRequest, Request};
use vfu::{DmaError, Fault, Limits};
use vfu_testkit::{RawPeer, command};

/// A register that is fetched from memory.
fn fetcher(
    style: Style,
    limits: Limits,
) -> (Bench, std::sync::mpsc::Receiver<Result<(), DmaError>>) {
    let (outcome, outcomes) = channel();
    let bench = Bench::of(style, limits, |gadget| {
        gadget.on_read(move |handle, _, data, _| {
            let read = handle.dma().read(BASE, data);
            outcome.send(read.clone()).unwrap();
            read.map_err(|_| Fault::Denied)
        })
    });
    (bench, outcomes)
}

/// When the queue is full the main socket is not read. If the DMA reply is on it, T ends the wait.
#[test]
fn queued_commands() {
    for (style, twin) in worlds() {
        let limits = Limits { queued_commands: 8, ..impatient(if twin { 20_000 } else { 100 }) };
        let (bench, outcomes) = fetcher(style, limits);
        let peer = bench.peer(twin);
        peer.main.send(&reg_read(1, HOOK, 4)).unwrap();
        let (asked, at, _) = peer.asked();
        let many: Vec<u8> = (100..150).flat_map(|id| reg_read(id, 0, 4)).collect();
        peer.main.send(&many).unwrap();
        peer.give(&asked, &read_reply(at, b"here"));
        let (ended, data) = match twin {
            true => (Ok(()), *b"here"),
            false => (Err(DmaError::TimedOut), [0xff; 4]),
        };
        assert_eq!(outcomes.recv().unwrap(), ended, "{style:?}");
        assert_eq!(reg_data(&peer.main, 1), data);
        for id in 100..150 {
            assert_eq!(reg_data(&peer.main, id), [0; 4]);
        }
        peer.is_quiet();
        let counters = bench.handle.counters().unwrap();
        assert!(counters.queue_peak <= 8, "{counters:?}");
        assert_eq!(counters.late_replies, u64::from(!twin));
    }
}

#[test]
fn queued_bytes() {
    for style in STYLES {
        let limits = Limits { queued_bytes: 64 << 10, ..forever() };
        let (bench, outcomes) = fetcher(style, limits);
        let peer = bench.peer(true);
        peer.main.send(&reg_read(1, HOOK, 4)).unwrap();
        let (asked, at, _) = peer.asked();
        let data = vec![1; 30 << 10];
        let write = RegionWriteRequest { offset: 0, region: 2, data: &data };
        for id in 10..15 {
            peer.main.send(&command(id, &Request::RegionWrite(write))).unwrap();
        }
        peer.give(&asked, &read_reply(at, b"here"));
        assert_eq!(outcomes.recv().unwrap(), Ok(()));
        assert_eq!(reg_data(&peer.main, 1), b"here");
        for id in 10..15 {
            done(&peer.main, id, Command::RegionWrite);
        }
        let counters = bench.handle.counters().unwrap();
        assert!(counters.queue_peak <= 3, "{counters:?}");
    }
}

/// Answers that a device owes are commands that wait, too.
#[test]
fn queued_commands_that_are_answered_later() {
    for (style, twin) in worlds() {
        let (keep, kept) = channel();
        let bench = Bench::of(style, Limits { queued_commands: 4, ..forever() }, |gadget| {
            gadget.on_read(move |_, _, _, defer| {
                keep.send(defer.later().unwrap()).unwrap();
                Ok(())
            })
        });
        let peer = bench.peer(twin);
        let commands: Vec<u8> = (0..20).flat_map(|id| reg_read(id, HOOK, 4)).collect();
        peer.main.send(&commands).unwrap();
        for id in 0..20u16 {
            let ahead: Vec<_> = (id..20.min(id + 4)).collect();
            assert!(!ahead.is_empty());
            kept.recv().unwrap().give(&[id as u8; 4]);
            assert_eq!(reg_data(&peer.main, id), [id as u8; 4]);
        }
        peer.is_quiet();
        // Four are given away, and the fifth waits for one of them.
        peer.main.send(&commands[..5 * reg_read(0, HOOK, 4).len()]).unwrap();
        let mut open: Vec<_> = (0..4).map(|_| kept.recv().unwrap()).collect();
        peer.dma_works(&bench.handle);
        assert!(kept.try_recv().is_err(), "{style:?}");
        open.remove(0).give(&[1]);
        open.push(kept.recv().unwrap());
        drop(open);
        let mut ids: Vec<_> = (0..5).map(|_| peer.main.recv().unwrap().header.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3, 4]);
        peer.is_quiet();
    }
}

#[test]
fn misplaced_commands() {
    for style in STYLES {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(true);
        let reads = FACES.map(|face| {
            let read = face.read(&bench.handle, BASE, 4);
            peer.asked();
            read
        });
        for id in 0..64 {
            peer.dma().send(&reset(id)).unwrap();
            let refused = peer.dma().recv_reply(id, Command::DeviceReset).unwrap();
            assert_eq!(refused.errno(), Some(Errno::EINVAL));
        }
        peer.is_quiet();
        peer.dma().send(&reset(64)).unwrap();
        peer.main.expect_eof().unwrap();
        for read in reads {
            assert_eq!(read.end(), Err(DmaError::NotConnected));
        }
    }
}

#[test]
fn handshake_timeout() {
    for style in STYLES {
        let handshake_timeout = Some(Duration::from_millis(60));
        let bench = Bench::plain(style, Limits { handshake_timeout, ..forever() });
        RawPeer::connect(&bench.path).unwrap().expect_eof().unwrap();
        let slow = RawPeer::connect(&bench.path).unwrap();
        slow.send(&RawPeer::version(1, 0, 1, Some("{}"))[..20]).unwrap();
        slow.expect_eof().unwrap();
        // Nobody was a client yet; and it is over when VERSION is.
        assert_eq!(bench.log.all().len(), 0);
    }
}

#[test]
fn message_timeout() {
    for (style, twin) in worlds() {
        let message_timeout = Some(Duration::from_millis(60));
        let bench = Bench::plain(style, Limits { message_timeout, ..forever() });
        for on_twin in [false, twin] {
            let peer = bench.peer(twin);
            let read = start_read(&bench.handle, BASE, 4);
            let (asked, at, _) = peer.asked();
            if on_twin {
                let answer = asked.reply(&read_reply(at, b"half"));
                peer.dma().send(&answer[..answer.len() - 1]).unwrap();
            } else {
                peer.main.send(&reg_read(1, 0, 4)[..17]).unwrap();
            }
            assert_eq!(read.end(), Err(DmaError::NotConnected), "{style:?} {twin} {on_twin}");
            peer.main.expect_eof().unwrap();
            bench.log.wait_for("reset ConnectionLost", 1);
        }
    }
}

/// With nobody who waits in a thread.
#[test]
fn message_timeout_of_an_idle_session() {
    for (style, twin) in worlds() {
        let message_timeout = Some(Duration::from_millis(60));
        let bench = Bench::plain(style, Limits { message_timeout, ..forever() });
        let peer = bench.peer(twin);
        peer.main.send(&reg_read(1, 0, 4)[..17]).unwrap();
        peer.main.expect_eof().unwrap();
    }
}
