//! REGION_READ, REGION_WRITE and REGION_WRITE_MULTI.

use vfu::wire::{
    Command, DeviceInfoRequest, Errno, RegionReadReply, RegionReadRequest, RegionWriteReply,
    RegionWriteRequest, Request, WriteEntry, WriteMulti, WriteMultiReply,
};
use vfu_testkit::{Call, RawMessage, RawPeer, TestDevice, TestServer, command, message, posted};

const INFO: Request<'_> = Request::DeviceGetInfo(DeviceInfoRequest { argsz: 16 });

fn write(region: u32, offset: u64, data: &[u8]) -> Request<'_> {
    Request::RegionWrite(RegionWriteRequest { offset, region, data })
}

fn read<'a>(region: u32, offset: u64, count: u32) -> Request<'a> {
    Request::RegionRead(RegionReadRequest { offset, region, count })
}

/// A payload of REGION_READ or REGION_WRITE that need not make sense.
fn access(offset: u64, region: u32, count: u32, data: &[u8]) -> Vec<u8> {
    let mut payload = offset.to_le_bytes().to_vec();
    payload.extend(region.to_le_bytes());
    payload.extend(count.to_le_bytes());
    payload.extend(data);
    payload
}

fn data(reply: &RawMessage) -> Vec<u8> {
    assert_eq!(reply.errno(), None);
    RegionReadReply::parse(&reply.payload).unwrap().data.to_vec()
}

fn refused(peer: &RawPeer, command: Command, payload: &[u8]) {
    peer.send(&message(1, command.as_u16(), 0, payload)).unwrap();
    let reply = peer.recv_reply(1, command).unwrap();
    let head = &payload[..payload.len().min(24)];
    assert_eq!(reply.errno(), Some(Errno::EINVAL), "{command} {head:x?}");
    assert!(reply.payload.is_empty());
}

/// A client of which the device has been told, and nothing else in the log.
fn begin(server: &TestServer) -> RawPeer {
    let peer = RawPeer::begin(server.path()).unwrap();
    server.log().wait_for(&Call::Connected).unwrap();
    server.log().take();
    peer
}

#[test]
fn what_is_written_reads_back() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    for len in [1, 2, 3, 4, 8, 16, 255] {
        let bytes: Vec<u8> = (1..=len).collect();
        let reply = peer.call(1, &write(0, 1, &bytes)).unwrap();
        let written = RegionWriteReply::parse(&reply.payload).unwrap();
        assert_eq!(reply.payload.len(), 16);
        let expected = RegionWriteReply { offset: 1, region: 0, count: len.into() };
        assert_eq!(written, expected);
        let reply = peer.call(2, &read(0, 1, len.into())).unwrap();
        assert_eq!(reply.payload[..16], access(1, 0, len.into(), &[]));
        assert_eq!(data(&reply), bytes);
    }
}

#[test]
fn accesses_that_are_not_in_a_region_are_refused() {
    let server = TestServer::start();
    let peer = begin(&server);
    let bar0 = TestDevice::BAR0_SIZE;
    let outside = [
        (0, bar0, 1),
        (0, bar0 - 1, 2),
        (0, bar0 + 1, 0),
        (0, u64::MAX, 1),
        (0, u64::MAX - 7, 16),
        (0, u64::MAX - 3, 4),
        (7, 4096, 1),
        (7, 4095, 2),
        (3, 0, 0), // not there
        (3, 0, 1),
        (6, 0, 4),
        (8, 0, 1),
        (9, 0, 1), // no such region
        (u32::MAX, 0, 1),
        (2, 0, (1 << 20) + 1), // more than max_data_xfer_size
    ];
    server.log().take();
    for (region, offset, count) in outside {
        refused(&peer, Command::RegionRead, &access(offset, region, count, &[]));
        let data = vec![0x5a; count as usize];
        refused(&peer, Command::RegionWrite, &access(offset, region, count, &data));
    }
    refused(&peer, Command::RegionRead, &access(0, 0, u32::MAX, &[]));
    // Too short, and a count that is not the data's.
    refused(&peer, Command::RegionRead, &access(0, 0, 4, &[])[..15]);
    refused(&peer, Command::RegionWrite, &access(0, 0, 0, &[])[..15]);
    refused(&peer, Command::RegionWrite, &access(0, 0, 4, &[1, 2, 3]));
    refused(&peer, Command::RegionWrite, &access(0, 0, 4, &[1, 2, 3, 4, 5]));
    refused(&peer, Command::RegionWrite, &access(0, 0, u32::MAX, &[1, 2, 3, 4, 5]));
    assert_eq!(server.log().take(), [], "the device hears of none");
}

#[test]
fn an_access_of_nothing_succeeds() {
    let server = TestServer::start();
    let peer = begin(&server);
    for (region, offset) in [(0, 0), (0, 5), (0, TestDevice::BAR0_SIZE), (7, 0)] {
        let expected = access(offset, region, 0, &[]);
        let reply = peer.call(1, &read(region, offset, 0)).unwrap();
        assert_eq!((reply.errno(), reply.payload), (None, expected.clone()));
        let reply = peer.call(1, &write(region, offset, &[])).unwrap();
        assert_eq!((reply.errno(), reply.payload), (None, expected));
    }
    assert_eq!(server.log().take(), []);
}

#[test]
fn what_the_device_does_not_know_reads_as_all_ones() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    let nothing = TestDevice::NOTHING;
    for len in [1, 2, 4, 8, 100] {
        let reply = peer.call(1, &read(0, nothing, len)).unwrap();
        assert_eq!(data(&reply), vec![0xff; len as usize]);
    }
    let reply = peer.call(1, &write(0, nothing, &[1, 2, 3, 4])).unwrap();
    assert_eq!(reply.errno(), None, "the write is dropped, as on a bus");
    let reply = peer.call(1, &write(0, TestDevice::SOURCE, &[1, 2])).unwrap();
    assert_eq!(reply.errno(), None, "a width that the register has not");
    assert_eq!(data(&peer.call(1, &read(4, 0, 4)).unwrap()), [0xff; 4]);
}

#[test]
fn what_wants_no_reply_gets_none() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    for command in Command::ALL.iter().filter(|c| **c != Command::Version) {
        for len in [0, 8, 16, 20, 24, 32, 100] {
            peer.send(&message(9, command.as_u16(), 0x10, &vec![0; len])).unwrap();
        }
    }
    peer.send(&message(9, 0x7777, 0x10, &[0; 4])).unwrap();
    peer.send(&posted(9, &INFO)).unwrap();
    peer.send(&posted(9, &read(0, 0, 4))).unwrap();
    peer.send(&posted(9, &write(0, 0, &[1, 2, 3, 4]))).unwrap();
    peer.send(&posted(9, &write(99, 0, &[1, 2, 3, 4]))).unwrap();
    assert_eq!(data(&peer.call(1, &read(0, 0, 4)).unwrap()), [1, 2, 3, 4]);
    assert!(!peer.has_input().unwrap());
}

#[test]
fn a_read_sees_the_posted_writes_before_it() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    for round in 0..200u32 {
        let mut bytes = Vec::new();
        for value in 0..10 {
            bytes.extend(posted(1, &write(0, 0, &(round * 10 + value).to_le_bytes())));
        }
        bytes.extend(command(2, &read(0, 0, 4)));
        bytes.extend(posted(3, &write(0, 0, &[0xee; 4])));
        peer.send(&bytes).unwrap();
        let reply = peer.recv_reply(2, Command::RegionRead).unwrap();
        assert_eq!(data(&reply), (round * 10 + 9).to_le_bytes());
    }
}

#[test]
fn no_access_to_configuration_space_is_an_error() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    for value in [0x00, 0xff] {
        for offset in (0..0x180).chain(0xff0..0x1000) {
            for len in [1, 2, 3, 4, 8].into_iter().filter(|len| offset + len <= 4096) {
                let reply = peer.call(1, &write(7, offset, &[value; 8][..len as usize])).unwrap();
                assert_eq!(reply.errno(), None, "write {value:#x} at {offset:#x}, {len} bytes");
                let reply = peer.call(2, &read(7, offset, len as u32)).unwrap();
                assert_eq!(data(&reply).len() as u64, len, "read at {offset:#x}");
            }
        }
    }
    assert_eq!(data(&peer.call(1, &read(7, 0, 4)).unwrap()), [0x34, 0x12, 1, 0], "ids stay");
    assert_eq!(data(&peer.call(1, &read(7, 0, 4096)).unwrap()).len(), 4096);
}

#[test]
fn many_writes_come_in_one_message_in_their_order() {
    let server = TestServer::start();
    let peer = begin(&server);
    let entries: Vec<_> = (0..200u64)
        .map(|i| WriteEntry::new(i, 0, &i.to_le_bytes()[..1 + (i as usize) % 8]).unwrap())
        .collect();
    let request = Request::RegionWriteMulti(WriteMulti::new(&entries));
    peer.send(&posted(1, &request)).unwrap();
    let reply = peer.call(2, &request).unwrap();
    assert_eq!(WriteMultiReply::parse(&reply.payload).unwrap().count, 200);
    let expected = entries.iter().map(|entry| Call::Write {
        region: 0,
        offset: entry.offset(),
        data: entry.data().to_vec(),
    });
    let expected: Vec<_> = expected.collect();
    assert_eq!(server.log().take(), [expected.clone(), expected].concat());
}

#[test]
fn many_writes_end_at_the_first_bad_one() {
    let server = TestServer::start();
    let peer = begin(&server);
    let entry = |region, offset| WriteEntry::new(offset, region, &[7]).unwrap();
    for bad in [entry(9, 0), entry(3, 0), entry(0, TestDevice::BAR0_SIZE)] {
        server.log().take();
        let entries = [entry(0, 0), entry(0, 1), bad, entry(0, 2)];
        let request = Request::RegionWriteMulti(WriteMulti::new(&entries));
        let reply = peer.call(1, &request).unwrap();
        // Stop, and report what was completed.
        assert_eq!(reply.errno(), None, "{bad:?}");
        assert_eq!(WriteMultiReply::parse(&reply.payload).unwrap().count, 2);
        assert_eq!(server.log().take().len(), 2);
    }
}

#[test]
fn many_writes_that_make_no_sense_do_nothing() {
    let server = TestServer::start();
    let peer = begin(&server);
    let mut payloads = Vec::new();
    let whole = {
        let mut payload = 1u64.to_le_bytes().to_vec();
        payload.extend(access(0, 0, 4, &[1, 2, 3, 4, 0, 0, 0, 0]));
        payload
    };
    for count in [0, 2, 201, 1 << 32, 1 << 61, u64::MAX, u64::MAX / 24] {
        let mut payload = whole.clone();
        payload[..8].copy_from_slice(&u64::to_le_bytes(count));
        payloads.push(payload);
    }
    for width in [0, 9, u32::MAX] {
        let mut payload = whole.clone();
        payload[20..24].copy_from_slice(&width.to_le_bytes());
        payloads.push(payload);
    }
    payloads.extend([whole[..7].to_vec(), whole[..31].to_vec(), [&whole[..], &[0]].concat()]);
    for payload in payloads {
        refused(&peer, Command::RegionWriteMulti, &payload);
    }
    assert_eq!(server.log().take(), []);
}

#[test]
fn the_bar_that_was_added_for_msix_is_none_of_the_devices() {
    let server = TestServer::start();
    let peer = begin(&server);
    server.log().take();
    // Behind the table of 4 vectors, across its end, behind the Pending Bit Array.
    for (offset, len) in [(0x40, 4), (0x3c, 8), (0x800, 8), (0x1008, 4), (0x1ffc, 4)] {
        assert_eq!(peer.call(1, &write(1, offset, &vec![0; len])).unwrap().errno(), None);
        let ones = vec![0xff; len];
        assert_eq!(data(&peer.call(2, &read(1, offset, len as u32)).unwrap()), ones, "{offset:#x}");
    }
    assert_eq!(server.log().take(), []);
}
