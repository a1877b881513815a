//! DEVICE_GET_INFO, GET_REGION_INFO, GET_REGION_IO_FDS and GET_IRQ_INFO.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};
use vfu::IrqIndex;
use vfu::server::Shareable;
use vfu::wire::{Area, Command, Errno, IrqFlags, RegionCapability, RegionFlags, RegionInfo, Reply};
use vfu_testkit::{RawMessage, RawPeer, TestDevice, TestServer, Vmm, message};

fn ask(peer: &RawPeer, command: Command, words: &[u32]) -> RawMessage {
    let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    peer.send(&message(7, command.as_u16(), 0, &payload)).unwrap();
    peer.recv_reply(7, command).unwrap()
}

fn words(reply: &RawMessage) -> Vec<u32> {
    assert_eq!(reply.errno(), None);
    reply.payload.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn region_info(peer: &RawPeer, argsz: u32, index: u32) -> RawMessage {
    ask(peer, Command::DeviceGetRegionInfo, &[argsz, 0, index, 0, 0, 0, 0, 0])
}

fn parsed(reply: &RawMessage) -> RegionInfo {
    match Reply::parse(Command::DeviceGetRegionInfo, &reply.payload).unwrap() {
        Reply::DeviceGetRegionInfo(info) => info,
        other => panic!("{other:?}"),
    }
}

#[test]
fn device_info() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    let expected = [16, 3, 9, 5];
    assert_eq!(words(&ask(&peer, Command::DeviceGetInfo, &[16, 0, 0, 0])), expected);
    assert_eq!(words(&ask(&peer, Command::DeviceGetInfo, &[32, 9, 9, 9])), expected);
    assert_eq!(words(&ask(&peer, Command::DeviceGetInfo, &[16, 0, 0, 0, 5, 6])), expected);
    for bad in [&[15, 0, 0, 0][..], &[0, 0, 0, 0], &[16, 0, 0], &[]] {
        assert_eq!(ask(&peer, Command::DeviceGetInfo, bad).errno(), Some(Errno::EINVAL), "{bad:?}");
    }
}

#[test]
fn every_region_says_its_size() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    let (bar0, bar2) = (TestDevice::BAR0_SIZE, TestDevice::BAR2_SIZE);
    let sizes = [bar0, 8192, bar2, 0, 32, 0, 0, 4096, 0];
    for (index, size) in sizes.into_iter().enumerate() {
        let reply = region_info(&peer, 32, index as u32);
        assert_eq!(reply.payload.len(), 32);
        assert!(reply.fds.is_empty());
        let info = parsed(&reply);
        assert_eq!((info.index, info.size), (index as u32, size));
        let there = RegionFlags::READ | RegionFlags::WRITE;
        assert_eq!(info.flags, if size > 0 { there } else { RegionFlags::empty() });
    }
    for index in [9, 10, u32::MAX] {
        assert_eq!(region_info(&peer, 32, index).errno(), Some(Errno::EINVAL));
    }
    for argsz in [0, 31] {
        assert_eq!(region_info(&peer, argsz, 0).errno(), Some(Errno::EINVAL));
    }
    let short = ask(&peer, Command::DeviceGetRegionInfo, &[32, 0, 0, 0, 0, 0, 0]);
    assert_eq!(short.errno(), Some(Errno::EINVAL));
    let mut long = [0; 4064 / 4];
    long[0] = 4064;
    let reply = ask(&peer, Command::DeviceGetRegionInfo, &long);
    assert_eq!(reply.payload.len(), 32, "what follows the request is ignored");
}

/// Memory for BAR 2, which begins at `offset` in its file.
fn memory(offset: u64) -> (OwnedFd, OwnedFd) {
    let file = memfd_create("bar2", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, offset + TestDevice::BAR2_SIZE).unwrap();
    (rustix::io::dup(&file).unwrap(), file)
}

#[test]
fn sparse_areas_come_when_there_is_room_for_them() {
    let (ours, file) = memory(8192);
    let sparse = Shareable::new(file, 8192).area(0, 4096).area(8192, 4096);
    let server = TestServer::with(|builder| builder.mmap(2, sparse));
    let peer = RawPeer::begin(server.path()).unwrap();
    for argsz in [32, 33, 79] {
        let reply = region_info(&peer, argsz, 2);
        assert_eq!((words(&reply)[0], reply.payload.len()), (80, 32), "argsz {argsz}");
        assert_eq!(words(&reply)[1] & 0b1000, 0, "no CAPS without capabilities");
        assert!(reply.fds.is_empty(), "no descriptor with a part of the reply");
        assert_eq!(parsed(&reply).needed_argsz, Some(80));
    }
    for argsz in [80, 81, u32::MAX] {
        let reply = region_info(&peer, argsz, 2);
        assert_eq!((words(&reply)[0], reply.payload.len()), (80, 80), "argsz {argsz}");
        assert_eq!(words(&reply)[1], 0b1111);
        assert_eq!(words(&reply)[3], 32);
        assert_eq!(reply.fds.len(), 1);
        let info = parsed(&reply);
        assert_eq!(info.offset, 8192);
        let areas = vec![Area { offset: 0, size: 4096 }, Area { offset: 8192, size: 4096 }];
        assert_eq!(info.capabilities, [RegionCapability::SparseMmap(areas)]);
        // The same file: what the client writes, the device's side sees.
        let mark = argsz.to_le_bytes();
        pwrite(&reply.fds[0], &mark, info.offset + 8192).unwrap();
        let mut seen = [0; 4];
        pread(&ours, &mut seen[..], 8192 + 8192).unwrap();
        assert_eq!(seen, mark);
    }
}

#[test]
fn a_region_may_be_mapped_as_a_whole() {
    let (_ours, file) = memory(0);
    let server = TestServer::with(|builder| builder.mmap(2, Shareable::new(file, 0)));
    let peer = RawPeer::begin(server.path()).unwrap();
    assert_eq!(parsed(&region_info(&peer, 32, 2)).needed_argsz, Some(64));
    let reply = region_info(&peer, 4096, 2);
    assert_eq!(reply.fds.len(), 1);
    let info = parsed(&reply);
    assert!(info.flags.contains(RegionFlags::MMAP));
    // Said in words, as libvfio-user does.
    let whole = vec![Area { offset: 0, size: TestDevice::BAR2_SIZE }];
    assert_eq!(info.capabilities, [RegionCapability::SparseMmap(whole)]);
    assert!(region_info(&peer, 4096, 0).fds.is_empty());
    drop(peer);

    let vmm = Vmm::connect(server.path()).unwrap();
    let details = vmm.client().region_info(2).unwrap();
    let mmap = details.mmap.unwrap();
    assert_eq!(mmap.areas, [Area { offset: 0, size: TestDevice::BAR2_SIZE }]);
    assert!(vmm.client().region_info(0).unwrap().mmap.is_none());
}

#[test]
fn regions_have_no_io_fds() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    let io_fds = |words: &[u32]| ask(&peer, Command::DeviceGetRegionIoFds, words);
    for index in [0, 1, 2, 4, 7] {
        let reply = io_fds(&[16, 0, index, 0]);
        assert_eq!(words(&reply), [16, 0, index, 0]);
        assert!(reply.fds.is_empty());
    }
    let bad = [
        [15, 0, 0, 0],
        [16, 1, 0, 0],
        [16, 0, 0, 1],
        [16, 0, 9, 0],
        [16, 0, u32::MAX, 0],
        [16, 0, 3, 0], // not there
        [16, 0, 6, 0], // not there
    ];
    for words in bad {
        assert_eq!(io_fds(&words).errno(), Some(Errno::EINVAL), "{words:?}");
    }
    assert_eq!(io_fds(&[16, 0, 0]).errno(), Some(Errno::EINVAL));
}

#[test]
fn every_interrupt_type_says_its_vectors() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    let irq_info = |words: &[u32]| ask(&peer, Command::DeviceGetIrqInfo, words);
    for (index, count) in [1, 4, 4, 1, 1].into_iter().enumerate() {
        let reply = words(&irq_info(&[16, 0, index as u32, 0]));
        assert_eq!((reply[0], reply[2], reply[3]), (16, index as u32, count));
        let flags = IrqFlags::from_bits_retain(reply[1]);
        assert!(flags.contains(IrqFlags::EVENTFD));
        let pin = IrqFlags::MASKABLE | IrqFlags::AUTOMASKED;
        assert_eq!(flags.contains(pin), index == IrqIndex::Intx as usize);
    }
    for bad in [&[16, 0, 5, 0][..], &[16, 0, u32::MAX, 0], &[15, 0, 0, 0], &[16, 0, 0]] {
        assert_eq!(irq_info(bad).errno(), Some(Errno::EINVAL), "{bad:?}");
    }
}
