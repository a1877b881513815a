//! Crossing traffic: sizes, replies, and peers that do not keep up (C13 to C20, C23).

mod crossing;

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crossing::*;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use vfu::wire::{
    Command, DmaMap, DmaMapFlags, Errno, RegionReadRequest, RegionWriteRequest, Request,
};
use vfu::{DmaError, Limits};
use vfu_testkit::{RawMessage, RawPeer, command};

/// Serves so many bytes of memory that holds `bytes_at`. Gives the lengths of the pieces.
fn serve(peer: &Peer, len: usize) -> Vec<usize> {
    let (mut served, mut pieces) = (0, Vec::new());
    while served < len {
        let (request, at, count) = peer.asked();
        peer.give(&request, &read_reply(at, &bytes_at(at, count)));
        served += count;
        pieces.push(count);
    }
    pieces
}

#[test]
fn c13_the_clients_transfer_size_is_kept() {
    let bench = Bench::plain(Style::Run, forever());
    let zero = RawPeer::connect(&bench.path).unwrap();
    let refused = zero.handshake(r#"{"capabilities":{"max_data_xfer_size":0}}"#).unwrap();
    assert_eq!(refused.errno(), Some(Errno::EINVAL));
    zero.expect_eof().unwrap();
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let huge = if twin { 1 << 20 } else { 64 << 10 };
        for (size, largest) in [(1, 1), (7, 7), (1 << 62, huge)] {
            let peer = bench.peer_with(twin, size);
            let len = (2 * largest + 5).max(20);
            for face in FACES {
                let read = face.read(&bench.handle, BASE, len);
                let pieces = serve(&peer, len);
                assert_eq!(pieces.iter().max(), Some(&largest));
                assert!(read.end() == Ok(bytes_at(BASE, len)), "{face:?}");
            }
        }
    }
}

#[test]
fn c14_the_count_of_a_reply() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for face in FACES {
            let read = face.read(&bench.handle, BASE, 100);
            let mut at = 0;
            for len in [1, 60, 39] {
                let (request, address, count) = peer.asked();
                assert_eq!((address, count), (BASE + at as u64, 100 - at));
                peer.give(&request, &read_reply(address, &bytes_at(address, len)));
                at += len;
            }
            assert_eq!(read.end(), Ok(bytes_at(BASE, 100)), "{face:?}");
            let ends = |payload: Vec<u8>| {
                let read = face.read(&bench.handle, BASE, 16);
                let (request, ..) = peer.asked();
                peer.give(&request, &payload);
                let error = read.end().unwrap_err();
                (error.errno(), error)
            };
            assert_eq!(ends(read_reply(BASE, &[])), (Errno::EIO, DmaError::NoData));
            let broken = [
                read_reply(BASE, &[0; 17]),
                read_reply(BASE + 1, &[0; 16]),
                [words(&[BASE, 16]), vec![0; 15]].concat(),
                [words(&[BASE, 15]), vec![0; 16]].concat(),
                [words(&[BASE, u64::MAX]), vec![0; 16]].concat(),
            ];
            for payload in broken {
                assert_eq!(ends(payload).0, Errno::EPROTO);
            }
            peer.dma_works(&bench.handle);
        }
    }
}

#[test]
fn c15_a_refusal_with_a_payload_is_drained() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let refusal = |request: &RawMessage, errno: u32| {
            let mut reply = request.reply(&[0x77; 99]);
            reply[8] |= 0x20;
            reply[12..16].copy_from_slice(&errno.to_le_bytes());
            peer.dma().send(&reply).unwrap();
        };
        for face in FACES {
            for (given, errno) in [(13, Errno::EACCES), (0, Errno::EIO), (4096, Errno::EIO)] {
                let read = face.read(&bench.handle, BASE, 16);
                refusal(&peer.asked().0, given);
                assert_eq!(read.end(), Err(DmaError::Refused(errno)), "{face:?}");
                let write = face.write(&bench.handle, BASE, vec![1; 16]);
                refusal(&peer.told().0, given);
                assert_eq!(write.end(), Err(DmaError::Refused(errno)), "{face:?}");
            }
            peer.is_quiet();
        }
    }
}

#[test]
fn c16_a_transfer_over_adjacent_maps() {
    const END: u64 = BASE + SIZE;
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        // Messages, shared memory, messages that may not be written.
        let ram = peer.share(END, 0x1000);
        let flags = DmaMapFlags::READ;
        let map = DmaMap { flags, offset: 0, address: END + 0x1000, size: 0x1000 };
        assert_eq!(peer.main.call(1, &Request::DmaMap(map)).unwrap().errno(), None);
        for face in FACES {
            ram.write(END, &bytes_at(END, 0x1000)).unwrap();
            let read = face.read(&bench.handle, END - 0x10, 0x1020);
            for expected in [(END - 0x10, 0x10), (END + 0x1000, 0x10)] {
                let (request, at, count) = peer.asked();
                assert_eq!((at, count), expected);
                peer.give(&request, &read_reply(at, &bytes_at(at, count)));
            }
            assert_eq!(read.end(), Ok(bytes_at(END - 0x10, 0x1020)), "{face:?}");
            // The last byte may not be written: nothing is.
            let write = face.write(&bench.handle, END - 0x10, vec![1; 0x1011]);
            let address = END + 0x1000;
            let direction = vfu::dma::Direction::Write;
            assert_eq!(write.end(), Err(DmaError::Permission { address, direction }));
            let read = face.read(&bench.handle, END - 0x10, 0x2011);
            assert_eq!(read.end(), Err(DmaError::NotMapped { address: END + 0x2000 }));
            assert_eq!(ram.bytes(END, 0x1000).unwrap(), bytes_at(END, 0x1000));
            peer.is_quiet();
            let write = face.write(&bench.handle, END - 0x10, vec![1; 0x1010]);
            let (request, at, data) = peer.told();
            assert_eq!((at, data.len()), (END - 0x10, 0x10));
            peer.ack(&request, at, 0x10);
            assert_eq!(write.end(), Ok(()));
            assert_eq!(ram.bytes(END, 0x1000).unwrap(), [1; 0x1000]);
        }
    }
}

#[test]
fn c17_nothing_is_asked_for_nothing() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for face in FACES {
            for at in [BASE, 0, u64::MAX] {
                assert_eq!(face.read(&bench.handle, at, 0).end(), Ok(vec![]), "{face:?}");
                assert_eq!(face.write(&bench.handle, at, vec![]).end(), Ok(()), "{face:?}");
            }
        }
        peer.is_quiet();
    }
}

#[test]
fn c18_one_more_than_may_be_outstanding_waits() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for face in FACES {
            let read = |i: u64| face.read(&bench.handle, BASE + 16 * i, 16);
            let mut reads: Vec<_> = (0..64).map(read).collect();
            let mut asked: Vec<_> = reads.iter().map(|_| peer.asked()).collect();
            reads.extend((64..70).map(read));
            peer.is_quiet();
            // Each reply makes room for one.
            for i in 0..6 {
                let (request, at, count) = &asked[i];
                peer.give(request, &read_reply(*at, &bytes_at(*at, *count)));
                asked.push(peer.asked());
                peer.is_quiet();
            }
            for (request, at, count) in &asked[6..] {
                peer.give(request, &read_reply(*at, &bytes_at(*at, *count)));
            }
            for (i, read) in reads.into_iter().enumerate() {
                assert_eq!(read.end(), Ok(bytes_at(BASE + 16 * i as u64, 16)), "{face:?}");
            }
            peer.is_quiet();
        }
    }
}

/// Those that wait for room are ended by what ends the others.
#[test]
fn c18_what_waits_for_room_is_ended_as_well() {
    for (style, twin) in worlds() {
        let bench = Bench::of(style, Limits { outstanding: 2, ..forever() }, |gadget| gadget);
        let peer = bench.peer(twin);
        for face in FACES {
            let reads: Vec<_> = (0..5).map(|i| face.read(&bench.handle, BASE + i, 1)).collect();
            peer.asked();
            peer.asked();
            peer.is_quiet();
            peer.main.send(&unmap(1, BASE, SIZE)).unwrap();
            done(&peer.main, 1, Command::DmaUnmap);
            for read in reads {
                // Whoever had not begun finds nothing mapped.
                let error = read.end().unwrap_err();
                let gone = matches!(error, DmaError::Canceled | DmaError::NotMapped { .. });
                assert!(gone, "{face:?} {error:?}");
            }
            peer.map(BASE, SIZE);
            peer.dma_works_after_writes(&bench.handle);
        }
    }
}

const MIB: u32 = 1 << 20;

/// REGION_READ of all of BAR 2.
fn large_read(id: u16) -> Vec<u8> {
    command(id, &Request::RegionRead(RegionReadRequest { offset: 0, region: 2, count: MIB }))
}

#[test]
fn c19_a_client_that_does_not_read_is_not_served_on_and_dma_goes_on() {
    for (style, twin) in worlds() {
        let limits = Limits { send_timeout: None, unsent_bytes: 3 << 20, ..forever() };
        let bench = Bench::plain(style, limits);
        let peer = bench.peer(twin);
        let reads = FACES.map(|face| {
            let read = face.read(&bench.handle, BASE, 4);
            (read, peer.asked())
        });
        let mut commands: Vec<u8> = (0..8).flat_map(large_read).collect();
        commands.extend(posted_write(8, 0, b"done"));
        peer.main.send(&commands).unwrap();
        // Replies of requests are still taken.
        for (read, (request, at, _)) in reads {
            peer.give(&request, &read_reply(at, b"good"));
            assert_eq!(read.end(), Ok(b"good".to_vec()), "{style:?} {twin}");
        }
        for id in 0..8 {
            let reply = peer.main.recv_reply(id, Command::RegionRead).unwrap();
            assert_eq!(reply.payload.len(), 16 + MIB as usize);
        }
        assert_eq!(peer.register(9, 0), u32::from_le_bytes(*b"done"));
        peer.is_quiet();
    }
}

#[test]
fn c19_a_client_that_never_reads_is_disconnected() {
    for (style, twin) in worlds() {
        let send_timeout = Some(Duration::from_millis(100));
        let bench = Bench::plain(style, Limits { send_timeout, ..forever() });
        let peer = bench.peer(twin);
        let reads = FACES.map(|face| {
            let read = face.read(&bench.handle, BASE, 4);
            peer.asked();
            read
        });
        let commands: Vec<u8> = (0..4).flat_map(large_read).collect();
        peer.main.send(&commands).unwrap();
        for read in reads {
            assert_eq!(read.end(), Err(DmaError::NotConnected), "{style:?} {twin}");
        }
        bench.log.wait_for("reset ConnectionLost", 1);
    }
}

#[test]
fn c20_both_send_large_messages_at_once() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for socket in [Some(&peer.main), peer.twin.as_ref()].into_iter().flatten() {
            set_socket_send_buffer_size(socket, 4096).unwrap();
            set_socket_recv_buffer_size(socket, 4096).unwrap();
        }
        let len = MIB as usize;
        for face in FACES {
            let write = face.write(&bench.handle, BASE, bytes_at(BASE, len));
            let data = vec![7; len];
            let large = RegionWriteRequest { offset: 0, region: 2, data: &data };
            // Nothing is read before all of it has been sent.
            for id in 0..3 {
                peer.main.send(&command(id, &Request::RegionWrite(large))).unwrap();
            }
            let mut got = Vec::new();
            let mut ids = Vec::new();
            while got.len() < len || ids.len() < 3 {
                let from_main = twin && (got.len() == len || peer.main.has_input().unwrap());
                let reader = if from_main { &peer.main } else { peer.dma() };
                let message = reader.recv().unwrap();
                if message.header.command == Command::DmaWrite.as_u16() {
                    let at = u64::from_le_bytes(message.payload[..8].try_into().unwrap());
                    got.extend_from_slice(&message.payload[16..]);
                    peer.ack(&message, at, message.payload.len() - 16);
                } else {
                    assert_eq!(message.errno(), None);
                    ids.push(message.header.id);
                }
            }
            assert_eq!(ids, [0, 1, 2]);
            assert!(got == bytes_at(BASE, len));
            assert_eq!(write.end(), Ok(()), "{face:?}");
        }
    }
}

/// A client that is stopped for a while neither reads nor answers.
#[test]
fn c23_a_client_that_stands_still_keeps_its_session() {
    for (style, twin) in worlds() {
        let limits = Limits { send_timeout: None, message_timeout: None, ..impatient(60) };
        let bench = Bench::plain(style, limits);
        let peer = bench.peer(twin);
        let half = reg_read(1, 0, 4);
        peer.main.send(&half[..20]).unwrap();
        let tried: Vec<_> = FACES
            .iter()
            .map(|face| face.write(&bench.handle, BASE, vec![1; 1 << 20]).end())
            .collect();
        assert!(tried.iter().all(|end| *end == Err(DmaError::TimedOut)), "{tried:?}");
        // It goes on: takes what was sent, and answers.
        peer.main.send(&half[20..]).unwrap();
        let mut late = 0;
        let (done, finished) = channel::<()>();
        thread::scope(|scope| {
            if twin {
                scope.spawn(|| {
                    reg_data(&peer.main, 1);
                    drop(done);
                });
            }
            while late < 4 {
                let message = peer.dma().recv().unwrap();
                if message.header.command == Command::DmaWrite.as_u16() {
                    let at = u64::from_le_bytes(message.payload[..8].try_into().unwrap());
                    peer.ack(&message, at, message.payload.len() - 16);
                    late += 1;
                }
            }
        });
        drop(finished);
        if !twin {
            // The register may have come before or after the last of them.
            while peer.main.has_input().unwrap() {
                peer.main.recv().unwrap();
            }
        }
        let read = start_read(&bench.handle, BASE, 4);
        let (request, at, _) = loop {
            let message = peer.dma().recv().unwrap();
            if message.header.command == Command::DmaRead.as_u16() {
                break (message, BASE, 4);
            }
        };
        peer.give(&request, &read_reply(at, b"good"));
        let _in_time = read.end();
        assert!(bench.handle.is_connected());
        assert_eq!(bench.log.count("reset ConnectionLost"), 0);
    }
}
