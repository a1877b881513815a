//! Crossing traffic on two sockets, and ids (C8, C9, C10, C11e). C8b is the client's: see
//! `crossing_client.rs`.

mod crossing;

use std::collections::HashSet;

use crossing::*;
use vfu::wire::{Command, Errno, Kind, RegionReadRequest, Request};
use vfu::{DmaError, Fault};
use vfu_testkit::{RawPeer, message, posted};

#[test]
fn c8a_with_a_twin_no_command_goes_over_the_main_socket() {
    for style in STYLES {
        let bench = Bench::of(style, forever(), |gadget| {
            gadget.on_read(|handle, _, data, _| {
                handle.dma().read(BASE, data).map_err(|_| Fault::Denied)
            })
        });
        let peer = bench.peer(true);
        for face in FACES {
            let read = face.read(&bench.handle, BASE, 4);
            let (asked, at, _) = peer.asked();
            let write = face.write(&bench.handle, BASE, vec![1; 4]);
            let (told, ..) = peer.told();
            assert!(!peer.main.has_input().unwrap());
            peer.is_quiet();
            peer.give(&asked, &read_reply(at, b"good"));
            peer.ack(&told, BASE, 4);
            assert_eq!((read.end(), write.end()), (Ok(b"good".to_vec()), Ok(())));
        }
        peer.main.send(&reg_read(1, HOOK, 4)).unwrap();
        let (asked, at, _) = peer.asked();
        assert!(!peer.main.has_input().unwrap());
        peer.give(&asked, &read_reply(at, b"good"));
        assert_eq!(reg_data(&peer.main, 1), b"good");
    }
}

/// Waits until the counter has the value; meanwhile nothing else may happen.
fn counts(bench: &Bench, wanted: u64, count: impl Fn(vfu_proto::session::Counters) -> u64) {
    let deadline = std::time::Instant::now() + vfu_testkit::DEADLINE;
    while count(bench.handle.counters().unwrap()) < wanted {
        assert!(std::time::Instant::now() < deadline, "{:?}", bench.handle.counters());
        std::thread::yield_now();
    }
    assert_eq!(count(bench.handle.counters().unwrap()), wanted);
}

#[test]
fn c8c_a_reply_on_the_wrong_socket_is_nobodys() {
    for style in STYLES {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(true);
        for (round, face) in FACES.into_iter().enumerate() {
            let read = face.read(&bench.handle, BASE, 4);
            let (asked, at, _) = peer.asked();
            peer.main.send(&asked.reply(&read_reply(at, b"evil"))).unwrap();
            peer.is_quiet();
            counts(&bench, round as u64 + 1, |c| c.stray_replies);
            assert!(!read.has_ended());
            peer.dma_works(&bench.handle);
            peer.give(&asked, &read_reply(at, b"good"));
        }
        peer.is_quiet();
    }
}

#[test]
fn c8d_version_and_replies_to_nothing_on_the_twin() {
    for style in STYLES {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(true);
        let read = start_read(&bench.handle, BASE, 4);
        let (asked, at, _) = peer.asked();
        peer.dma().send(&RawPeer::version(9, 0, 1, Some("{}"))).unwrap();
        let refused = peer.dma().recv_reply(9, Command::Version).unwrap();
        assert_eq!(refused.errno(), Some(Errno::EINVAL));
        let stray = asked.header.id.wrapping_add(1000);
        peer.dma().send(&message(stray, Command::DmaRead.as_u16(), 1, &[7; 100])).unwrap();
        counts(&bench, 1, |c| c.stray_replies);
        peer.give(&asked, &read_reply(at, b"good"));
        assert_eq!(read.end(), Ok(b"good".to_vec()));
        peer.is_quiet();
    }
}

#[test]
fn c9_a_command_on_the_twin_is_refused() {
    for style in STYLES {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(true);
        for (round, face) in FACES.into_iter().enumerate() {
            let read = face.read(&bench.handle, BASE, 4);
            let (asked, at, _) = peer.asked();
            let register =
                Request::RegionRead(RegionReadRequest { offset: 0, region: 0, count: 4 });
            // The ids of requests under way, too.
            let refused = peer.dma().call(asked.header.id, &register).unwrap();
            assert_eq!(refused.errno(), Some(Errno::EINVAL));
            assert_eq!(
                peer.dma().call(5, &Request::DeviceReset).unwrap().errno(),
                Some(Errno::EINVAL)
            );
            peer.dma().send(&posted(6, &register)).unwrap();
            counts(&bench, 3 * (round as u64 + 1), |c| c.misplaced_commands);
            assert!(!peer.dma().has_input().unwrap(), "no reply was wanted");
            peer.give(&asked, &read_reply(at, b"good"));
            assert_eq!(read.end(), Ok(b"good".to_vec()));
            assert_eq!(bench.log.count("reset Device"), 0);
            peer.is_quiet();
        }
    }
}

#[test]
fn c10a_commands_and_dma_may_have_the_same_id() {
    for style in STYLES {
        let (keep, kept) = std::sync::mpsc::channel();
        let bench = Bench::of(style, forever(), |gadget| {
            gadget.on_read(move |_, _, _, defer| {
                keep.send(defer.later().unwrap()).unwrap();
                Ok(())
            })
        });
        let peer = bench.peer(false);
        for face in FACES {
            let read = face.read(&bench.handle, BASE, 4);
            let (asked, at, _) = peer.asked();
            let id = asked.header.id;
            // Both are open under the same id.
            peer.main.send(&reg_read(id, HOOK, 4)).unwrap();
            let later = kept.recv().unwrap();
            peer.main
                .send(&[reg_read(id, 0, 4), asked.reply(&read_reply(at, b"good"))].concat())
                .unwrap();
            assert_eq!(reg_data(&peer.main, id), [0; 4]);
            assert_eq!(read.end(), Ok(b"good".to_vec()));
            later.give(b"last");
            assert_eq!(reg_data(&peer.main, id), b"last");
            peer.is_quiet();
        }
    }
}

#[test]
fn c10b_ids_are_per_session() {
    for twin in [false, true] {
        let benches = [0, 1].map(|_| Bench::plain(Style::Run, forever()));
        let peers = [benches[0].peer(twin), benches[1].peer(twin)];
        let id = |peer: &Peer, handle| {
            let read = start_read(handle, BASE, 4);
            let (asked, at, _) = peer.asked();
            peer.give(&asked, &read_reply(at, b"good"));
            assert_eq!(read.end(), Ok(b"good".to_vec()));
            asked.header.id
        };
        // What the one uses up the other does not.
        let before = id(&peers[1], &benches[1].handle);
        let firsts: HashSet<_> = (0..10).map(|_| id(&peers[0], &benches[0].handle)).collect();
        assert_eq!(firsts.len(), 10);
        assert_eq!(id(&peers[1], &benches[1].handle), before.wrapping_add(1));
        // Under way at once: all different, and a reply for one device is not the other's.
        let reads = [0, 1].map(|i| start_read(&benches[i].handle, BASE, 4));
        let asked = [peers[0].asked(), peers[1].asked()];
        let [first, second] = reads;
        peers[1].give(&asked[1].0, &read_reply(BASE, b"2222"));
        assert_eq!(second.end(), Ok(b"2222".to_vec()));
        peers[0].give(&asked[0].0, &read_reply(BASE, b"1111"));
        assert_eq!(first.end(), Ok(b"1111".to_vec()));
    }
}

#[test]
fn c10c_replies_to_nothing_are_counted_and_then_end_the_session() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let read = start_read(&bench.handle, BASE, 4);
        let (asked, at, _) = peer.asked();
        let stray = |i: u16| {
            let id = asked.header.id.wrapping_add(1 + i);
            message(id, Command::DmaRead.as_u16(), 1, &vec![i as u8; usize::from(i)])
        };
        for i in 0..64 {
            peer.dma().send(&stray(i)).unwrap();
        }
        counts(&bench, 64, |c| c.stray_replies);
        peer.give(&asked, &read_reply(at, b"good"));
        assert_eq!(read.end(), Ok(b"good".to_vec()));
        peer.is_quiet();
        peer.dma().send(&stray(64)).unwrap();
        peer.main.expect_eof().unwrap();
        bench.log.wait_for("reset ConnectionLost", 1);
    }
}

/// A second reply to the same request is one to nothing.
#[test]
fn c10c_a_reply_comes_once() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let read = start_read(&bench.handle, BASE, 4);
        let (asked, at, _) = peer.asked();
        let once = asked.reply(&read_reply(at, b"good"));
        let twice = asked.reply(&read_reply(at, b"evil"));
        peer.dma().send(&[once, twice].concat()).unwrap();
        assert_eq!(read.end(), Ok(b"good".to_vec()));
        counts(&bench, 1, |c| c.stray_replies);
        peer.dma_works(&bench.handle);
    }
}

#[test]
fn c10d_a_reply_that_names_another_command() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for face in FACES {
            let read = face.read(&bench.handle, BASE, 4);
            let (mut asked, at, _) = peer.asked();
            asked.header.command = Command::DmaWrite.as_u16();
            peer.give(&asked, &read_reply(at, b"evil"));
            let malformed = read.end();
            assert!(matches!(malformed, Err(DmaError::Malformed(_))), "{malformed:?}");
            assert_eq!(malformed.unwrap_err().errno(), Errno::EPROTO);
            let write = face.write(&bench.handle, BASE, vec![1; 4]);
            let (mut told, ..) = peer.told();
            told.header.command = Command::RegionWrite.as_u16();
            peer.give(&told, &[0x11; 500]);
            assert!(matches!(write.end(), Err(DmaError::Malformed(_))));
            peer.is_quiet();
            peer.dma_works(&bench.handle);
        }
    }
}

#[test]
fn c11e_on_two_sockets_a_register_waits_for_the_writes_before_it() {
    for style in STYLES {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(true);
        for face in FACES {
            let write = face.write(&bench.handle, BASE, vec![1; 4]);
            let (told, ..) = peer.told();
            peer.main.send(&reg_read(1, 0, 4)).unwrap();
            // What comes behind it does not wait, nor does a write of a register.
            peer.main.send(&reg_write(2, 0, b"next")).unwrap();
            done(&peer.main, 2, Command::RegionWrite);
            peer.is_quiet();
            peer.ack(&told, BASE, 4);
            reg_data(&peer.main, 1);
            assert_eq!(write.end(), Ok(()));
            assert_eq!(peer.register(3, 0), u32::from_le_bytes(*b"next"));
        }
    }
}

#[test]
fn c11e_it_waits_no_longer_than_the_write_itself() {
    for style in STYLES {
        let bench = Bench::plain(style, impatient(80));
        let peer = bench.peer(true);
        for face in FACES {
            let write = face.write(&bench.handle, BASE, vec![1; 4]);
            peer.told();
            // It never comes.
            assert_eq!(peer.register(1, 0), 0);
            assert_eq!(write.end(), Err(DmaError::TimedOut));
            // A reset gives it up at once.
            let write = face.write(&bench.handle, BASE, vec![1; 4]);
            peer.told();
            peer.main.send(&[reg_read(2, 0, 4), reset(3)].concat()).unwrap();
            let mut ids = [peer.main.recv().unwrap().header, peer.main.recv().unwrap().header];
            ids.sort_by_key(|header| header.id);
            assert_eq!((ids[0].id, ids[1].id), (2, 3));
            assert!(ids.iter().all(|h| h.kind() == Some(Kind::Reply) && !h.is_error()));
            assert!(write.end().is_err());
            peer.main.enable_bus_master().unwrap();
        }
    }
}
