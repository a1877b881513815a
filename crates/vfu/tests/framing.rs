//! Messages in any pieces, and streams that can't be trusted.

use std::os::fd::AsFd;

use vfu::wire::{
    Command, DeviceInfoRequest, DmaMap, DmaMapFlags, Errno, RegionReadReply, RegionReadRequest,
    RegionWriteRequest, Request,
};
use vfu_testkit::{RawPeer, SharedRam, TestServer, command, message};

const INFO: Request<'_> = Request::DeviceGetInfo(DeviceInfoRequest { argsz: 16 });

fn write(id: u16, offset: u64, data: &[u8]) -> Vec<u8> {
    command(id, &Request::RegionWrite(RegionWriteRequest { offset, region: 0, data }))
}

fn read(id: u16, offset: u64, count: u32) -> Vec<u8> {
    command(id, &Request::RegionRead(RegionReadRequest { offset, region: 0, count }))
}

/// Receives the replies to a write with id 1 and a read with id 2; gives what was read.
fn written_and_read(peer: &RawPeer) -> Vec<u8> {
    let reply = peer.recv_reply(1, Command::RegionWrite).unwrap();
    assert_eq!((reply.errno(), reply.payload.len()), (None, 16));
    let reply = peer.recv_reply(2, Command::RegionRead).unwrap();
    assert_eq!(reply.errno(), None);
    RegionReadReply::parse(&reply.payload).unwrap().data.to_vec()
}

#[test]
fn every_cut_of_two_messages_gives_the_same() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    let len = [write(1, 0x10, &[0; 8]), read(2, 0x10, 8)].concat().len();
    for cut in 0..=len {
        let value = (cut as u64 * 0x0101_0101_0101).to_le_bytes();
        let bytes = [write(1, 0x10, &value), read(2, 0x10, 8)].concat();
        peer.send_split(&bytes, &[cut]).unwrap();
        assert_eq!(written_and_read(&peer), value, "cut at {cut}");
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    let server = TestServer::start();
    let peer = RawPeer::connect(server.path()).unwrap();
    peer.send_bytewise(&RawPeer::version(0, 0, 1, Some("{}"))).unwrap();
    assert_eq!(peer.recv_reply(0, Command::Version).unwrap().errno(), None);
    peer.send_bytewise(&[write(1, 0, b"bytewise"), read(2, 0, 8)].concat()).unwrap();
    assert_eq!(written_and_read(&peer), b"bytewise");
}

#[test]
fn many_messages_may_come_in_one_piece() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    peer.send(&[write(1, 0, b"together"), read(2, 0, 8), command(3, &INFO)].concat()).unwrap();
    assert_eq!(written_and_read(&peer), b"together");
    peer.recv_reply(3, Command::DeviceGetInfo).unwrap();
    let many: Vec<u8> = (0..500).flat_map(|id| read(id, 0, 1)).collect();
    peer.send(&many).unwrap();
    for id in 0..500 {
        assert_eq!(peer.recv_reply(id, Command::RegionRead).unwrap().payload.len(), 17);
    }
}

#[test]
fn descriptors_may_come_with_any_byte() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    peer.enable_bus_master().unwrap();
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    for at in 0..48 {
        let address = 0x10_0000 + 0x1000 * at as u64;
        let ram = SharedRam::new(address, 4096).unwrap();
        let map = DmaMap { flags, offset: 0, address, size: 4096 };
        // Messages before and behind it may come in the same `recvmsg`.
        peer.send(&command(0, &INFO)).unwrap();
        peer.send_with_at(&command(1, &Request::DmaMap(map)), at, &[ram.as_fd()]).unwrap();
        peer.send(&command(2, &INFO)).unwrap();
        peer.recv_reply(0, Command::DeviceGetInfo).unwrap();
        assert_eq!(peer.recv_reply(1, Command::DmaMap).unwrap().errno(), None, "at byte {at}");
        peer.recv_reply(2, Command::DeviceGetInfo).unwrap();
        // If the descriptor were lost this would ask the client by message.
        server.handle().dma().write(address, b"direct").unwrap();
        assert_eq!(ram.bytes(address, 6).unwrap(), b"direct");
    }
}

#[test]
fn a_header_that_cannot_be_ends_the_session() {
    let server = TestServer::start();
    for size in [0, 8, 15, 4097 + (1 << 20), u32::MAX] {
        let peer = RawPeer::begin(server.path()).unwrap();
        let mut bytes = command(3, &INFO);
        bytes[4..8].copy_from_slice(&u32::to_le_bytes(size));
        peer.send(&bytes).unwrap();
        let reply = peer.recv_reply(3, Command::DeviceGetInfo).unwrap();
        assert_eq!(reply.errno(), Some(Errno::EINVAL), "size {size}");
        peer.expect_eof().unwrap();
    }
    for kind in 2..16 {
        let peer = RawPeer::begin(server.path()).unwrap();
        peer.send(&message(1, 4, kind, &[0; 16])).unwrap();
        peer.expect_eof().unwrap();
    }
    let peer = RawPeer::begin(server.path()).unwrap();
    assert_eq!(peer.call(1, &INFO).unwrap().errno(), None, "the next client is served");
}

#[test]
fn commands_that_make_no_sense_are_refused_and_the_session_goes_on() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    for number in [0, 11, 12, 14, 19, 0x100, 0xffff] {
        peer.send(&message(4, number, 0, &[0x55; 100])).unwrap();
        let reply = peer.recv().unwrap();
        assert_eq!((reply.header.id, reply.header.command), (4, number));
        assert_eq!(reply.errno(), Some(Errno::EINVAL), "command {number}");
    }
    for command in Command::ALL.iter().filter(|c| **c != Command::DeviceReset) {
        peer.send(&message(5, command.as_u16(), 0, &[])).unwrap();
        let reply = peer.recv_reply(5, *command).unwrap();
        assert_eq!(reply.errno(), Some(Errno::EINVAL), "{command} without payload");
    }
    // Reserved flag bits, an error field and an ERROR flag in a command mean nothing.
    let mut odd = command(6, &INFO);
    odd[8..12].copy_from_slice(&0xffff_ffe0_u32.to_le_bytes());
    odd[12..16].copy_from_slice(&22u32.to_le_bytes());
    peer.send(&odd).unwrap();
    assert_eq!(peer.recv_reply(6, Command::DeviceGetInfo).unwrap().errno(), None);
}

#[test]
fn replies_to_nothing_are_drained_up_to_a_limit() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    for n in 0..64 {
        peer.send(&message(n, 11, 1, &vec![0xaa; usize::from(n) * 3])).unwrap();
    }
    assert_eq!(peer.call(1, &INFO).unwrap().errno(), None, "in sync");
    peer.send(&message(1, 11, 0x21, &[])).unwrap();
    peer.expect_eof().unwrap();
}

#[test]
fn equal_ids_are_all_answered() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    peer.send(&[command(0, &INFO), read(0, 0, 4), command(0, &INFO)].concat()).unwrap();
    peer.recv_reply(0, Command::DeviceGetInfo).unwrap();
    peer.recv_reply(0, Command::RegionRead).unwrap();
    peer.recv_reply(0, Command::DeviceGetInfo).unwrap();
}

#[test]
fn a_mebibyte_goes_in_one_message() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    let data: Vec<u8> = (0..1u32 << 20).map(|i| (i * 7 + (i >> 11)) as u8).collect();
    let write = RegionWriteRequest { offset: 0x1234, region: 2, data: &data };
    assert_eq!(peer.call(1, &Request::RegionWrite(write)).unwrap().payload.len(), 16);
    let read = RegionReadRequest { offset: 0x1234, region: 2, count: 1 << 20 };
    let reply = peer.call(2, &Request::RegionRead(read)).unwrap();
    assert!(RegionReadReply::parse(&reply.payload).unwrap().data == data);
    // And in pieces, with the next message right behind.
    let bytes = [command(1, &Request::RegionWrite(write)), command(2, &INFO)].concat();
    peer.send_split(&bytes, &[1, 14, 2, 15, 100_000, 3, 4096, 65536]).unwrap();
    peer.recv_reply(1, Command::RegionWrite).unwrap();
    peer.recv_reply(2, Command::DeviceGetInfo).unwrap();
}

#[test]
fn an_end_at_every_byte_is_clean() {
    let server = TestServer::start();
    let bytes = [write(1, 0x20, b"whole"), write(2, 0x40, b"cut")].concat();
    let whole = write(1, 0x20, b"whole").len();
    for len in 0..bytes.len() {
        server.log().take();
        let peer = RawPeer::begin(server.path()).unwrap();
        peer.send(&bytes[..len]).unwrap();
        peer.shutdown_write();
        if len >= whole {
            peer.recv_reply(1, Command::RegionWrite).unwrap();
        }
        peer.expect_eof().unwrap();
        // A client that is served is after the cleanup of the one before.
        drop(RawPeer::begin(server.path()).unwrap());
        let writes = server.log().count(|call| matches!(call, vfu_testkit::Call::Write { .. }));
        assert_eq!(writes, usize::from(len >= whole), "{len} bytes");
    }
}
