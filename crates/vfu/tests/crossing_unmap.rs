//! Crossing traffic and unmaps (C3), with the leases of direct memory. C3e is the client's: see
//! `crossing_client.rs`. There is no lease timeout: a lease that is held for ever delays the reply to
//! its unmap for ever, and nothing else (C3f).

mod crossing;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use crossing::*;
use vfu::DmaError;
use vfu::dma::{Direction, Lease};
use vfu::wire::{Command, DmaUnmapReply, DmaUnmapRequest, Request, UnmapWhat};
use vfu_testkit::{RawMessage, command};

const OTHER: u64 = BASE + SIZE;

fn not_mapped<T>(result: Result<T, DmaError>) -> bool {
    matches!(result, Err(DmaError::NotMapped { .. }))
}

fn unmap_all(id: u16) -> Vec<u8> {
    command(id, &Request::DmaUnmap(DmaUnmapRequest::new(UnmapWhat::All)))
}

#[test]
fn c3a_an_unmap_ends_what_overlaps_it() {
    for (style, twin) in worlds() {
        let (outcome, outcomes) = channel();
        let bench = Bench::of(style, forever(), |gadget| {
            gadget.on_notice(move |handle, what| {
                if what == "unmapping" {
                    // It can't be reached any more.
                    let handle = handle.clone();
                    let tried = start(move || handle.dma().write(BASE, &[1]));
                    outcome.send(tried.end()).unwrap();
                }
            })
        });
        let peer = bench.peer(twin);
        for (round, face) in FACES.into_iter().enumerate() {
            let read = face.read(&bench.handle, BASE + SIZE - 16, 16);
            peer.asked();
            let write = face.write(&bench.handle, BASE, vec![1; 16]);
            peer.told();
            peer.main.send(&unmap(1, BASE, SIZE)).unwrap();
            // The replies to the transfers are never sent.
            done(&peer.main, 1, Command::DmaUnmap);
            assert_eq!(read.end(), Err(DmaError::Canceled), "{face:?} {style:?} {twin}");
            assert_eq!(write.end(), Err(DmaError::Canceled), "{face:?} {style:?} {twin}");
            assert!(not_mapped(outcomes.recv().unwrap()));
            assert!(not_mapped(face.read(&bench.handle, BASE, 1).end()));
            peer.is_quiet();
            let log = bench.log.all();
            let order = ["unmapping 0x100000", "unmapped 0x100000", "resume"];
            assert_eq!(log[log.len() - 3..], order, "{round}");
            peer.map(BASE, SIZE);
            peer.dma_works(&bench.handle);
        }
    }
}

#[test]
fn c3b_what_is_elsewhere_goes_on() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for face in FACES {
            peer.map(OTHER, 0x1000);
            let read = face.read(&bench.handle, BASE, 4);
            let (request, at, _) = peer.asked();
            let lost = face.read(&bench.handle, OTHER, 4);
            peer.asked();
            peer.main.send(&unmap(1, OTHER, 0x1000)).unwrap();
            done(&peer.main, 1, Command::DmaUnmap);
            assert_eq!(lost.end(), Err(DmaError::Canceled));
            peer.is_quiet();
            assert!(!read.has_ended());
            // And the next one to the same place.
            peer.dma_works(&bench.handle);
            let read = face.read(&bench.handle, BASE, 4);
            let (second, ..) = peer.asked();
            peer.give(&second, &read_reply(at, b"next"));
            assert_eq!(read.end(), Ok(b"next".to_vec()));
            peer.give(&request, &read_reply(at, b"kept"));
        }
    }
}

/// Gives `count` answers to a transfer of pieces of 4096 bytes.
fn answer(peer: &Peer, requests: impl IntoIterator<Item = (RawMessage, u64, usize)>) {
    for (request, at, count) in requests {
        peer.give(&request, &read_reply(at, &vec![1; count]));
    }
}

#[test]
fn c3c_a_transfer_of_which_a_part_goes_ends_as_a_whole() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer_with(twin, 4096);
        for face in FACES {
            // The part that is under way.
            peer.map(OTHER, 0x10000);
            let read = face.read(&bench.handle, OTHER - 0x4000, 0x8000);
            let first: Vec<_> = (0..4).map(|_| peer.asked()).collect();
            peer.main.send(&unmap(1, BASE, SIZE)).unwrap();
            done(&peer.main, 1, Command::DmaUnmap);
            assert_eq!(read.end(), Err(DmaError::Canceled), "{face:?}");
            answer(&peer, first);
            peer.is_quiet();
            peer.map(BASE, SIZE);

            // The part that is still to come.
            let read = face.read(&bench.handle, OTHER - 0x4000, 0x8000);
            let first: Vec<_> = (0..4).map(|_| peer.asked()).collect();
            peer.main.send(&unmap(1, OTHER, 0x10000)).unwrap();
            done(&peer.main, 1, Command::DmaUnmap);
            answer(&peer, first);
            assert_eq!(read.end(), Err(DmaError::Canceled), "{face:?}");
            peer.is_quiet();
        }
    }
}

/// The mapping goes and comes back in the middle: it is not the same any more.
#[test]
fn c3c_a_part_that_comes_back_is_another() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer_with(twin, 4096);
        for face in FACES {
            let write = face.write(&bench.handle, BASE, vec![1; 2 << 20]);
            let (first, at, _) = peer.told();
            peer.main.send(&[unmap(1, BASE, SIZE), reg_read(2, 0, 4)].concat()).unwrap();
            let mut replies = 0;
            while replies < 2 {
                if twin && !peer.main.has_input().unwrap() {
                    // The window may be larger than the socket.
                    if peer.dma().has_input().unwrap() {
                        peer.told();
                    }
                    continue;
                }
                let message = peer.main.recv().unwrap();
                replies += usize::from(message.header.command != Command::DmaWrite.as_u16());
            }
            assert_eq!(write.end(), Err(DmaError::Canceled), "{face:?}");
            peer.map(BASE, SIZE);
            peer.ack(&first, at, 4096);
            peer.dma_works_after_writes(&bench.handle);
        }
    }
}

#[test]
fn c3d_a_late_reply_for_memory_that_has_gone_is_dropped() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for (round, face) in FACES.into_iter().enumerate() {
            let read = face.read(&bench.handle, BASE, 16);
            let (late, at, _) = peer.asked();
            peer.main.send(&unmap(1, BASE, SIZE)).unwrap();
            done(&peer.main, 1, Command::DmaUnmap);
            assert_eq!(read.end(), Err(DmaError::Canceled));
            peer.map(BASE, SIZE);
            let next = face.read(&bench.handle, BASE, 16);
            let (request, ..) = peer.asked();
            peer.give(&late, &read_reply(at, &[0xbb; 16]));
            peer.is_quiet();
            assert!(!next.has_ended());
            peer.dma().send(&request.reply(&read_reply(at, &[0x99; 16]))).unwrap();
            // `next` was looked at and is gone: ask once more.
            peer.dma_works(&bench.handle);
            assert_eq!(bench.handle.counters().unwrap().late_replies, round as u64 + 1);
        }
    }
}

/// The lease is in the device's own state: only a later command makes it go. So the thread that
/// runs the device may not wait for it.
#[test]
fn c3f_a_lease_in_the_devices_state_delays_the_unmap_only() {
    for (style, twin) in worlds() {
        let bench = Bench::of(style, forever(), |gadget| {
            let mut kept: Vec<Lease> = Vec::new();
            gadget.on_write(move |handle, _, data, _| {
                kept.clear();
                if data[0] != 0 {
                    kept.push(handle.dma().lease(0x1000, 0x1000, Direction::Write).unwrap());
                }
                kept.iter().for_each(|lease| lease.write(0xffc, b"kept").unwrap());
                Ok(())
            })
        });
        let peer = bench.peer(twin);
        let ram = peer.share(0x1000, 0x1000);
        peer.main.send(&reg_write(1, HOOK, &[1])).unwrap();
        done(&peer.main, 1, Command::RegionWrite);
        assert_eq!(ram.bytes(0x1ffc, 4).unwrap(), b"kept");
        peer.main.send(&[unmap(2, 0x1000, 0x1000), reg_read(3, 0, 4)].concat()).unwrap();
        // The device has been told; the reply is held back; everything else goes on.
        assert_eq!(reg_data(&peer.main, 3), [0; 4]);
        assert_eq!(bench.log.count("unmapping 0x1000"), 1);
        assert_eq!(bench.log.count("unmapped 0x1000"), 0);
        assert!(not_mapped(bench.handle.dma().write(0x1000, &[1])));
        let again = bench.handle.dma().lease(0x1000, 1, Direction::Read);
        assert!(not_mapped(again.map(drop)));
        peer.dma_works(&bench.handle);
        // The same addresses may be mapped anew meanwhile, and go again. The device, which may keep a
        // table of them, is told in an order in which nothing overlaps.
        let new = peer.share(0x1000, 0x1000);
        let log = bench.log.all();
        let of_it: Vec<_> = log.iter().filter(|entry| entry.ends_with(" 0x1000")).collect();
        let order = ["mapped 0x1000", "unmapping 0x1000", "unmapped 0x1000", "mapped 0x1000"];
        assert_eq!(of_it, order);
        bench.handle.dma().write(0x1000, b"new!").unwrap();
        assert_eq!(
            (new.bytes(0x1000, 4).unwrap(), ram.bytes(0x1000, 4).unwrap()),
            (b"new!".to_vec(), vec![0; 4])
        );
        peer.main.send(&unmap(4, 0x1000, 0x1000)).unwrap();
        done(&peer.main, 4, Command::DmaUnmap);
        peer.is_quiet();
        peer.main.send(&reg_write(5, HOOK, &[0])).unwrap();
        let mut ends = [peer.main.recv().unwrap(), peer.main.recv().unwrap()];
        ends.sort_by_key(|reply| reply.header.id);
        assert_eq!((ends[0].header.id, ends[1].header.id), (2, 5));
        let unmapped = DmaUnmapReply::parse(&ends[0].payload).unwrap();
        assert_eq!((ends[0].errno(), unmapped.size), (None, 0x1000));
        assert_eq!(bench.log.count("unmapped 0x1000"), 2, "of each once");
        peer.is_quiet();
    }
}

/// A lease that another thread holds, or keeps beyond the session.
#[test]
fn c3f_a_lease_outlives_neither_its_mapping_nor_a_session() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let ram = peer.share(0x1000, 0x1000);
        let dma = bench.handle.dma();
        let lease = dma.lease(0x1800, 0x100, Direction::Write).unwrap();
        assert!(!lease.is_ending());
        peer.main.send(&unmap(1, 0x1000, 0x1000)).unwrap();
        bench.log.wait_for("unmapping 0x1000", 1);
        peer.is_quiet();
        assert!(lease.is_ending());
        lease.write(0, b"still").unwrap();
        assert_eq!(ram.bytes(0x1800, 5).unwrap(), b"still");
        drop(lease);
        done(&peer.main, 1, Command::DmaUnmap);

        let ram = peer.share(0x1000, 0x1000);
        let lease = dma.lease(0x1800, 0x100, Direction::Write).unwrap();
        peer.main.send(&unmap(1, 0x1000, 0x1000)).unwrap();
        bench.log.wait_for("unmapping 0x1000", 2);
        drop(peer);
        bench.log.wait_for("reset ConnectionLost", 1);
        assert_eq!(bench.log.count("unmapped 0x1000"), 2, "{:?}", bench.log.all());
        // Its memory stays as long as it does, and nobody waits for it.
        lease.write(0, b"alone").unwrap();
        assert_eq!(ram.bytes(0x1800, 5).unwrap(), b"alone");
        let next = bench.peer(twin);
        drop(lease);
        next.dma_works(&bench.handle);
        next.is_quiet();
    }
}

#[test]
fn c3g_an_unmap_of_all_does_it_to_all() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for face in FACES {
            peer.map(OTHER, 0x1000);
            let _ram = [peer.share(0x1000, 0x1000), peer.share(0x2000, 0x1000)];
            let dma = bench.handle.dma();
            let leases: Vec<_> = [0x1000, 0x2000]
                .into_iter()
                .map(|at| dma.lease(at, 4, Direction::Read).unwrap())
                .collect();
            let reads = [BASE, OTHER].map(|at| face.read(&bench.handle, at, 4));
            peer.asked();
            peer.asked();
            peer.main.send(&unmap_all(1)).unwrap();
            for read in reads {
                assert_eq!(read.end(), Err(DmaError::Canceled), "{face:?}");
            }
            for lease in leases {
                peer.is_quiet();
                drop(lease);
            }
            done(&peer.main, 1, Command::DmaUnmap);
            for at in [0x1000, 0x2000, BASE, OTHER] {
                assert!(not_mapped(dma.write(at, &[1])));
            }
            peer.map(BASE, SIZE);
            peer.dma_works(&bench.handle);
        }
    }
}

/// Two unmaps wait, each for its own lease.
#[test]
fn c3g_each_unmap_waits_for_its_own() {
    for style in STYLES {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(false);
        let _ram = [peer.share(0x1000, 0x1000), peer.share(0x2000, 0x1000)];
        let dma = bench.handle.dma();
        let leases: Mutex<Vec<_>> = Mutex::default();
        for at in [0x1000, 0x2000] {
            leases.lock().unwrap().push(Arc::new(dma.lease(at, 4, Direction::Read).unwrap()));
        }
        peer.main.send(&[unmap(1, 0x1000, 0x1000), unmap(2, 0x2000, 0x1000)].concat()).unwrap();
        peer.is_quiet();
        leases.lock().unwrap().pop();
        done(&peer.main, 2, Command::DmaUnmap);
        peer.is_quiet();
        leases.lock().unwrap().pop();
        done(&peer.main, 1, Command::DmaUnmap);
    }
}
