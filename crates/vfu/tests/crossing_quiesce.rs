//! Crossing traffic and devices that come to rest (C4). What changes the state of migration (C5)
//! is in `migration.rs`.

mod crossing;

use std::sync::mpsc::{Receiver, Sender, channel};

use crossing::*;
use vfu::wire::{Command, DmaMap, Errno, Request};
use vfu::{DmaError, Quiescing};
use vfu_testkit::command;

const OTHER: u64 = 0x1000;

fn map(id: u16) -> Vec<u8> {
    let map = DmaMap { flags: READ_WRITE, offset: 0, address: OTHER, size: 0x1000 };
    command(id, &Request::DmaMap(map))
}

/// The commands that a device comes to rest for.
fn changes() -> [(Command, Vec<u8>); 3] {
    [
        (Command::DmaMap, map(10)),
        (Command::DmaUnmap, unmap(10, OTHER, 0x1000)),
        (Command::DeviceReset, reset(10)),
    ]
}

/// A device that takes its time from the moment that it is told to.
fn slow(style: Style) -> (Bench, Sender<bool>, Receiver<Quiescing>) {
    let (slow, is_slow) = channel();
    let (token, tokens) = channel();
    let bench = Bench::of(style, forever(), |gadget| {
        let mut takes_time = false;
        gadget.on_quiesce(move |_, quiesce| {
            takes_time = is_slow.try_iter().last().unwrap_or(takes_time);
            if takes_time {
                token.send(quiesce.later()).unwrap();
            }
            Ok(())
        })
    });
    (bench, slow, tokens)
}

#[test]
fn c4a_a_change_waits_for_the_device_and_dma_goes_on() {
    for (style, twin) in worlds() {
        let (bench, slow, tokens) = slow(style);
        let peer = bench.peer(twin);
        for face in FACES {
            for (name, change) in changes() {
                // Begun before it.
                let read = face.read(&bench.handle, BASE, 4);
                let (asked, at, _) = peer.asked();
                slow.send(true).unwrap();
                peer.main.send(&change).unwrap();
                let token = tokens.recv().unwrap();
                slow.send(false).unwrap();
                peer.give(&asked, &read_reply(at, b"good"));
                assert_eq!(read.end(), Ok(b"good".to_vec()), "{face:?} {style:?} {twin}");
                // Begun on the way to rest.
                peer.dma_works(&bench.handle);
                let write = face.write(&bench.handle, BASE, vec![1; 4]);
                let (told, ..) = peer.told();
                peer.ack(&told, BASE, 4);
                assert_eq!(write.end(), Ok(()), "{face:?} {style:?} {twin}");
                assert!(!peer.main.has_input().unwrap(), "the command waits");
                let resumed = bench.log.count("resume");
                token.done();
                done(&peer.main, 10, name);
                bench.log.wait_for("resume", resumed + 1);
                peer.main.enable_bus_master().unwrap();
                peer.dma_works(&bench.handle);
            }
        }
    }
}

/// What comes behind it waits, too, in order.
#[test]
fn c4a_what_comes_behind_a_change_waits() {
    for (style, twin) in worlds() {
        let (bench, slow, tokens) = slow(style);
        let peer = bench.peer(twin);
        slow.send(true).unwrap();
        let behind = [map(1), reg_write(2, 0, b"next"), reset(3), reg_read(4, 0, 4)];
        peer.main.send(&behind.concat()).unwrap();
        let token = tokens.recv().unwrap();
        peer.dma_works(&bench.handle);
        assert!(!peer.main.has_input().unwrap());
        // Dropped: that is at rest, too.
        drop(token);
        done(&peer.main, 1, Command::DmaMap);
        done(&peer.main, 2, Command::RegionWrite);
        let token = tokens.recv().unwrap();
        // From another thread.
        std::thread::spawn(move || token.done()).join().unwrap();
        done(&peer.main, 3, Command::DeviceReset);
        assert_eq!(reg_data(&peer.main, 4), b"next");
        slow.send(false).unwrap();
        peer.is_quiet();
    }
}

/// Tries a transfer from another thread in the callback of the change.
fn at_rest(style: Style, at_once: bool) -> (Bench, Receiver<Result<Vec<u8>, DmaError>>) {
    let (outcome, outcomes) = channel();
    let bench = Bench::of(style, forever(), |gadget| {
        gadget
            .on_quiesce(move |_, quiesce| {
                if at_once {
                    quiesce.now();
                } else {
                    quiesce.later().done();
                }
                Ok(())
            })
            .on_notice(move |handle, what| {
                if what == "mapped" {
                    for face in FACES {
                        outcome.send(face.read(handle, BASE, 4).end()).unwrap();
                    }
                }
            })
    });
    (bench, outcomes)
}

#[test]
fn c4a_a_device_at_rest_gets_ebusy() {
    for (style, twin) in worlds() {
        for at_once in [false, true] {
            let (bench, outcomes) = at_rest(style, at_once);
            // The mapping itself is what it comes to rest for.
            let peer = bench.peer(twin);
            for _ in FACES {
                let refused = outcomes.recv().unwrap();
                assert_eq!(refused, Err(DmaError::Busy), "{style:?} {at_once}");
            }
            assert_eq!(DmaError::Busy.errno(), Errno::EBUSY);
            peer.is_quiet();
            assert_eq!(bench.log.all(), ["mapped 0x100000", "resume"]);
            peer.dma_works(&bench.handle);
        }
    }
}

/// On its way to rest, in the callback itself, a device may finish what it is at.
#[test]
fn c4a_dma_while_coming_to_rest() {
    for (style, twin) in worlds() {
        let (armed, is_armed) = channel();
        let bench = Bench::of(style, forever(), |gadget| {
            gadget.on_quiesce(move |handle, quiesce| {
                if is_armed.try_recv().is_ok() {
                    handle.dma().write(BASE, b"rest").unwrap();
                }
                quiesce.now();
                Ok(())
            })
        });
        let peer = bench.peer(twin);
        armed.send(()).unwrap();
        peer.main.send(&map(1)).unwrap();
        let (told, at, data) = peer.told();
        assert_eq!((at, &data[..]), (BASE, &b"rest"[..]));
        peer.ack(&told, BASE, 4);
        done(&peer.main, 1, Command::DmaMap);
        peer.is_quiet();
    }
}

#[test]
fn c4b_a_device_that_cannot_come_to_rest_fails_the_command() {
    for (style, twin) in worlds() {
        let (bench, slow, tokens) = slow(style);
        let peer = bench.peer(twin);
        slow.send(true).unwrap();
        for (name, change) in changes() {
            peer.main.send(&change).unwrap();
            tokens.recv().unwrap().failed(Errno::EAGAIN);
            let reply = peer.main.recv_reply(10, name).unwrap();
            assert_eq!(reply.errno(), Some(Errno::EAGAIN));
            peer.dma_works(&bench.handle);
        }
        peer.is_quiet();
        // Nothing of it was done: the one map of the beginning, and no reset.
        assert_eq!(bench.log.all(), ["mapped 0x100000", "resume"]);
    }
}

#[test]
fn c4b_at_once() {
    for (style, twin) in worlds() {
        let (refuse, refuses) = channel();
        let bench = Bench::of(style, forever(), |gadget| {
            gadget.on_quiesce(move |_, _| refuses.try_recv().map_or(Ok(()), Err))
        });
        let peer = bench.peer(twin);
        for (name, change) in changes() {
            refuse.send(Errno::EPERM).unwrap();
            peer.main.send(&change).unwrap();
            assert_eq!(peer.main.recv_reply(10, name).unwrap().errno(), Some(Errno::EPERM));
        }
        peer.dma_works(&bench.handle);
    }
}

#[test]
fn c4c_a_disconnect_cancels_it() {
    for (style, twin) in worlds() {
        for (_, change) in changes() {
            let (bench, slow, tokens) = slow(style);
            let peer = bench.peer(twin);
            slow.send(true).unwrap();
            peer.main.send(&change).unwrap();
            let token = tokens.recv().unwrap();
            slow.send(false).unwrap();
            drop(peer);
            bench.log.wait_for("reset ConnectionLost", 1);
            let end = bench.log.all();
            assert_eq!(end.last().unwrap(), "reset ConnectionLost");
            // Too late: nobody is called for it any more, and the next client is not held up.
            token.done();
            let next = bench.peer(twin);
            next.is_quiet();
            let log = bench.log.all();
            assert_eq!(log[end.len()..], ["mapped 0x100000", "resume"]);
            next.dma_works(&bench.handle);
        }
    }
}

#[test]
fn c4d_a_map_disturbs_nothing() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for (i, face) in FACES.into_iter().enumerate() {
            let read = face.read(&bench.handle, BASE, 4);
            let (asked, at, _) = peer.asked();
            peer.map(0x1000 * (i as u64 + 1), 0x1000);
            peer.map(BASE, SIZE);
            peer.is_quiet();
            assert!(!peer.dma().has_input().unwrap());
            peer.give(&asked, &read_reply(at, b"good"));
            assert_eq!(read.end(), Ok(b"good".to_vec()));
        }
    }
}
