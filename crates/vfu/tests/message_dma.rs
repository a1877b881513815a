//! DMA by messages: how transfers are cut, and what the client's replies do.

mod dma_peer;

use dma_peer::*;
use vfu::wire::{Command, Errno, RegionWriteRequest, Request};
use vfu::{Client, DmaError, Server};
use vfu_testkit::{CallLog, RawPeer, TestDevice, TestServer, Vmm, serve_in_process};

#[test]
fn transfers_are_split_as_the_client_demands() {
    let server = TestServer::start();
    for (twin, max) in [(false, 100), (true, 100), (false, 1), (true, 1)] {
        let peer = Peer::with(&server, twin, max as u64);
        let len = max * 5 / 2;
        let read = start_read(server.handle(), BASE + 3, len);
        let mut at = 0;
        while at < len {
            let (request, address, count) = peer.asked();
            assert_eq!((address, count), (BASE + 3 + at as u64, max.min(len - at)));
            peer.give(&request, &read_reply(address, &bytes_at(address, count)));
            at += count;
        }
        assert_eq!(read.end(), Ok(bytes_at(BASE + 3, len)));

        let write = start_write(server.handle(), BASE + 3, bytes_at(BASE + 3, len));
        let mut got = Vec::new();
        while got.len() < len {
            let (request, address, data) = peer.told();
            assert_eq!(address, BASE + 3 + got.len() as u64);
            assert_eq!(data.len(), max.min(len - got.len()));
            peer.give(&request, &words(&[address, data.len() as u64]));
            got.extend(data);
        }
        assert_eq!(write.end(), Ok(()));
        assert_eq!(got, bytes_at(BASE + 3, len));
    }
}

#[test]
fn our_own_client_gets_pieces_of_its_size() {
    let server = TestServer::start();
    for twin in [false, true] {
        let client = Client::builder().twin_socket(twin).max_transfer(100).connect(server.path());
        let vmm = Vmm::over(client.unwrap());
        vmm.set_bus_master(true).unwrap();
        let ram = vmm.message_ram(BASE, 0x1000).unwrap();
        ram.store(BASE + 7, &bytes_at(BASE, 250)).unwrap();
        let mut got = vec![0; 250];
        server.handle().dma().read(BASE + 7, &mut got).unwrap();
        assert_eq!(got, bytes_at(BASE, 250));
        server.handle().dma().write(BASE + 1000, &got).unwrap();
        assert_eq!(ram.bytes(BASE + 1000, 250).unwrap(), got);
        assert_eq!((ram.reads(), ram.writes(), ram.largest()), (3, 3, 100));
        ram.refuse(Some(Errno::EPERM));
        let refused = server.handle().dma().write(BASE, &[0]);
        assert_eq!(refused, Err(DmaError::Refused(Errno::EPERM)));
    }
}

/// It says that none of its replies gets lost.
#[test]
fn our_own_client_is_read_in_large_pieces() {
    let server = TestServer::start();
    for twin in [false, true] {
        let client = Client::builder().twin_socket(twin).connect(server.path());
        let vmm = Vmm::over(client.unwrap());
        vmm.set_bus_master(true).unwrap();
        let len = 1 << 20;
        let ram = vmm.message_ram(BASE, len).unwrap();
        ram.store(BASE, &bytes_at(BASE, len)).unwrap();
        let mut got = vec![0; len];
        for round in 1..4 {
            got.fill(0);
            server.handle().dma().read(BASE, &mut got).unwrap();
            assert!(got == bytes_at(BASE, len), "round {round}");
            assert_eq!((ram.reads(), ram.largest()), (round, len));
        }
    }
}

/// Data goes where the asker wants it while it comes; what makes no sense of it is refused at its end.
#[test]
fn large_replies_are_checked_like_small_ones() {
    let server = TestServer::start();
    let len = 300_000;
    for twin in [false, true] {
        let peer = Peer::with(&server, twin, 1 << 20);
        for round in 0..6 {
            let piece = if twin { len } else { 64 << 10 };
            let read = start_read(server.handle(), BASE, piece);
            let (request, address, count) = peer.asked();
            assert_eq!(count, piece);
            let good = bytes_at(BASE, count);
            let (payload, expected) = match round {
                0 | 1 => (read_reply(address, &good), Ok(good)),
                2 => (read_reply(address + 1, &good), Err(DmaError::Malformed("another address"))),
                3 => {
                    let head = words(&[address, count as u64 + 1]);
                    let why = "its count and its data differ";
                    ([head, good].concat(), Err(DmaError::Malformed(why)))
                }
                4 => {
                    let more = [&good[..], &[0]].concat();
                    let why = "more data than asked for";
                    (read_reply(address, &more), Err(DmaError::Malformed(why)))
                }
                _ => (read_reply(address, &good[..count - 1]), Ok(good)),
            };
            let reply = request.reply(&payload);
            // In pieces: the asker reads the first ones before the last has come.
            for part in reply.chunks(if round == 0 { usize::MAX } else { 10_000 }) {
                peer.dma().send(part).unwrap();
            }
            if round == 5 {
                let (request, address, count) = peer.asked();
                assert_eq!((address, count), (BASE + piece as u64 - 1, 1));
                peer.give(&request, &read_reply(address, &bytes_at(address, 1)));
            }
            let ended = read.end();
            assert!(ended == expected, "round {round}, twin {twin}: {:?}", ended.map(|b| b.len()));
        }
        peer.dma_works(server.handle());
    }
}

#[test]
fn reads_on_a_single_socket_are_small_enough_for_qemu() {
    let server = TestServer::start();
    let peer = Peer::begin(&server, false);
    let len = 1 << 20;
    let read = start_read(server.handle(), BASE, len);
    let (mut at, mut largest) = (0, 0);
    while at < len {
        let (request, address, count) = peer.asked();
        largest = largest.max(count);
        peer.give(&request, &read_reply(address, &bytes_at(address, count)));
        at += count;
    }
    assert_eq!(largest, 64 << 10);
    assert!(read.end() == Ok(bytes_at(BASE, len)));
}

#[test]
fn short_replies_are_continued() {
    let server = TestServer::start();
    for twin in [false, true] {
        let peer = Peer::begin(&server, twin);
        let read = start_read(server.handle(), BASE, 100);
        let mut at = 0;
        for len in [10, 1, 50, 39] {
            let (request, address, count) = peer.asked();
            assert_eq!((address, count), (BASE + at as u64, 100 - at));
            peer.give(&request, &read_reply(address, &bytes_at(address, len)));
            at += len;
        }
        assert_eq!(read.end(), Ok(bytes_at(BASE, 100)));
    }
}

#[test]
fn a_refusal_is_told_to_the_device() {
    let server = TestServer::start();
    let peer = Peer::begin(&server, true);
    for (field, errno) in [(13, Errno::EACCES), (0, Errno::EIO), (u32::MAX, Errno::EIO)] {
        for payload in [&[][..], &[0x77; 99]] {
            let read = start_read(server.handle(), BASE, 4);
            let write = start_write(server.handle(), BASE + 0x1000, vec![1; 4]);
            for _ in 0..2 {
                let request = peer.dma().recv().unwrap();
                let mut reply = request.reply(payload);
                reply[8] |= 0x20;
                reply[12..16].copy_from_slice(&field.to_le_bytes());
                peer.dma().send(&reply).unwrap();
            }
            assert_eq!(read.end(), Err(DmaError::Refused(errno)));
            assert_eq!(write.end(), Err(DmaError::Refused(errno)));
        }
    }
    peer.dma_works(server.handle());
}

#[test]
fn replies_to_a_read_that_make_no_sense_are_errors() {
    let server = TestServer::start();
    for twin in [false, true] {
        let peer = Peer::begin(&server, twin);
        let replies = [
            ("another address", read_reply(BASE + 1, &[0; 16])),
            ("too much", read_reply(BASE, &[0; 17])),
            ("far too much", read_reply(BASE, &[0; 100_000])),
            ("a count above the data", [words(&[BASE, 16]), vec![0; 15]].concat()),
            ("a count below the data", [words(&[BASE, 15]), vec![0; 16]].concat()),
            ("a count of 2^63", [words(&[BASE, 1 << 63]), vec![0; 16]].concat()),
            ("no payload", vec![]),
            ("half a head", words(&[BASE])),
        ];
        for (what, payload) in replies {
            let read = start_read(server.handle(), BASE, 16);
            let (request, ..) = peer.asked();
            peer.give(&request, &payload);
            let ended = read.end();
            let refused = matches!(ended, Err(DmaError::Malformed(_) | DmaError::NoData));
            assert!(
                refused && (ended == Err(DmaError::NoData)) == (what == "nothing"),
                "{what}: {ended:?}"
            );
            peer.works();
        }
        let read = start_read(server.handle(), BASE, 16);
        let (request, ..) = peer.asked();
        peer.give(&request, &read_reply(BASE, &[]));
        assert!(read.end().is_err(), "a success without data");
        let read = start_read(server.handle(), BASE, 16);
        let (mut request, ..) = peer.asked();
        request.header.command = Command::DmaWrite.as_u16();
        peer.give(&request, &read_reply(BASE, &[0; 16]));
        let ended = read.end();
        assert!(matches!(ended, Err(DmaError::Malformed(_))), "another command: {ended:?}");
        peer.dma_works(server.handle());
    }
}

#[test]
fn replies_to_a_write_are_checked() {
    let server = TestServer::start();
    let peer = Peer::begin(&server, true);
    let ended = |payload: &[u8]| {
        let write = start_write(server.handle(), BASE, vec![3; 16]);
        let (request, ..) = peer.told();
        peer.give(&request, payload);
        write.end()
    };
    let short_count = [words(&[BASE]), 16u32.to_le_bytes().to_vec()].concat();
    for good in [words(&[BASE, 16]), short_count, vec![]] {
        assert_eq!(ended(&good), Ok(()), "{good:x?}");
    }
    let bad = [
        words(&[BASE + 1, 16]),
        words(&[BASE, 15]),
        words(&[BASE, 17]),
        words(&[BASE, 0]),
        words(&[BASE]),
        vec![0; 15],
    ];
    for payload in bad {
        let result = ended(&payload);
        assert!(matches!(result, Err(DmaError::Malformed(_))), "{payload:x?}: {result:?}");
    }
    peer.dma_works(server.handle());
}

#[test]
fn what_may_not_be_sent_is_not() {
    let server = TestServer::start();
    let peer = Peer::begin(&server, false);
    let dma = server.handle().dma();
    let outside = BASE + SIZE;
    assert_eq!(dma.read(outside, &mut [0]), Err(DmaError::NotMapped { address: outside }));
    let across = dma.write(outside - 4, &[0; 8]);
    assert_eq!(across, Err(DmaError::NotMapped { address: outside }), "nothing of it is sent");
    assert_eq!(dma.read(BASE, &mut []), Ok(()));
    let off = RegionWriteRequest { offset: 4, region: 7, data: &[0, 0] };
    peer.main.call(1, &Request::RegionWrite(off)).unwrap();
    assert_eq!(dma.write(BASE, &[1]), Err(DmaError::BusMasterDisabled));
    peer.works();
    assert!(!peer.main.has_input().unwrap());
    drop(peer);
    let _next = RawPeer::begin(server.path()).unwrap();
    assert!(dma.read(BASE, &mut [0]).is_err());
}

#[test]
fn the_bus_master_gate_can_be_left_open() {
    let server = TestServer::with(|builder| builder.bus_master_gate(false));
    let peer = Peer::begin(&server, false);
    let off = RegionWriteRequest { offset: 4, region: 7, data: &[0, 0] };
    peer.main.call(1, &Request::RegionWrite(off)).unwrap();
    peer.dma_works(server.handle());
}

#[test]
fn a_copy_announces_itself_after_its_data() {
    // The device's own worker: DMA_READ, DMA_WRITE, and the interrupt after its acknowledgement.
    let log = CallLog::default();
    let builder = Server::builder(TestDevice::pci());
    let server = serve_in_process(builder, |handle| TestDevice::new(handle, log)).unwrap();
    let vmm = Vmm::connect(server.path()).unwrap();
    let function = vmm.enumerate().unwrap();
    let msix = vmm.enable_msix(&function, 1).unwrap();
    let ram = vmm.message_ram(BASE, 0x2000).unwrap();
    ram.store(BASE, &bytes_at(BASE, 64)).unwrap();
    ram.hold();
    vmm.write64(0, TestDevice::SOURCE, BASE).unwrap();
    vmm.write64(0, TestDevice::DESTINATION, BASE + 0x1000).unwrap();
    vmm.write32(0, TestDevice::LENGTH, 64).unwrap();
    vmm.client().region_write_posted(0, TestDevice::DOORBELL, &[0; 4]).unwrap();
    ram.wait_held().unwrap();
    assert_eq!(msix.count_now(0).unwrap(), 0);
    ram.release();
    msix.wait(0).unwrap();
    assert_eq!(ram.bytes(BASE + 0x1000, 64).unwrap(), bytes_at(BASE, 64));
}
