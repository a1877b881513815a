//! Crossing traffic, order: commands while DMA is under way (C1), and what may not overtake what
//! (C11). C11d from the client's side is in `crossing_client.rs`, C11e in `crossing_twin.rs`.

mod crossing;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use crossing::*;
use vfu::wire::{Command, Errno};
use vfu::{Fault, IrqIndex, Later};
use vfu_testkit::within;

#[test]
fn c1a_commands_are_answered_while_dma_is_under_way() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for face in FACES {
            let read = face.read(&bench.handle, BASE + 64, 16);
            let (asked, address, count) = peer.asked();
            // On two sockets reads of registers wait for it (C11e).
            let write = (!twin).then(|| {
                let write = face.write(&bench.handle, BASE + 128, vec![7; 32]);
                (write, peer.told().0)
            });
            let commands: Vec<u8> = (0..100u16)
                .flat_map(|i| [reg_write(2 * i, 8, &i.to_le_bytes()), reg_read(2 * i + 1, 8, 2)])
                .flatten()
                .collect();
            peer.main.send(&commands).unwrap();
            for i in 0..100u16 {
                done(&peer.main, 2 * i, Command::RegionWrite);
                assert_eq!(reg_data(&peer.main, 2 * i + 1), i.to_le_bytes());
            }
            assert!(!read.has_ended(), "{face:?}");
            peer.give(&asked, &read_reply(address, &bytes_at(address, count)));
            assert_eq!(read.end(), Ok(bytes_at(BASE + 64, 16)), "{face:?} {style:?} {twin}");
            if let Some((write, told)) = write {
                assert!(!write.has_ended(), "{face:?}");
                peer.ack(&told, BASE + 128, 32);
                assert_eq!(write.end(), Ok(()), "{face:?} {style:?} {twin}");
            }
            peer.is_quiet();
        }
    }
}

/// Its register at [`HOOK`] has the first 4 bytes of the client's memory.
fn fetcher(style: Style) -> Bench {
    Bench::of(style, forever(), |gadget| {
        gadget
            .on_read(|handle, _, data, _| handle.dma().read(BASE, data).map_err(|_| Fault::Denied))
    })
}

fn commands_queue_behind_a_handler(style: Style, twin: bool) {
    let bench = fetcher(style);
    let peer = bench.peer(twin);
    peer.main.send(&reg_read(10, HOOK, 4)).unwrap();
    let (asked, address, _) = peer.asked();
    let many: Vec<u8> = (20..40).flat_map(|id| reg_read(id, 0, 4)).collect();
    let answer = asked.reply(&read_reply(address, b"here"));
    if twin {
        peer.main.send(&many).unwrap();
        assert!(!peer.main.has_input().unwrap(), "nothing overtakes the first");
        peer.dma().send(&answer).unwrap();
    } else {
        peer.main.send(&[many, answer].concat()).unwrap();
    }
    assert_eq!(reg_data(&peer.main, 10), b"here");
    for id in 20..40 {
        assert_eq!(reg_data(&peer.main, id), [0; 4]);
    }
    peer.is_quiet();
}

#[test]
fn c1b_commands_queue_behind_a_handler_that_waits_on_one_socket() {
    STYLES.into_iter().for_each(|style| commands_queue_behind_a_handler(style, false));
}

#[test]
fn c1c_commands_queue_behind_a_handler_that_waits_on_two_sockets() {
    STYLES.into_iter().for_each(|style| commands_queue_behind_a_handler(style, true));
}

#[test]
fn c1b_a_device_that_can_be_reentered_answers_them_at_once() {
    for (style, twin) in worlds() {
        let bench = Bench::reentrant(style, forever(), |gadget| {
            gadget
                .on_read(|handle, _, data| handle.dma().read(BASE, data).map_err(|_| Fault::Denied))
        });
        let peer = bench.peer(twin);
        peer.main.send(&reg_read(10, HOOK, 4)).unwrap();
        let (first, address, _) = peer.asked();
        for id in 20..40 {
            assert_eq!(peer.register(id, 0), 0);
        }
        // Once more in the same handler.
        peer.main.send(&reg_read(11, HOOK, 4)).unwrap();
        let (second, ..) = peer.asked();
        assert_eq!(peer.register(12, 0), 0);
        peer.give(&second, &read_reply(address, b"two!"));
        assert_eq!(reg_data(&peer.main, 11), b"two!");
        peer.give(&first, &read_reply(address, b"one!"));
        assert_eq!(reg_data(&peer.main, 10), b"one!");
        peer.is_quiet();
    }
}

/// A register whose value is fetched from memory, and given when it is here.
#[test]
fn c1b_an_answer_that_is_given_later_holds_nothing_up() {
    for (style, twin) in worlds() {
        let bench = Bench::of(style, forever(), |gadget| {
            gadget.on_read(|handle, _, _, defer| {
                let later = defer.later().unwrap();
                handle.dma().read_then(BASE, 4, move |read| match read {
                    Ok(bytes) => later.give(&bytes),
                    Err(_) => later.refuse(Fault::Denied),
                });
                Ok(())
            })
        });
        let peer = bench.peer(twin);
        peer.main.send(&reg_read(10, HOOK, 4)).unwrap();
        let (first, address, _) = peer.asked();
        for id in 20..40 {
            assert_eq!(peer.register(id, 0), 0);
        }
        peer.main.send(&reg_read(11, HOOK, 4)).unwrap();
        let (second, ..) = peer.asked();
        peer.give(&first, &read_reply(address, b"one!"));
        assert_eq!(reg_data(&peer.main, 10), b"one!");
        peer.dma().send(&second.refusal(Errno::EPERM)).unwrap();
        assert_eq!(reg_data(&peer.main, 11), [0xff; 4]);
        peer.is_quiet();
    }
}

/// An answer is given once, from any thread, and given for the device if it forgets.
#[test]
fn c1b_a_dropped_answer_is_given_by_the_rules_of_pci() {
    for style in STYLES {
        let kept: Arc<Mutex<Vec<Later>>> = Arc::default();
        let keep = kept.clone();
        let bench = Bench::of(style, forever(), |gadget| {
            let keep_write = keep.clone();
            gadget
                .on_read(move |_, _, _, defer| {
                    keep.lock().unwrap().extend(defer.later());
                    assert!(defer.later().is_none());
                    Ok(())
                })
                .on_write(move |_, _, _, defer| {
                    keep_write.lock().unwrap().extend(defer.later());
                    Ok(())
                })
        });
        let peer = bench.peer(false);
        let sent = [reg_read(1, HOOK, 8), reg_write(2, HOOK, &[1; 4]), reg_read(3, HOOK, 4)];
        peer.main.send(&sent.concat()).unwrap();
        assert_eq!(peer.register(4, 0), 0);
        let mut answers: Vec<Later> = std::mem::take(&mut *kept.lock().unwrap());
        assert_eq!(answers.len(), 3);
        // Shorter than asked for: filled up.
        answers.pop().unwrap().give(&[5]);
        assert_eq!(reg_data(&peer.main, 3), [5, 0, 0, 0]);
        answers.pop().unwrap().give(&[]);
        done(&peer.main, 2, Command::RegionWrite);
        drop(answers);
        assert_eq!(reg_data(&peer.main, 1), [0xff; 8]);
        peer.is_quiet();
    }
}

#[test]
fn c1d_replies_and_commands_may_come_in_any_pieces() {
    for style in STYLES {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(false);
        for face in FACES {
            let reads = [BASE, BASE + 256].map(|at| face.read(&bench.handle, at, 64));
            let asked = [peer.asked(), peer.asked()];
            let answers =
                asked.map(|(request, at, len)| request.reply(&read_reply(at, &bytes_at(at, len))));
            // A command between two replies, all in one send.
            let [first, second] = answers;
            let between = [first, reg_read(5, 0, 4), second, reg_read(6, 0, 4)];
            peer.main.send(&between.concat()).unwrap();
            assert_eq!(reg_data(&peer.main, 5), [0; 4]);
            assert_eq!(reg_data(&peer.main, 6), [0; 4]);
            let [first, second] = reads;
            assert_eq!(first.end(), Ok(bytes_at(BASE, 64)));
            assert_eq!(second.end(), Ok(bytes_at(BASE + 256, 64)));

            let read = face.read(&bench.handle, BASE, 64);
            let (request, at, len) = peer.asked();
            let answer = request.reply(&read_reply(at, &bytes_at(at, len)));
            peer.main
                .send_bytewise(&[reg_read(7, 0, 4), answer, reg_read(8, 0, 4)].concat())
                .unwrap();
            assert_eq!(reg_data(&peer.main, 7), [0; 4]);
            assert_eq!(reg_data(&peer.main, 8), [0; 4]);
            assert_eq!(read.end(), Ok(bytes_at(BASE, 64)));
            peer.is_quiet();
        }
    }
}

/// As above, with the handler in the middle of a transfer.
#[test]
fn c1d_pieces_in_a_handler() {
    for style in STYLES {
        let bench = fetcher(style);
        let peer = bench.peer(false);
        peer.main.send(&reg_read(1, HOOK, 4)).unwrap();
        let (request, at, _) = peer.asked();
        let answer = request.reply(&read_reply(at, b"late"));
        peer.main.send_bytewise(&[reg_read(2, 0, 4), answer, reg_read(3, 0, 4)].concat()).unwrap();
        assert_eq!(reg_data(&peer.main, 1), b"late");
        assert_eq!(reg_data(&peer.main, 2), [0; 4]);
        assert_eq!(reg_data(&peer.main, 3), [0; 4]);
    }
}

#[test]
fn c11a_a_read_sees_the_posted_writes_before_it() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for round in 0..100u32 {
            let mut sent: Vec<u8> = (0..30u32)
                .flat_map(|i| posted_write(9, 16, &(round * 100 + i).to_le_bytes()))
                .collect();
            sent.extend(reg_read(1, 16, 4));
            peer.main.send(&sent).unwrap();
            let value = reg_data(&peer.main, 1);
            assert_eq!(value, (round * 100 + 29).to_le_bytes());
        }
    }
}

#[test]
fn c11b_transfers_of_one_thread_are_sent_in_program_order() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let dma = bench.handle.dma();
        let data: Vec<[u8; 4]> = (0..20u32).map(u32::to_le_bytes).collect();
        let mut futures: Vec<_> =
            data.iter().map(|data| Box::pin(dma.write_async(BASE, data))).collect();
        let mut context = Context::from_waker(Waker::noop());
        for future in &mut futures {
            assert!(future.as_mut().poll(&mut context).is_pending());
        }
        for data in &data {
            dma.write_then(BASE, data.to_vec(), |_| ());
        }
        for expected in data.iter().chain(&data) {
            let (request, address, data) = peer.told();
            assert_eq!((address, &data[..]), (BASE, &expected[..]));
            peer.ack(&request, address, 4);
        }
        for future in futures {
            assert_eq!(poll_on(pin!(future)), Ok(()));
        }
        peer.is_quiet();
    }
}

#[test]
fn c11c_an_interrupt_waits_for_the_writes_before_it() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let msix = peer.interrupt(IrqIndex::Msix);
        let pin = peer.interrupt(IrqIndex::Intx);
        for face in FACES {
            let writes = [BASE, BASE + 64].map(|at| face.write(&bench.handle, at, vec![1; 8]));
            let mut told = [peer.told(), peer.told()];
            told.sort_by_key(|(_, at, _)| *at);
            bench.handle.vector(0).trigger().unwrap();
            bench.handle.intx().raise();
            // What is written after it does not hold it back.
            let after = face.write(&bench.handle, BASE + 128, vec![1; 8]);
            let (after_told, ..) = peer.told();
            let still = || (msix.count_now(0).unwrap(), pin.count_now(0).unwrap());
            peer.is_quiet();
            assert_eq!(still(), (0, 0), "{face:?}");
            peer.ack(&told[0].0, BASE, 8);
            peer.is_quiet();
            assert_eq!(still(), (0, 0), "{face:?}");
            // The other one fails: that is an end, too.
            peer.dma().send(&told[1].0.refusal(Errno::EPERM)).unwrap();
            assert_eq!((msix.wait(0).unwrap(), pin.wait(0).unwrap()), (1, 1));
            peer.ack(&after_told, BASE + 128, 8);
            let [first, second] = writes;
            assert_eq!((first.end(), after.end()), (Ok(()), Ok(())));
            assert!(second.end().is_err());
            // With nothing under way it goes at once.
            bench.handle.vector(0).trigger().unwrap();
            assert_eq!(msix.count_now(0).unwrap(), 1);
            bench.handle.intx().lower();
            unmask_pin(&peer);
        }
    }
}

fn unmask_pin(peer: &Peer) {
    use vfu::wire::{IrqAction, IrqData, Request, SetIrqs};
    let (action, data) = (IrqAction::Unmask, IrqData::None);
    let unmask = Request::DeviceSetIrqs(SetIrqs { index: 0, start: 0, count: 1, action, data });
    assert_eq!(peer.main.call(9, &unmask).unwrap().errno(), None);
}

/// A read of the same device is no write: nobody waits for it.
#[test]
fn c11c_reads_hold_no_interrupt_back_and_a_timeout_releases_it() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, impatient(100));
        let peer = bench.peer(twin);
        let msix = peer.interrupt(IrqIndex::Msix);
        for face in FACES {
            let read = face.read(&bench.handle, BASE, 8);
            peer.asked();
            bench.handle.vector(0).trigger().unwrap();
            assert_eq!(msix.count_now(0).unwrap(), 1);
            let write = face.write(&bench.handle, BASE, vec![1; 8]);
            peer.told();
            bench.handle.vector(0).trigger().unwrap();
            assert_eq!(msix.wait(0).unwrap(), 1, "{face:?}: the write timed out");
            assert!(write.end().is_err() && read.end().is_err());
        }
    }
}

#[test]
fn c11d_a_reply_on_one_socket_goes_behind_the_writes_before_it() {
    for style in STYLES {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(false);
        for face in FACES {
            let write = face.write(&bench.handle, BASE, vec![1; 8]);
            let (told, ..) = peer.told();
            // It is not held back: that would be a deadlock with QEMU.
            assert_eq!(peer.register(1, 0), 0);
            peer.ack(&told, BASE, 8);
            assert_eq!(write.end(), Ok(()));
        }
    }
}

#[test]
fn c11f_direct_memory_is_written_before_the_interrupt() {
    let bench = Bench::plain(Style::Run, forever());
    let peer = bench.peer(false);
    let ram = peer.share(0x1000, 0x1000);
    let msix = peer.interrupt(IrqIndex::Msix);
    let handle = bench.handle.clone();
    let (go, turns) = std::sync::mpsc::channel::<u32>();
    let device = std::thread::spawn(move || {
        for turn in turns {
            handle.dma().write(0x1ff0, &turn.to_le_bytes()).unwrap();
            handle.vector(0).trigger().unwrap();
        }
    });
    for turn in 0..2000 {
        go.send(turn).unwrap();
        msix.wait(0).unwrap();
        assert_eq!(ram.bytes(0x1ff0, 4).unwrap(), turn.to_le_bytes());
    }
    drop(go);
    within("the device", move || device.join().unwrap());
}
