//! The policies other than the guard, and memory that needs none.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate,
    memfd_create, open,
};
use vfu::dma::Direction;
use vfu::wire::{DmaMap, DmaMapFlags, Errno, Request};
use vfu::{DmaError, MemoryPolicy, SharedMemory};
use vfu_testkit::{RawPeer, SharedRam, TestDevice, TestServer};

use super::child::{dies, lives};
use super::{BASE, READ_WRITE, Rig, SIZE, gone};

#[test]
fn who_trusts_is_not_guarded() {
    dies(|| {
        let rig = Rig::new(MemoryPolicy::Trusting);
        let ram = rig.ram();
        rig.write(BASE, &[1; 8]).unwrap();
        ram.truncate(0).unwrap();
        let _dead = rig.read(BASE, 8);
    });
}

#[test]
fn who_copies_maps_nothing() {
    lives(|| {
        let rig = Rig::new(MemoryPolicy::Copying);
        for flags in [READ_WRITE, READ_WRITE | DmaMapFlags::MMAP] {
            let ram = SharedRam::new(BASE, SIZE).unwrap();
            assert_eq!(rig.map_as(BASE, &ram, flags), None);
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            assert!(!maps.contains("memfd:ram"), "{maps}");
            rig.write(BASE + 5, b"copied").unwrap();
            assert_eq!(ram.bytes(BASE + 5, 6).unwrap(), b"copied");
            assert_eq!(rig.read(BASE + 5, 6), Ok(b"copied".to_vec()));
            let lease = rig.server.handle().dma().lease(BASE, 8, Direction::Read);
            assert_eq!(lease.unwrap_err(), DmaError::NotDirect { address: BASE });
            let dma = rig.server.handle().dma();
            let slice = dma.pin(|memory| memory.slice(BASE, 8, Direction::Read).map(drop));
            assert_eq!(slice, Err(DmaError::NotDirect { address: BASE }));
            ram.truncate(0).unwrap();
            assert_eq!(rig.read(BASE, 8), gone(BASE));
            assert_eq!(rig.write(BASE, &[0; 8]), gone(BASE));
            rig.unmap(BASE);
        }
        let ram = SharedRam::new(BASE, SIZE).unwrap();
        let path = format!("/proc/self/fd/{}", ram.as_fd().as_raw_fd());
        let read_only = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(rig.map_as(BASE, &read_only, READ_WRITE), Some(Errno::EACCES));
        assert_eq!(rig.map_as(BASE, &read_only, DmaMapFlags::READ), None);
    });
}

fn sealed() -> OwnedFd {
    let fd = memfd_create("sealed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, SIZE).unwrap();
    fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
    fd
}

#[test]
fn who_wants_seals_gets_no_other_files() {
    let rig = Rig::new(MemoryPolicy::Sealed);
    let ram = SharedRam::new(BASE, SIZE).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), vec![0; SIZE as usize]).unwrap();
    let file = open(folder.path().join("file"), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    for flags in [READ_WRITE, READ_WRITE | DmaMapFlags::MMAP, READ_WRITE | DmaMapFlags::FILE_IO] {
        assert_eq!(rig.map_as(BASE, &ram, flags), Some(Errno::EPERM));
        assert_eq!(rig.map_as(BASE, file.as_ref().unwrap(), flags), Some(Errno::EPERM));
        assert_eq!(rig.map_as(BASE, sealed(), flags), None);
        rig.write(BASE, b"sealed").unwrap();
        rig.unmap(BASE);
    }
    let messages = DmaMap { flags: READ_WRITE, offset: 0, address: BASE, size: SIZE };
    assert_eq!(rig.peer.call(1, &Request::DmaMap(messages)).unwrap().errno(), None);
}

/// What a client is given of the device's own memory: it can't be cut off, and a hole is zeros.
#[test]
fn memory_of_the_device_has_holes_at_worst() {
    let memory = SharedMemory::new(SIZE).unwrap();
    memory.write_u32(8, 7).unwrap();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&memory, flags, 0, SIZE).unwrap();
    assert_eq!(memory.read_u32(8), Ok(0));
    assert!(ftruncate(&memory, 0).is_err());
}

/// The client gives the memory of a BAR as RAM.
#[test]
fn the_device_may_be_pointed_at_itself() {
    let memory = SharedMemory::new(TestDevice::BAR2_SIZE).unwrap();
    let server = TestServer::with(|builder| builder.mmap(2, memory.clone()));
    let peer = RawPeer::begin(server.path()).unwrap();
    peer.enable_bus_master().unwrap();
    let rig = Rig { server, peer };
    rig.map(BASE, &memory);
    memory.write_u32(0x10, 0x1234).unwrap();
    assert_eq!(rig.read(BASE + 0x10, 4), Ok(vec![0x34, 0x12, 0, 0]));
    rig.write(BASE + 0x20, &[9; 4]).unwrap();
    assert_eq!(memory.read_u32(0x20), Ok(0x0909_0909));
}
