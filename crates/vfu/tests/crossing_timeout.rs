//! Crossing traffic, time: a reply that does not come, or comes late (C7).

mod crossing;

use std::time::Duration;

use crossing::*;
use vfu::wire::Command;
use vfu::{DmaError, Fault, Limits};

#[test]
fn c7a_a_transfer_without_a_reply_ends() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, impatient(60));
        let peer = bench.peer(twin);
        for (round, face) in FACES.into_iter().enumerate() {
            let read = face.read(&bench.handle, BASE, 16);
            peer.asked();
            let write = face.write(&bench.handle, BASE, vec![1; 16]);
            peer.told();
            // Nothing comes from the client, and nothing else asks.
            assert_eq!(read.end(), Err(DmaError::TimedOut), "{face:?} {style:?} {twin}");
            assert_eq!(write.end(), Err(DmaError::TimedOut), "{face:?} {style:?} {twin}");
            assert_eq!(bench.handle.counters().unwrap().timeouts, 2 * (round as u64 + 1));
            peer.is_quiet();
        }
        assert_eq!(DmaError::TimedOut.errno(), vfu::wire::Errno::ETIMEDOUT);
    }
}

#[test]
fn c7b_a_late_reply_is_dropped() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, impatient(60));
        let peer = bench.peer(twin);
        for (round, face) in FACES.into_iter().enumerate() {
            let read = face.read(&bench.handle, BASE, 16);
            let (asked, at, _) = peer.asked();
            let write = face.write(&bench.handle, BASE, vec![1; 16]);
            let (told, ..) = peer.told();
            assert_eq!(read.end(), Err(DmaError::TimedOut));
            assert_eq!(write.end(), Err(DmaError::TimedOut));
            peer.give(&asked, &read_reply(at, &[0x55; 16]));
            // Even if it makes no sense.
            peer.give(&told, &[0x55; 4000]);
            peer.works();
            late(&bench, 2 * (round as u64 + 1), &peer);
            peer.is_quiet();
        }
    }
}

/// Waits until so many late replies have been seen. On two sockets nothing says in which order.
fn late(bench: &Bench, count: u64, peer: &Peer) {
    let deadline = std::time::Instant::now() + vfu_testkit::DEADLINE;
    while bench.handle.counters().unwrap().late_replies < count {
        assert!(std::time::Instant::now() < deadline, "{:?}", bench.handle.counters());
        peer.works();
    }
    assert_eq!(bench.handle.counters().unwrap().late_replies, count);
}

#[test]
fn c7c_a_reply_that_is_half_there_is_late_too() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, impatient(80));
        let peer = bench.peer(twin);
        for (round, face) in FACES.into_iter().enumerate() {
            let mut buffer = vec![0xee; 4096];
            let (asked, at) = if face == Face::Blocking {
                // The buffer is the device's: look at what became of it.
                let dma = bench.handle.dma();
                std::thread::scope(|scope| {
                    let read = scope.spawn(|| dma.read(BASE, &mut buffer));
                    let (asked, at, count) = peer.asked();
                    let reply = asked.reply(&read_reply(at, &vec![0x55; count]));
                    peer.dma().send(&reply[..1000]).unwrap();
                    assert_eq!(read.join().unwrap(), Err(DmaError::TimedOut));
                    (asked, at)
                })
            } else {
                let read = face.read(&bench.handle, BASE, 4096);
                let (asked, at, count) = peer.asked();
                let reply = asked.reply(&read_reply(at, &vec![0x55; count]));
                peer.dma().send(&reply[..1000]).unwrap();
                assert_eq!(read.end(), Err(DmaError::TimedOut), "{face:?} {style:?} {twin}");
                (asked, at)
            };
            let reply = asked.reply(&read_reply(at, &vec![0x55; 4096]));
            peer.dma().send_split(&reply[1000..], &[1, 500]).unwrap();
            peer.works();
            late(&bench, round as u64 + 1, &peer);
            assert!(buffer.iter().all(|byte| *byte == 0xee), "the buffer is the device's again");
        }
    }
}

#[test]
fn c7d_without_a_timeout_only_an_end_ends_it() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for face in FACES {
            let begin = || {
                let read = face.read(&bench.handle, BASE, 16);
                peer.asked();
                peer.is_quiet();
                assert!(!read.has_ended());
                read
            };
            let read = begin();
            peer.main.send(&reset(1)).unwrap();
            done(&peer.main, 1, Command::DeviceReset);
            assert_eq!(read.end(), Err(DmaError::Canceled), "{face:?}");
            peer.main.enable_bus_master().unwrap();
            let read = begin();
            peer.main.send(&unmap(2, BASE, SIZE)).unwrap();
            done(&peer.main, 2, Command::DmaUnmap);
            assert_eq!(read.end(), Err(DmaError::Canceled), "{face:?}");
            peer.map(BASE, SIZE);
        }
        let reads = FACES.map(|face| {
            let read = face.read(&bench.handle, BASE, 16);
            peer.asked();
            read
        });
        drop(peer);
        for read in reads {
            assert_eq!(read.end(), Err(DmaError::NotConnected));
        }
    }
}

/// The handler's answer is what PCI gives when nobody is there, and the stream goes on.
#[test]
fn c7e_a_handler_that_waits_in_vain_answers_after_t() {
    for (style, twin) in worlds() {
        let bench = Bench::of(style, impatient(80), |gadget| {
            gadget
                .on_read(|handle, _, data, _| {
                    handle.dma().read(BASE, data).map_err(|_| Fault::Denied)
                })
                .on_write(|handle, _, data, _| {
                    handle.dma().write(BASE, data).map_err(|_| Fault::Denied)
                })
        });
        let peer = bench.peer(twin);
        peer.main.send(&reg_read(1, HOOK, 4)).unwrap();
        let (asked, at, _) = peer.asked();
        assert_eq!(reg_data(&peer.main, 1), [0xff; 4]);
        peer.main.send(&reg_write(2, HOOK, &[1; 4])).unwrap();
        let (told, ..) = peer.told();
        done(&peer.main, 2, Command::RegionWrite);
        peer.give(&asked, &read_reply(at, b"late"));
        peer.ack(&told, BASE, 4);
        peer.works();
        late(&bench, 2, &peer);
        peer.is_quiet();
    }
}

/// However often a handler asks, its time is limited as a whole.
#[test]
fn c7e_a_handler_has_a_budget() {
    for (style, twin) in worlds() {
        let limits = Limits {
            handler_timeout: Some(Duration::from_millis(450)),
            reply_timeout: Some(Duration::from_millis(300)),
            ..Limits::default()
        };
        let (ended, ends) = std::sync::mpsc::channel();
        let bench = Bench::of(style, limits, |gadget| {
            gadget.on_read(move |handle, at, data, _| {
                for _ in 0..50 {
                    ended.send(handle.dma().read(BASE + at.offset, data)).unwrap();
                }
                Err(Fault::Denied)
            })
        });
        let peer = bench.peer(twin);
        peer.main.send(&reg_read(1, HOOK, 4)).unwrap();
        let mut asked = 0;
        // What is asked when the time is over need not be sent at all.
        loop {
            if peer.twin.is_some() {
                if peer.main.has_input().unwrap() {
                    break;
                }
                if !peer.dma().has_input().unwrap() {
                    std::thread::yield_now();
                    continue;
                }
            }
            let message = peer.dma().recv().unwrap();
            if message.header.command == Command::RegionRead.as_u16() {
                break;
            }
            asked += 1;
        }
        if peer.twin.is_some() {
            assert_eq!(reg_data(&peer.main, 1), [0xff; 4]);
        }
        for _ in 0..50 {
            assert_eq!(ends.recv().unwrap(), Err(DmaError::TimedOut));
        }
        assert!(asked <= 3, "{asked} requests in 450 ms of which each takes 300");
        // The next handler has a time of its own.
        peer.main.send(&reg_read(2, HOOK + 4, 4)).unwrap();
        let (next, at, _) = loop {
            let message = peer.asked();
            if message.1 == BASE + HOOK + 4 {
                break message;
            }
        };
        peer.give(&next, &read_reply(at, &[1; 4]));
        assert_eq!(ends.recv().unwrap(), Ok(()));
    }
}

/// No room for its request is no reason to wait longer.
#[test]
fn c7e_a_handler_without_room_ends_in_time() {
    for (style, twin) in worlds() {
        let handler_timeout = Some(Duration::from_millis(60));
        let limits = Limits { outstanding: 1, handler_timeout, ..forever() };
        let (ended, ends) = std::sync::mpsc::channel();
        let bench = Bench::of(style, limits, |gadget| {
            gadget.on_read(move |handle, _, data, _| {
                ended.send(handle.dma().read(BASE, data)).unwrap();
                Err(Fault::Denied)
            })
        });
        let peer = bench.peer(twin);
        let other = Face::Future.read(&bench.handle, BASE, 4);
        let (asked, at, _) = peer.asked();
        peer.main.send(&reg_read(1, HOOK, 4)).unwrap();
        assert_eq!(reg_data(&peer.main, 1), [0xff; 4], "{style:?} {twin}");
        assert_eq!(ends.recv().unwrap(), Err(DmaError::TimedOut));
        // The other one has all the time there is.
        peer.give(&asked, &read_reply(at, b"good"));
        assert_eq!(other.end(), Ok(b"good".to_vec()));
        peer.is_quiet();
    }
}

/// Nor is a client that reads nothing.
#[test]
fn c7f_a_transfer_without_room_ends_in_time() {
    for (style, twin) in worlds() {
        let limits = Limits { unsent_bytes: 4096, send_timeout: None, ..impatient(60) };
        let bench = Bench::plain(style, limits);
        let peer = bench.peer(twin);
        let mut sent = 0;
        loop {
            let write = start_write(&bench.handle, BASE, vec![1; 1 << 20]);
            assert_eq!(write.end(), Err(DmaError::TimedOut), "{style:?} {twin}");
            // One that was not even sent did not time out as a request.
            let timeouts = bench.handle.counters().unwrap().timeouts;
            if timeouts == sent {
                break;
            }
            sent = timeouts;
        }
        drop(peer);
    }
}
