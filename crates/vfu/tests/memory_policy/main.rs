//! What is done about files whose pages the peer takes away while they are mapped.
#![cfg(target_os = "linux")]

mod chain;
mod child;
mod client;
mod cut;
mod foreign;
mod policies;

use std::os::fd::AsFd;

use vfu::wire::{DmaMap, DmaMapFlags, DmaUnmapRequest, Errno, Request, UnmapWhat};
use vfu::{DmaError, MemoryPolicy};
use vfu_testkit::{RawPeer, SharedRam, TestServer};

const READ_WRITE: DmaMapFlags = DmaMapFlags::READ.union(DmaMapFlags::WRITE);
const BASE: u64 = 0x10_0000;
const SIZE: u64 = 0x10_0000;
const PAGE: usize = 4096;

/// A server, and a client that gives it memory.
struct Rig {
    server: TestServer,
    peer: RawPeer,
}

impl Rig {
    fn new(policy: MemoryPolicy) -> Rig {
        let server = TestServer::with(|builder| builder.memory_policy(policy));
        let peer = RawPeer::begin(server.path()).unwrap();
        peer.enable_bus_master().unwrap();
        Rig { server, peer }
    }

    fn map_as(&self, address: u64, fd: impl AsFd, flags: DmaMapFlags) -> Option<Errno> {
        let map = DmaMap { flags, offset: 0, address, size: SIZE };
        self.peer.call_with(1, &Request::DmaMap(map), &[fd.as_fd()]).unwrap().errno()
    }

    fn map(&self, address: u64, fd: impl AsFd) {
        assert_eq!(self.map_as(address, fd, READ_WRITE), None);
    }

    fn unmap(&self, address: u64) {
        let what = UnmapWhat::Range { address, size: SIZE };
        let unmap = Request::DmaUnmap(DmaUnmapRequest::new(what));
        assert_eq!(self.peer.call(1, &unmap).unwrap().errno(), None);
    }

    /// RAM at [`BASE`].
    fn ram(&self) -> SharedRam {
        let ram = SharedRam::new(BASE, SIZE).unwrap();
        self.map(BASE, &ram);
        ram
    }

    fn read(&self, address: u64, len: usize) -> Result<Vec<u8>, DmaError> {
        let mut data = vec![0xee; len];
        self.server.handle().dma().read(address, &mut data).map(|()| data)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        self.server.handle().dma().write(address, data)
    }
}

fn gone<T>(address: u64) -> Result<T, DmaError> {
    Err(DmaError::File { address, errno: Errno::EFAULT })
}

/// Has the guard put in place, and used once.
fn guard() -> Rig {
    let rig = Rig::new(MemoryPolicy::Guarded);
    let ram = rig.ram();
    rig.write(BASE, &[1; 64]).unwrap();
    ram.truncate(0).unwrap();
    assert_eq!(rig.read(BASE, 8), gone(BASE));
    rig.unmap(BASE);
    rig
}
