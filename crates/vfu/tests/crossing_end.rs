//! Crossing traffic and the end of a session (C6). C6c is in `migration.rs`.

mod crossing;

use std::sync::mpsc::channel;

use crossing::*;
use vfu::dma::Direction;
use vfu::wire::Errno;
use vfu::{DmaError, IrqError, IrqIndex};

/// How a client goes.
type Leave = fn(Peer);

const LEAVES: [(&str, bool, Leave); 4] = [
    ("one socket closes", false, drop),
    ("one half of one socket closes", false, |peer| {
        peer.main.shutdown_write();
        peer.main.expect_eof().unwrap();
    }),
    ("the main socket closes", true, |peer| {
        drop(peer.main);
        peer.twin.unwrap().expect_eof().unwrap();
    }),
    ("the twin closes", true, |peer| {
        drop(peer.twin);
        peer.main.expect_eof().unwrap();
    }),
];

#[test]
fn c6a_the_end_of_either_socket_ends_all_once() {
    for style in STYLES {
        for (how, twin, leave) in LEAVES {
            let bench = Bench::plain(style, forever());
            let peer = bench.peer(twin);
            let _ram = peer.share(0x1000, 0x1000);
            let lease = bench.handle.dma().lease(0x1000, 16, Direction::Read).unwrap();
            let reads = FACES.map(|face| {
                let read = face.read(&bench.handle, BASE, 4);
                peer.asked();
                read
            });
            let writes = FACES.map(|face| {
                let write = face.write(&bench.handle, BASE, vec![1; 4]);
                peer.told();
                write
            });
            leave(peer);
            for read in reads {
                assert_eq!(read.end(), Err(DmaError::NotConnected), "{how} {style:?}");
            }
            for write in writes {
                assert_eq!(write.end(), Err(DmaError::NotConnected), "{how} {style:?}");
            }
            bench.log.wait_for("reset ConnectionLost", 1);
            assert!(lease.is_ending());
            assert!(!bench.handle.is_connected());
            // Listens again.
            let next = bench.peer(twin);
            next.dma_works(&bench.handle);
            next.is_quiet();
            let log = bench.log.all();
            let (mapped, lost) = (["mapped 0x100000", "resume"], "reset ConnectionLost");
            let gone =
                ["unmapping 0x1000", "unmapping 0x100000", "unmapped 0x100000", "unmapped 0x1000"];
            let begin = [&mapped[..], &["mapped 0x1000", "resume"]].concat();
            assert_eq!(log, [&begin[..], &gone, &[lost], &mapped].concat(), "{how}");
        }
    }
}

/// A handler that waits wakes at once; its answer goes nowhere, in silence.
#[test]
fn c6a_a_handler_that_waits_wakes() {
    for style in STYLES {
        for (how, twin, leave) in LEAVES {
            for reentrant in [false, true] {
                let (outcome, outcomes) = channel();
                let ask = move |handle: &vfu::Handle, data: &mut [u8]| {
                    outcome.send(handle.dma().read(BASE, data)).unwrap();
                    Ok(())
                };
                let bench = if reentrant {
                    let ask = std::sync::Mutex::new(ask);
                    Bench::reentrant(style, forever(), |gadget| {
                        gadget.on_read(move |handle, _, data| ask.lock().unwrap()(handle, data))
                    })
                } else {
                    Bench::of(style, forever(), |gadget| {
                        gadget.on_read(move |handle, _, data, _| ask(handle, data))
                    })
                };
                let peer = bench.peer(twin);
                peer.main.send(&reg_read(1, HOOK, 4)).unwrap();
                peer.asked();
                if how.contains("half") {
                    // The handler is the last to speak.
                    peer.main.shutdown_write();
                } else {
                    leave(peer);
                }
                assert_eq!(outcomes.recv().unwrap(), Err(DmaError::NotConnected), "{how}");
                bench.log.wait_for("reset ConnectionLost", 1);
                bench.peer(twin).dma_works(&bench.handle);
            }
        }
    }
}

/// A session that the server's side ends.
#[test]
fn c6a_a_stop_ends_all() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let reads = FACES.map(|face| {
            let read = face.read(&bench.handle, BASE, 4);
            peer.asked();
            read
        });
        let (log, handle) = (bench.log.clone(), bench.handle.clone());
        bench.stop();
        for read in reads {
            assert_eq!(read.end(), Err(DmaError::NotConnected));
        }
        peer.main.expect_eof().unwrap();
        assert_eq!(log.count("reset ConnectionLost"), 1);
        assert_eq!(handle.dma().read(BASE, &mut [0]), Err(DmaError::NotConnected));
    }
}

#[test]
fn c6b_what_was_asked_before_a_half_close_is_answered() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let commands: Vec<u8> = (0..50).flat_map(|id| reg_read(id, 0, 4)).collect();
        peer.main.send(&commands).unwrap();
        peer.main.shutdown_write();
        for id in 0..50 {
            assert_eq!(reg_data(&peer.main, id), [0; 4]);
        }
        peer.main.expect_eof().unwrap();
        bench.log.wait_for("reset ConnectionLost", 1);
    }
}

#[test]
fn c6d_a_device_without_a_client_is_told_so() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let check = || {
            for face in FACES {
                let read = face.read(&bench.handle, BASE, 4).end();
                assert_eq!(read, Err(DmaError::NotConnected), "{face:?}");
                let write = face.write(&bench.handle, BASE, vec![1]).end();
                assert_eq!(write, Err(DmaError::NotConnected), "{face:?}");
            }
            let lease = bench.handle.dma().lease(BASE, 4, Direction::Read).map(drop);
            assert_eq!(lease, Err(DmaError::NotConnected));
            assert_eq!(bench.handle.vector(0).trigger(), Err(IrqError::NotEnabled));
            bench.handle.intx().raise();
            bench.handle.intx().lower();
        };
        check();
        for _ in 0..3 {
            let peer = bench.peer(twin);
            peer.interrupt(IrqIndex::Msix);
            peer.dma_works(&bench.handle);
            let lost = bench.log.count("reset ConnectionLost");
            drop(peer);
            bench.log.wait_for("reset ConnectionLost", lost + 1);
            check();
        }
        assert_eq!(DmaError::NotConnected.errno(), Errno::ENOTCONN);
    }
}

/// An answer that is given when its client has gone goes nowhere.
#[test]
fn c6d_an_answer_for_a_client_that_has_gone() {
    for style in STYLES {
        let (later, laters) = channel();
        let bench = Bench::of(style, forever(), |gadget| {
            gadget.on_read(move |_, _, _, defer| {
                later.send(defer.later().unwrap()).unwrap();
                Ok(())
            })
        });
        let peer = bench.peer(false);
        peer.main.send(&[reg_read(1, HOOK, 4), reg_read(2, HOOK, 4)].concat()).unwrap();
        let answers = [laters.recv().unwrap(), laters.recv().unwrap()];
        drop(peer);
        bench.log.wait_for("reset ConnectionLost", 1);
        let next = bench.peer(false);
        let [first, second] = answers;
        first.give(&[1; 4]);
        drop(second);
        next.is_quiet();
        next.main.send(&reg_read(3, HOOK, 4)).unwrap();
        laters.recv().unwrap().give(&[3; 4]);
        assert_eq!(reg_data(&next.main, 3), [3; 4]);
    }
}
