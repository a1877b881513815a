//! Crossing traffic and resets (C2): nothing that has begun goes on, and nothing waits for the client.

mod crossing;

use std::future::Future;
use std::sync::mpsc::channel;
use std::task::{Context, Waker};
use std::thread;

use crossing::*;
use vfu::wire::{Command, RegionReadReply, RegionReadRequest, RegionWriteRequest, Request};
use vfu::{DmaError, Fault, IrqIndex, Limits};

#[test]
fn c2a_a_reset_ends_what_is_under_way() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for (round, face) in FACES.into_iter().enumerate() {
            let read = face.read(&bench.handle, BASE, 16);
            peer.asked();
            let write = face.write(&bench.handle, BASE, vec![1; 16]);
            peer.told();
            // No reply to either is ever sent.
            peer.main.send(&reset(1)).unwrap();
            done(&peer.main, 1, Command::DeviceReset);
            assert_eq!(bench.log.count("reset Device"), round + 1);
            assert_eq!(read.end(), Err(DmaError::Canceled), "{face:?} {style:?} {twin}");
            assert_eq!(write.end(), Err(DmaError::Canceled), "{face:?} {style:?} {twin}");
            peer.main.enable_bus_master().unwrap();
            peer.dma_works(&bench.handle);
        }
        assert_eq!(bench.handle.counters().unwrap().canceled, 8);
    }
}

#[test]
fn c2a_nothing_begins_during_a_reset() {
    for (style, twin) in worlds() {
        let (outcome, outcomes) = channel();
        let bench = Bench::of(style, forever(), |gadget| {
            gadget.on_notice(move |handle, what| {
                if what == "reset" {
                    for face in FACES {
                        outcome.send(face.read(handle, BASE, 4).end()).unwrap();
                    }
                }
            })
        });
        let peer = bench.peer(twin);
        peer.main.send(&reset(1)).unwrap();
        done(&peer.main, 1, Command::DeviceReset);
        for _ in FACES {
            assert_eq!(outcomes.recv().unwrap(), Err(DmaError::Canceled));
        }
        peer.is_quiet();
        peer.main.enable_bus_master().unwrap();
        peer.dma_works(&bench.handle);
    }
}

/// A long transfer does not go on where it was when the device comes back.
#[test]
fn c2a_a_transfer_of_many_pieces_ends_as_a_whole() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer_with(twin, 4096);
        for face in FACES {
            let write = face.write(&bench.handle, BASE, vec![1; 2 << 20]);
            let (first, at, _) = peer.told();
            peer.main.send(&reset(1)).unwrap();
            peer.ack(&first, at, 4096);
            let mut seen = 1;
            loop {
                let reader = if peer.twin.is_some() && peer.main.has_input().unwrap() {
                    &peer.main
                } else if peer.twin.is_some() && !peer.dma().has_input().unwrap() {
                    thread::yield_now();
                    continue;
                } else {
                    peer.dma()
                };
                let message = reader.recv().unwrap();
                if message.header.command == Command::DeviceReset.as_u16() {
                    break;
                }
                seen += 1;
            }
            assert_eq!(write.end(), Err(DmaError::Canceled), "{face:?}");
            peer.main.enable_bus_master().unwrap();
            seen += peer.dma_works_after_writes(&bench.handle);
            assert!(seen < 512, "{seen}");
        }
    }
}

#[test]
fn c2b_a_reset_behind_a_handler_that_waits_ends_its_wait() {
    for (style, twin) in worlds() {
        let (outcome, outcomes) = channel();
        let bench = Bench::of(style, forever(), |gadget| {
            gadget.on_read(move |handle, _, data, _| {
                let read = handle.dma().read(BASE, data);
                // What it tries then is refused as well: the reset is still to come.
                let again = handle.dma().write(BASE, data);
                outcome.send((read, again)).unwrap();
                Err(Fault::Denied)
            })
        });
        let peer = bench.peer(twin);
        peer.main.send(&reg_read(10, HOOK, 4)).unwrap();
        peer.asked();
        peer.main.send(&[reg_read(11, 0, 4), reset(12), reg_read(13, 0, 4)].concat()).unwrap();
        if twin {
            assert_eq!(reg_data(&peer.main, 10), [0xff; 4]);
        } else {
            // What was tried after that may have been sent, and was given up.
            let reply = loop {
                let message = peer.main.recv().unwrap();
                if message.header.command == Command::RegionRead.as_u16() {
                    break message;
                }
            };
            assert_eq!(reply.header.id, 10);
            assert_eq!(RegionReadReply::parse(&reply.payload).unwrap().data, [0xff; 4]);
        }
        assert_eq!(reg_data(&peer.main, 11), [0; 4]);
        done(&peer.main, 12, Command::DeviceReset);
        assert_eq!(reg_data(&peer.main, 13), [0; 4]);
        let canceled = Err(DmaError::Canceled);
        assert_eq!(outcomes.recv().unwrap(), (canceled.clone(), canceled));
    }
}

/// Where handlers may be called again the reset need not wait for the one before it.
#[test]
fn c2b_a_reset_of_a_device_that_can_be_reentered() {
    for (style, twin) in worlds() {
        let bench = Bench::reentrant(style, forever(), |gadget| {
            gadget
                .on_read(|handle, _, data| handle.dma().read(BASE, data).map_err(|_| Fault::Denied))
        });
        let peer = bench.peer(twin);
        peer.main.send(&reg_read(10, HOOK, 4)).unwrap();
        peer.asked();
        peer.main.send(&reset(11)).unwrap();
        let mut ids = [peer.main.recv().unwrap().header.id, peer.main.recv().unwrap().header.id];
        ids.sort_unstable();
        assert_eq!(ids, [10, 11]);
        assert_eq!(bench.log.count("reset Device"), 1);
        peer.is_quiet();
    }
}

#[test]
fn c2c_a_late_reply_after_a_reset_is_dropped() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for (round, face) in FACES.into_iter().enumerate() {
            let read = face.read(&bench.handle, BASE, 4096);
            let (late, at, _) = peer.asked();
            peer.main.send(&reset(1)).unwrap();
            done(&peer.main, 1, Command::DeviceReset);
            assert_eq!(read.end(), Err(DmaError::Canceled));
            peer.main.enable_bus_master().unwrap();
            let next = face.read(&bench.handle, BASE, 4096);
            let (request, ..) = peer.asked();
            assert_ne!(request.header.id, late.header.id);
            peer.give(&late, &read_reply(at, &[0xbb; 4096]));
            peer.give(&request, &read_reply(at, &[0x99; 4096]));
            assert_eq!(next.end(), Ok(vec![0x99; 4096]));
            assert_eq!(bench.handle.counters().unwrap().late_replies, round as u64 + 1);
            peer.is_quiet();
        }
    }
}

#[test]
fn c2d_what_the_client_arranged_survives_a_reset() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let ram = peer.share(0x1000, 0x1000);
        let msix = peer.interrupt(IrqIndex::Msix);
        peer.main.send(&reset(1)).unwrap();
        done(&peer.main, 1, Command::DeviceReset);
        assert_eq!(bench.handle.dma().write(BASE, &[1]), Err(DmaError::BusMasterDisabled));
        peer.main.enable_bus_master().unwrap();
        peer.dma_works(&bench.handle);
        bench.handle.dma().write(0x1000, b"kept").unwrap();
        assert_eq!(ram.bytes(0x1000, 4).unwrap(), b"kept");
        bench.handle.vector(0).trigger().unwrap();
        assert_eq!(msix.wait(0).unwrap(), 1);
    }
}

#[test]
fn c2e_the_id_of_a_request_that_was_given_up_is_not_used_again() {
    for twin in [false, true] {
        let bench = Bench::plain(Style::Run, forever());
        let peer = bench.peer_with(twin, 1);
        let read = start_read(&bench.handle, BASE, 1);
        let (owed, at, _) = peer.asked();
        peer.main.send(&reset(1)).unwrap();
        done(&peer.main, 1, Command::DeviceReset);
        assert_eq!(read.end(), Err(DmaError::Canceled));
        peer.main.enable_bus_master().unwrap();
        let dma = bench.handle.dma();
        let rounds = 65_536 + 100;
        let writes = start(move || dma.write(BASE, &vec![1; rounds]));
        let mut seen = vec![0u8; 65_536];
        for _ in 0..rounds {
            let (request, at, _) = peer.told();
            seen[usize::from(request.header.id)] += 1;
            peer.ack(&request, at, 1);
        }
        assert_eq!(writes.end(), Ok(()));
        assert_eq!(seen[usize::from(owed.header.id)], 0);
        let unused = seen.iter().filter(|times| **times == 0).count();
        assert!(unused < 65_536 / 8, "hardly any other is left out: {unused}");
        peer.give(&owed, &read_reply(at, b"1"));
        let read = start_read(&bench.handle, BASE, 1);
        let (request, at, _) = peer.asked();
        peer.give(&request, &read_reply(at, b"2"));
        assert_eq!(read.end(), Ok(b"2".to_vec()));
        assert_eq!(bench.handle.counters().unwrap().late_replies, 1);
    }
}

#[test]
fn c2f_a_client_that_owes_too_many_replies_is_disconnected() {
    for (style, twin) in worlds() {
        let limits = forever();
        let most = limits.zombies;
        assert_eq!(most, 4096);
        let bench = Bench::of(style, limits, |gadget| gadget);
        let peer = bench.peer(twin);
        let dma = bench.handle.dma();
        let mut byte = [0];
        // Dropped futures owe nothing to anybody; their replies are still due.
        for _ in 0..most {
            let mut read = Box::pin(dma.read_async(BASE, &mut byte));
            assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            drop(read);
            peer.asked();
        }
        peer.is_quiet();
        {
            let mut read = Box::pin(dma.read_async(BASE, &mut byte));
            assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        peer.asked();
        peer.main.expect_eof().unwrap();
        bench.log.wait_for("reset ConnectionLost", 1);
        // The next one is served.
        bench.peer(twin).dma_works(&bench.handle);
    }
}

#[test]
fn c2f_by_timeouts() {
    for (style, twin) in worlds() {
        let limits = Limits { zombies: 6, ..impatient(30) };
        let bench = Bench::plain(style, limits);
        let peer = bench.peer(twin);
        for i in 0..6 {
            let read = FACES[i % 4].read(&bench.handle, BASE, 4);
            peer.asked();
            assert_eq!(read.end(), Err(DmaError::TimedOut));
        }
        peer.is_quiet();
        let read = start_read(&bench.handle, BASE, 4);
        peer.asked();
        assert!(read.end().is_err());
        peer.main.expect_eof().unwrap();
    }
}

/// Where the capability with this id is in configuration space.
fn capability(peer: &Peer, wanted: u8) -> u64 {
    let byte = |at: u64| {
        let read = RegionReadRequest { offset: at, region: 7, count: 1 };
        let reply = peer.main.call(5, &Request::RegionRead(read)).unwrap();
        RegionReadReply::parse(&reply.payload).unwrap().data[0]
    };
    let mut at = u64::from(byte(0x34));
    while at != 0 && byte(at) != wanted {
        at = u64::from(byte(at + 1));
    }
    assert_ne!(at, 0);
    at
}

#[test]
fn c2g_a_function_level_reset_does_the_same() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let control = capability(&peer, 0x10) + 8;
        for (round, face) in FACES.into_iter().enumerate() {
            let read = face.read(&bench.handle, BASE, 16);
            peer.asked();
            let write = face.write(&bench.handle, BASE, vec![1; 16]);
            peer.told();
            let flr = RegionWriteRequest { offset: control, region: 7, data: &[0, 0x80] };
            assert_eq!(peer.main.call(6, &Request::RegionWrite(flr)).unwrap().errno(), None);
            assert_eq!(bench.log.count("reset FunctionLevel"), round + 1);
            assert_eq!(read.end(), Err(DmaError::Canceled), "{face:?}");
            assert_eq!(write.end(), Err(DmaError::Canceled), "{face:?}");
            peer.main.enable_bus_master().unwrap();
            peer.dma_works(&bench.handle);
        }
    }
}

/// The device's registers survive D3hot: there is no reset, but no DMA either.
#[test]
fn c2g_a_device_that_sleeps_starts_no_dma() {
    let bench = Bench::plain(Style::Run, forever());
    let peer = bench.peer(false);
    let control = capability(&peer, 0x01) + 4;
    let power = |state: u8| {
        let write = RegionWriteRequest { offset: control, region: 7, data: &[state, 0] };
        assert_eq!(peer.main.call(6, &Request::RegionWrite(write)).unwrap().errno(), None);
    };
    power(3);
    assert_eq!(bench.handle.dma().write(BASE, &[1]), Err(DmaError::BusMasterDisabled));
    power(0);
    peer.dma_works(&bench.handle);
}
