//! Direct memory without a transfer: leases, and what is pinned for a moment.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstatfs, open};
use vfu::dma::Direction;
use vfu::wire::{Command, DmaMap, DmaMapFlags, DmaUnmapRequest, Errno, Request, UnmapWhat};
use vfu::{DmaError, Server};
use vfu_testkit::{CallLog, RawPeer, SharedRam, TestDevice, TestServer, Vmm, command, within};

const PAGE: u64 = 0x1000;
const BASE: u64 = 0x10_0000;
const READ_WRITE: DmaMapFlags = DmaMapFlags::READ.union(DmaMapFlags::WRITE);

/// A server, and a client that gives it memory.
struct Rig {
    server: TestServer,
    peer: RawPeer,
}

impl Rig {
    fn new() -> Rig {
        let server = TestServer::start();
        let peer = RawPeer::begin(server.path()).unwrap();
        peer.enable_bus_master().unwrap();
        Rig { server, peer }
    }

    fn dma(&self) -> vfu::Dma {
        self.server.handle().dma()
    }

    fn map(&self, address: u64, fd: impl AsFd, flags: DmaMapFlags) {
        let map = DmaMap { flags, offset: 0, address, size: PAGE };
        let reply = self.peer.call_with(1, &Request::DmaMap(map), &[fd.as_fd()]).unwrap();
        assert_eq!(reply.errno(), None);
    }

    fn share(&self, address: u64) -> SharedRam {
        let ram = SharedRam::new(address, PAGE).unwrap();
        self.map(address, &ram, READ_WRITE);
        ram
    }

    fn slice(&self, address: u64, len: u64, direction: Direction) -> Result<(), DmaError> {
        self.dma().pin(|memory| memory.slice(address, len, direction).map(drop))
    }
}

fn unmap(address: u64) -> Request<'static> {
    Request::DmaUnmap(DmaUnmapRequest::new(UnmapWhat::Range { address, size: PAGE }))
}

#[test]
fn nothing_at_the_end_of_all_addresses_can_be_moved() {
    let rig = Rig::new();
    let last_page = 0u64.wrapping_sub(PAGE);
    let ram = rig.share(last_page);
    let lease = rig.dma().lease(last_page, PAGE, Direction::Write).unwrap();
    // Nor is anything left of the file, and that is known.
    ram.truncate(0).unwrap();
    lease.write(0, &[1]).unwrap_err();
    assert_eq!(lease.read(PAGE, &mut []), Ok(()));
    assert_eq!(lease.write(PAGE, &[]), Ok(()));
}

#[test]
fn pinned_memory_is_read_and_written() {
    let rig = Rig::new();
    let (one, other) = (rig.share(BASE), rig.share(BASE + PAGE));
    one.write(BASE + 0x10, b"from the client").unwrap();
    rig.dma()
        .pin(|memory| {
            let first = memory.slice(BASE + 0x10, 15, Direction::Read)?;
            let second = memory.slice(BASE + PAGE, PAGE, Direction::Write)?;
            let again = memory.slice(BASE + 0x15, 3, Direction::Read)?;
            assert_eq!((first.address(), first.len(), first.is_empty()), (BASE + 0x10, 15, false));
            let (mut all, mut part) = ([0; 15], [0; 3]);
            first.read(0, &mut all)?;
            second.write(1, &all)?;
            again.read(0, &mut part)?;
            assert_eq!((&all, &part), (b"from the client", b"the"));
            let beyond = DmaError::NotMapped { address: BASE + 0x18 };
            assert_eq!(again.read(3, &mut [0]), Err(beyond));
            assert_eq!(second.write(u64::MAX, &[0; 2]).unwrap_err().errno(), Errno::EFAULT);
            Ok(())
        })
        .unwrap();
    assert_eq!(other.bytes(BASE + PAGE + 1, 15).unwrap(), b"from the client");
}

#[test]
fn what_can_be_no_slice_is_none() {
    let rig = Rig::new();
    let _ram = [rig.share(BASE), rig.share(BASE + PAGE)];
    let none = |address| Err(DmaError::NotDirect { address });
    // Over the end of a mapping, be it the next one, nothing, or all addresses.
    for (at, len) in [(BASE, PAGE + 1), (BASE + PAGE, PAGE + 1), (BASE + 1, u64::MAX)] {
        assert_eq!(rig.slice(at, len, Direction::Read), none(at));
    }
    let nowhere = BASE + 2 * PAGE;
    assert_eq!(
        rig.slice(nowhere, 1, Direction::Read),
        Err(DmaError::NotMapped { address: nowhere })
    );
    // What the client does not let be written, also after a slice that was read.
    let ram = SharedRam::new(nowhere, PAGE).unwrap();
    rig.map(nowhere, &ram, DmaMapFlags::READ);
    let denied = DmaError::Permission { address: nowhere, direction: Direction::Write };
    let both = rig.dma().pin(|memory| {
        let slice = memory.slice(nowhere, 1, Direction::Read)?;
        assert_eq!(slice.write(0, &[1]), Err(denied.clone()));
        memory.slice(nowhere, 1, Direction::Write).map(drop)
    });
    assert_eq!(both, Err(denied));
}

/// A filesystem of the peer's (FUSE) may keep whoever touches its files waiting for ever. It looks like one on
/// a disk, which nobody touches within a pin either.
#[test]
fn files_that_are_not_in_memory_are_not_pinned() {
    let rig = Rig::new();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pinned");
    std::fs::write(&path, vec![7; PAGE as usize]).unwrap();
    let file = open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
    std::fs::remove_file(&path).unwrap();
    if fstatfs(&file).unwrap().f_type == 0x0102_1994 {
        eprintln!("skipped: {} is a tmpfs", path.display());
        return;
    }
    rig.map(BASE, &file, READ_WRITE);
    let none = Err(DmaError::NotDirect { address: BASE });
    assert_eq!(rig.slice(BASE, 4, Direction::Read), none);
    // Outside of a pin it is there.
    let (mut byte, mut data) = ([0], [0; 64]);
    rig.dma().lease(BASE, 4, Direction::Read).unwrap().read(0, &mut byte).unwrap();
    assert_eq!(rig.dma().pin(|_| rig.dma().read(BASE, &mut data)), Err(DmaError::Busy));
    rig.dma().read(BASE, &mut data).unwrap();
    assert_eq!((byte, data), ([7], [7; 64]));
}

#[test]
fn an_unmap_waits_for_a_pin() {
    let rig = Rig::new();
    let ram = [rig.share(BASE), rig.share(BASE + PAGE)];
    rig.dma()
        .pin(|memory| {
            let slice = memory.slice(BASE, 4, Direction::Write)?;
            rig.peer.send(&command(2, &unmap(BASE))).unwrap();
            for _ in 0..1000 {
                // Whatever the server has done by now, both are as they were.
                memory.slice(BASE + PAGE, 5, Direction::Write)?.write(0, b"other")?;
                memory.slice(BASE, 4, Direction::Read)?;
                slice.write(0, b"here")?;
                assert!(!rig.peer.has_input().unwrap());
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(rig.peer.recv_reply(2, Command::DmaUnmap).unwrap().errno(), None);
    assert_eq!(rig.slice(BASE, 4, Direction::Read), Err(DmaError::NotMapped { address: BASE }));
    assert_eq!(ram[0].bytes(BASE, 4).unwrap(), b"here");
    assert_eq!(ram[1].bytes(BASE + PAGE, 5).unwrap(), b"other");
}

#[test]
fn a_pin_of_one_session_does_not_stop_another() {
    let (one, other) = (Rig::new(), Rig::new());
    let ram = [one.share(BASE), other.share(BASE)];
    ram[0].write(BASE, b"over").unwrap();
    let copied = within("maps of another session", move || {
        one.dma().pin(|memory| {
            let from = memory.slice(BASE, 4, Direction::Read)?;
            let _more = other.share(BASE + PAGE);
            // Both at once.
            let mut word = [0; 4];
            from.read(0, &mut word)?;
            other.dma().pin(|memory| memory.slice(BASE, 4, Direction::Write)?.write(0, &word))?;
            assert_eq!(other.peer.call(3, &unmap(BASE + PAGE)).unwrap().errno(), None);
            Ok(())
        })
    });
    assert_eq!(copied, Ok(()));
    assert_eq!(ram[1].bytes(BASE, 4).unwrap(), b"over");
}

#[test]
fn no_messages_are_waited_for_in_a_pin() {
    let server = TestServer::start();
    let vmm = Vmm::connect(server.path()).unwrap();
    vmm.enumerate().unwrap();
    let messages = vmm.message_ram(BASE, PAGE as usize).unwrap();
    let dma = server.handle().dma();
    let busy = dma.pin(|memory| {
        let none = memory.slice(BASE, 4, Direction::Read).map(drop);
        assert_eq!(none, Err(DmaError::NotDirect { address: BASE }));
        assert_eq!(dma.write(BASE, &[1]), Err(DmaError::Busy));
        dma.read(BASE, &mut [0; 4])
    });
    assert_eq!(busy, Err(DmaError::Busy));
    assert_eq!((messages.reads(), messages.writes()), (0, 0));
    dma.read(BASE, &mut [0; 4]).unwrap();
}

/// It would wait for itself for ever.
#[test]
fn who_changes_mappings_in_his_own_pin_is_told() {
    let (peer, ours) = RawPeer::pair().unwrap();
    let bound = Server::builder(TestDevice::pci()).bus_master_gate(false).fd(ours).unwrap();
    let serve = |handle| TestDevice::new(handle, CallLog::default());
    let mut server = bound.serve(serve).unwrap();
    peer.send(&RawPeer::version(0, 0, 1, None)).unwrap();
    let map = |id, address| {
        let map = DmaMap { flags: READ_WRITE, offset: 0, address, size: PAGE };
        peer.send(&command(id, &Request::DmaMap(map))).unwrap();
    };
    map(1, BASE);
    let dma = server.handle().dma();
    let slice = || dma.pin(|memory| memory.slice(BASE, 1, Direction::Read).map(drop));
    while slice() != Err(DmaError::NotDirect { address: BASE }) {
        server.process().unwrap();
    }
    map(2, BASE + PAGE);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        dma.pin(|_| -> Result<(), DmaError> {
            loop {
                server.process().unwrap();
            }
        })
    }));
    let message = panicked.unwrap_err();
    let message = message.downcast_ref::<&str>().unwrap();
    assert!(message.contains("pinned"), "{message}");
}
