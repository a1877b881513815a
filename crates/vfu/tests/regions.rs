//! Regions that can be mapped, that are large, and that are the device's own.

use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfu::client::Client;
use vfu::pci::MsixAt;
use vfu::server::{BuildError, Region, ShareError, Shareable};
use vfu::wire::{Area, Capabilities, Command, RegionReadRequest, RegionWriteRequest, Request};
use vfu::{Access, Bar, Device, Fault, Handle, Pci, Server, SharedMemory};
use vfu_testkit::{RawPeer, Served, Vmm, command, posted, serve_in_process};

const GIB: u64 = 1 << 30;

/// Says what it was asked for; a read gives the region and the offset.
struct Echo(Arc<Mutex<Vec<(Access, usize)>>>);

impl Device for Echo {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        self.0.lock().unwrap().push((at, data.len()));
        at.give(data, &(at.offset | u64::from(at.region) << 56).to_le_bytes());
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        self.0.lock().unwrap().push((at, data.len()));
        Ok(())
    }
}

struct Rig {
    served: Served<Echo>,
    asked: Arc<Mutex<Vec<(Access, usize)>>>,
    vmm: Vmm,
}

fn rig(builder: vfu::server::Builder) -> Rig {
    let asked = Arc::default();
    let log = Arc::clone(&asked);
    let served = serve_in_process(builder, |_: Handle| Echo(log)).unwrap();
    let vmm = Vmm::connect(served.path()).unwrap();
    Rig { served, asked, vmm }
}

impl Rig {
    fn client(&self) -> &Client {
        self.vmm.client()
    }

    fn areas(&self, region: u32) -> Vec<(u64, u64)> {
        let mmap = self.client().region_info(region).unwrap().mmap;
        let areas = mmap.map(|mmap| mmap.areas).unwrap_or_default();
        areas.iter().map(|Area { offset, size }| (*offset, *size)).collect()
    }

    fn asked(&self) -> Vec<(u32, u64, usize)> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.into_iter().map(|(at, len)| (at.region, at.offset, len)).collect()
    }
}

fn refused(builder: vfu::server::Builder) -> ShareError {
    let folder = tempfile::tempdir().unwrap();
    match builder.listen(folder.path().join("socket")) {
        Err(BuildError::Share(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn page() -> u64 {
    rustix::param::page_size() as u64
}

/// 8 GiB: registers at both ends, a window of memory beyond 4 GiB.
#[test]
fn a_bar_beyond_four_gib() {
    let memory = SharedMemory::new(5 * GIB).unwrap();
    let window = Shareable::from(memory.clone()).area(4 * GIB, GIB);
    let pci = Pci::endpoint(0x1234, 1).bar(0, Bar::mem64(8 * GIB).prefetchable());
    let rig = rig(Server::builder(pci).mmap(0, window));
    assert_eq!(rig.client().region_info(0).unwrap().size, 8 * GIB);
    assert_eq!(rig.areas(0), [(4 * GIB, GIB)]);
    // By message: the window is the memory, all else the device.
    assert_eq!(rig.vmm.read64(0, 8 * GIB - 8).unwrap(), 8 * GIB - 8);
    assert_eq!(rig.vmm.read64(0, 4 * GIB - 8).unwrap(), 4 * GIB - 8);
    assert_eq!(rig.vmm.read64(0, 5 * GIB).unwrap(), 5 * GIB);
    let expected = [8 * GIB - 8, 4 * GIB - 8, 5 * GIB].map(|at| (0, at, 8));
    assert_eq!(rig.asked(), expected);
    assert!(rig.vmm.read64(0, 8 * GIB - 4).is_err(), "over the end");
    rig.vmm.write64(0, 4 * GIB + 8, 0x1122_3344_5566_7788).unwrap();
    assert_eq!(memory.read_u64(4 * GIB + 8), Ok(0x1122_3344_5566_7788));
    memory.write_u32(5 * GIB - 4, 0xabcd).unwrap();
    assert_eq!(rig.vmm.read32(0, 5 * GIB - 4).unwrap(), 0xabcd);
    assert_eq!(rig.asked(), [], "the device hears of none");
    // The handle leads to the same memory.
    let by_handle = rig.served.handle().memory(0).unwrap();
    assert_eq!(by_handle.read_u32(5 * GIB - 4), Ok(0xabcd));
    assert!(rig.served.handle().memory(1).is_none());
    // Mapped: the same bytes.
    let mapped = rig.client().map_region(0).unwrap();
    assert!(mapped.is_direct(4 * GIB, 8) && !mapped.is_direct(4 * GIB - 4, 8));
    mapped.write(4 * GIB + 0x100, b"mapped").unwrap();
    let mut bytes = [0; 6];
    memory.read(4 * GIB + 0x100, &mut bytes).unwrap();
    assert_eq!(&bytes, b"mapped");
    mapped.read(5 * GIB - 4, &mut bytes[..4]).unwrap();
    assert_eq!(bytes[..4], 0xabcd_u32.to_le_bytes());
    assert_eq!(rig.asked(), []);
    mapped.read(8 * GIB - 4, &mut bytes[..4]).unwrap();
    assert_eq!(rig.asked(), [(0, 8 * GIB - 4, 4)]);
}

#[test]
fn a_bar_of_terabytes() {
    let size = 1 << 43;
    let memory = SharedMemory::new(size).unwrap();
    let pci = Pci::endpoint(0x1234, 1).bar(2, Bar::mem64(size).prefetchable());
    let rig = rig(Server::builder(pci).mmap(2, memory.clone()));
    assert_eq!(rig.areas(2), [(0, size)]);
    rig.vmm.write32(2, size - 4, 99).unwrap();
    assert_eq!(memory.read_u32(size - 4), Ok(99));
    let mapped = rig.client().map_region(2).unwrap();
    let mut bytes = [0; 4];
    mapped.read(size - 4, &mut bytes).unwrap();
    assert_eq!(bytes, 99u32.to_le_bytes());
}

/// A file in which the region does not begin at 0.
#[test]
fn a_region_somewhere_in_a_file() {
    let file = memfd_create("file", MemfdFlags::CLOEXEC).unwrap();
    let offset = 6 * GIB;
    ftruncate(&file, offset + 2 * page()).unwrap();
    let ours = rustix::io::dup(&file).unwrap();
    let pci = Pci::endpoint(0x1234, 1).bar(0, Bar::mem64(4 * page()));
    let share = Shareable::new(file, offset).area(page(), page());
    let rig = rig(Server::builder(pci).mmap(0, share));
    let details = rig.client().region_info(0).unwrap().mmap.unwrap();
    assert_eq!((details.offset, details.areas[0].offset), (offset, page()));
    // The bytes are the same.
    let mapped = rig.client().map_region(0).unwrap();
    mapped.write(page() + 5, b"here").unwrap();
    let mut seen = [0; 4];
    rustix::io::pread(&ours, &mut seen[..], offset + page() + 5).unwrap();
    assert_eq!(&seen, b"here");
    ftruncate(&ours, 0).unwrap();
    mapped.read(page() + 8, &mut seen).unwrap();
    assert_eq!(rig.asked(), [(0, page() + 8, 4)], "a message, when the file has gone");
    mapped.write(page() + 8, &seen).unwrap();
    assert_eq!(rustix::fs::fstat(&ours).unwrap().st_size, 0, "it does not make the file longer");
    let _in_order = rig.vmm.read32(0, 0).unwrap();
    assert_eq!(rig.asked(), [(0, page() + 8, 4), (0, 0, 4)]);
}

#[test]
fn areas_end_at_pages_and_the_rest_is_trapped() {
    let memory = SharedMemory::new(16 * page()).unwrap();
    let pci = Pci::endpoint(0x1234, 1).bar(0, Bar::mem64(16 * page()));
    let share = Shareable::from(memory).area(page() - 8, 2 * page()).area(8 * page(), page());
    let rig = rig(Server::builder(pci).mmap(0, share));
    assert_eq!(rig.areas(0), [(page(), page()), (8 * page(), page())]);
    for trapped in [page() - 8, page() - 4, 2 * page(), 9 * page()] {
        rig.vmm.read32(0, trapped).unwrap();
        assert_eq!(rig.asked(), [(0, trapped, 4)]);
    }
    for shared in [page(), 2 * page() - 4, 8 * page()] {
        rig.vmm.read32(0, shared).unwrap();
        assert_eq!(rig.asked(), []);
    }
}

#[test]
fn the_msix_table_is_never_mapped() {
    let at = MsixAt { table: (0, 4 * 4096 + 0x800), pba: (0, 6 * 4096) };
    let pci = Pci::endpoint(0x1234, 1).bar(0, Bar::mem64(1 << 20)).msix_at(8, at);
    let memory = SharedMemory::new(1 << 20).unwrap();
    let rig = rig(Server::builder(pci.clone()).mmap(0, memory.clone()));
    for (at, size) in rig.areas(0) {
        for byte in [4 * 4096 + 0x800, 4 * 4096 + 0x800 + 8 * 16 - 1, 6 * 4096, 6 * 4096 + 7] {
            assert!(!(at..at + size).contains(&byte), "{byte:#x} in {at:#x} of {size:#x}");
        }
    }
    if page() == 4096 {
        let expected = [(0, 4 * 4096), (5 * 4096, 4096), (7 * 4096, (1 << 20) - 7 * 4096)];
        assert_eq!(rig.areas(0), expected);
    }
    // The table is the library's, the rest of its page the device's.
    rig.vmm.write32(0, 4 * 4096 + 0x800, 0xfee0_0000).unwrap();
    assert_eq!(rig.vmm.read32(0, 4 * 4096 + 0x800).unwrap(), 0xfee0_0000);
    assert_eq!(rig.asked(), []);
    rig.vmm.read32(0, 4 * 4096).unwrap();
    assert_eq!(rig.asked(), [(0, 4 * 4096, 4)]);
    let only = Shareable::from(memory).area(4 * 4096 / page() * page(), page());
    let error = refused(Server::builder(pci).mmap(0, only));
    assert_eq!(error, ShareError::OnlyMsix { region: 0 });
}

#[test]
fn what_can_not_be_mapped_is_refused_at_once() {
    let pci = || Pci::endpoint(0x1234, 1).bar(0, Bar::mem64(4 * page())).bar(4, Bar::io(256));
    let memory = || SharedMemory::new(4 * page()).unwrap();
    let with = |bar, share: Shareable| refused(Server::builder(pci()).mmap(bar, share));
    for bar in [1, 2, 4, 6, 7, 99] {
        assert_eq!(with(bar, memory().into()), ShareError::NoBar { bar });
    }
    let error = with(0, Shareable::from(memory()).area(8, 16));
    let (offset, size) = (8, 16);
    assert_eq!(error, ShareError::NoWholePage { region: 0, offset, size, page: page() });
    assert!(error.to_string().contains("multiples of 0x"), "{error}");
    let error = with(0, Shareable::from(memory()).area(page(), 4 * page()));
    assert!(matches!(error, ShareError::OutOfRegion { region: 0, .. }), "{error}");
    let error = with(0, SharedMemory::new(page()).unwrap().into());
    assert_eq!(error, ShareError::FileTooShort { region: 0, end: 4 * page(), length: page() });
    let file = memfd_create("file", MemfdFlags::CLOEXEC).unwrap();
    let error = with(0, Shareable::new(file, 1));
    assert!(matches!(error, ShareError::FileOffset { region: 0, offset: 1, .. }), "{error}");
    let tiny = Pci::endpoint(0x1234, 1).bar(0, Bar::mem32(256));
    let error = refused(Server::builder(tiny).mmap(0, memory()));
    assert!(matches!(error, ShareError::NoWholePage { .. }), "{error}");
    let many = SharedMemory::new(10_000 * page()).unwrap();
    let pci = Pci::endpoint(0x1234, 1).bar(0, Bar::mem64((10_000 * page()).next_power_of_two()));
    let share = (0..5000).fold(Shareable::from(many), |s, i| s.area(2 * i * page(), page()));
    let error = refused(Server::builder(pci).mmap(0, share));
    assert_eq!(error, ShareError::TooManyAreas { region: 0, count: 5000 });
}

#[test]
fn regions_of_the_devices_own() {
    let memory = SharedMemory::new(2 * page()).unwrap();
    let builder = Server::builder(Pci::endpoint(0x1234, 1).bar(0, Bar::mem32(4096)))
        .region(Region::new(100).type_(0x8000_8086, 1))
        .region(Region::new(6 * GIB).read_only())
        .region(Region::new(2 * page()).type_(1, 2).mmap(memory.clone()));
    let rig = rig(builder);
    assert_eq!(rig.client().device_info().unwrap().num_regions, 12);
    let info = |region| rig.client().region_info(region).unwrap();
    let first = info(9);
    assert_eq!((first.size, first.type_), (100, Some((0x8000_8086, 1))));
    assert!(first.readable && first.writable && first.mmap.is_none());
    let second = info(10);
    assert_eq!((second.size, second.type_), (6 * GIB, None));
    assert!(second.readable && !second.writable);
    let third = info(11);
    assert_eq!((third.size, third.type_), (2 * page(), Some((1, 2))));
    assert_eq!(rig.areas(11), [(0, 2 * page())]);
    assert!(rig.client().region_info(12).is_err());
    // They reach the device with their numbers.
    assert_eq!(rig.vmm.read64(9, 92).unwrap(), 9 << 56 | 92);
    assert_eq!(rig.vmm.read64(10, 5 * GIB).unwrap(), (10 << 56) + 5 * GIB);
    rig.vmm.write8(9, 99, 1).unwrap();
    rig.vmm.write8(10, 0, 1).unwrap();
    assert_eq!(rig.asked(), [(9, 92, 8), (10, 5 * GIB, 8), (9, 99, 1)], "read-only: dropped");
    assert!(rig.vmm.read8(9, 100).is_err());
    rig.vmm.write32(11, page(), 5).unwrap();
    assert_eq!(rig.served.handle().memory(11).unwrap().read_u32(page()), Ok(5));
    assert_eq!(rig.asked(), []);
}

#[test]
fn a_client_is_told_of_at_most_a_hundred_regions() {
    let with = |count| {
        let builder = Server::builder(Pci::endpoint(0x1234, 1));
        (0..count).fold(builder, |builder, _| builder.region(Region::new(1)))
    };
    let rig = rig(with(91));
    assert_eq!(rig.client().device_info().unwrap().num_regions, 100);
    assert_eq!(rig.vmm.read8(99, 0).unwrap(), 0);
    assert_eq!(rig.asked(), [(99, 0, 1)]);
    assert_eq!(refused(with(92)), ShareError::TooManyRegions { count: 92 });
    let empty = Server::builder(Pci::endpoint(0x1234, 1)).region(Region::new(0));
    assert_eq!(refused(empty), ShareError::EmptyRegion { region: 9 });
}

/// To a client that takes no descriptors the region is one that can't be mapped.
#[test]
fn a_client_that_takes_no_descriptors_gets_none() {
    let pci = Pci::endpoint(0x1234, 1).bar(0, Bar::mem64(page()));
    let memory = SharedMemory::new(page()).unwrap();
    let served =
        serve_in_process(Server::builder(pci).mmap(0, memory), |_: Handle| Echo(Arc::default()));
    let served = served.unwrap();
    for (most, takes) in [(0, false), (1, true)] {
        let caps = Capabilities { max_msg_fds: Some(most), ..Capabilities::default() };
        let client = Client::builder().capabilities(caps).connect(served.path()).unwrap();
        assert_eq!(client.region_info(0).unwrap().mmap.is_some(), takes);
        client.region_write(0, 0, &[7]).unwrap();
    }
}

/// Lends a BAR of 64 KiB, but for its upper half; a read that is not lent gives ones and a two.
struct Lender(Vec<u8>);

impl Device for Lender {
    fn region_read(&mut self, _at: Access, data: &mut [u8]) -> Result<(), Fault> {
        data[0] = 2;
        Ok(())
    }

    fn region_bytes(&mut self, at: Access, len: usize) -> Option<&[u8]> {
        let start = at.offset as usize;
        self.0.get(start..self.0.len().min(start + len))
    }

    fn region_write(&mut self, _at: Access, _data: &[u8]) -> Result<(), Fault> {
        Ok(())
    }
}

/// And what is not lent does not show what lies in the buffers of the server.
#[test]
fn a_long_read_is_lent() {
    let builder = Server::builder(Pci::endpoint(0x1234, 1).bar(0, Bar::mem32(64 << 10)).msix(1));
    let bytes: Vec<_> = (0..32 << 10).map(|i| (i / 7) as u8).collect();
    let lender = Lender(bytes.clone());
    let served = serve_in_process(builder, |_: Handle| lender).unwrap();
    let vmm = Vmm::connect(served.path()).unwrap();
    let read = |at: u64, len: usize| {
        let mut data = vec![0; len];
        vmm.client().region_read(0, at, &mut data).unwrap();
        data
    };
    let not_lent = |len: usize| [&[2][..], &vec![0xff; len - 1]].concat();
    assert_eq!(read(0, 32 << 10), bytes);
    assert_eq!(read(9, 5000), bytes[9..5009]);
    assert_eq!(read(0, 4095), not_lent(4095), "too short to be asked for");
    assert_eq!(read(20 << 10, 20 << 10), not_lent(20 << 10), "another length");
    assert_eq!(read(40 << 10, 8192), not_lent(8192), "nothing is lent");
}

/// What the socket does not take at once is not the device's any more: it may change, and is sent as it was.
#[test]
fn what_is_lent_is_sent_as_it_was() {
    const LEN: usize = 1 << 20;
    /// Lends its memory, which a write fills.
    struct Board(Vec<u8>);

    impl Device for Board {
        fn region_read(&mut self, _at: Access, _data: &mut [u8]) -> Result<(), Fault> {
            Err(Fault::Unmodelled)
        }

        fn region_bytes(&mut self, _at: Access, _len: usize) -> Option<&[u8]> {
            Some(&self.0)
        }

        fn region_write(&mut self, _at: Access, data: &[u8]) -> Result<(), Fault> {
            self.0.fill(data[0]);
            Ok(())
        }
    }

    let builder = Server::builder(Pci::endpoint(0x1234, 1).bar(0, Bar::mem32(LEN as u64)).msix(1));
    let served = serve_in_process(builder, |_: Handle| Board(vec![0; LEN])).unwrap();
    let peer = RawPeer::connect(served.path()).unwrap();
    peer.handshake(r#"{"capabilities":{}}"#).unwrap();
    let read = RegionReadRequest { offset: 0, region: 0, count: LEN as u32 };
    for round in 1..6 {
        let write = RegionWriteRequest { offset: 0, region: 0, data: &[round as u8] };
        peer.send(&posted(0, &Request::RegionWrite(write))).unwrap();
        peer.send(&command(round, &Request::RegionRead(read))).unwrap();
    }
    for round in 1..6 {
        let reply = peer.recv_reply(round, Command::RegionRead).unwrap();
        let data = &reply.payload[16..];
        assert!(data.len() == LEN && data.iter().all(|byte| *byte == round as u8), "{round}");
    }
}
