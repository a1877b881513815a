//! Doorbells that are rung by eventfd, and by messages.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use vfu::client::{Client, ClientError, Rung};
use vfu::server::{BuildError, Builder, ShareError, Shareable};
use vfu::wire::{
    Command, IoFd, IoFdFlags, IoFdKind, IoFdLayout, IoFdsReply, IoFdsRequest, RegionFlags,
    RegionInfo, RegionWriteRequest, Request,
};
use vfu::{
    Access, Bar, Device, Doorbell, Fault, Handle, IoEventFd, Pci, Reset, Server, SharedMemory,
};
use vfu_testkit::{DEADLINE, RawListener, RawPeer, Served, posted, serve_in_process};

type Log = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// Notes the writes that come to its handlers.
struct Noting(Log);

impl Device for Noting {
    fn region_read(&mut self, _: Access, data: &mut [u8]) -> Result<(), Fault> {
        data.fill(0);
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        self.0.lock().unwrap().push((at.offset, data.to_vec()));
        Ok(())
    }

    fn reset(&mut self, _: Reset) {}
}

fn builder() -> Builder {
    Server::builder(Pci::endpoint(0x1234, 1).bar(0, Bar::mem32(4096)).bar(2, Bar::mem32(4096)))
}

fn serve(builder: Builder) -> (Served<Noting>, Log) {
    let log = Log::default();
    let writes = log.clone();
    (serve_in_process(builder, |_: Handle| Noting(writes)).unwrap(), log)
}

fn wait(bell: &Doorbell) -> u64 {
    bell.wait(Some(DEADLINE))
}

fn ask(peer: &RawPeer, argsz: u32, index: u32) -> vfu_testkit::RawMessage {
    peer.call(3, &Request::DeviceGetRegionIoFds(IoFdsRequest { argsz, index })).unwrap()
}

#[test]
fn both_ways_ring_the_same_doorbell() {
    let at = IoEventFd::at(0, 0x20).width(4);
    let (server, log) = serve(builder().ioeventfd(at));
    let bell = server.handle().doorbell(0, 0x20).unwrap();
    assert!(server.handle().doorbell(0, 0x24).is_none());
    let client = Client::connect(server.path()).unwrap();
    let doorbells = client.doorbells(0).unwrap();
    assert_eq!(doorbells.len(), 1);
    assert_eq!(doorbells.write(0x20, &[1, 0, 0, 0]).unwrap(), Rung::ByEventFd);
    assert_eq!(wait(&bell), 1);
    client.region_write(0, 0x20, &[1, 0, 0, 0]).unwrap();
    assert_eq!(wait(&bell), 1);
    assert_eq!(*log.lock().unwrap(), [], "the handlers hear of neither");
    // Another width or place is another register.
    assert_eq!(doorbells.write(0x20, &[7]).unwrap(), Rung::ByMessage);
    client.region_write(0, 0x24, &[8; 4]).unwrap();
    assert_eq!(*log.lock().unwrap(), [(0x20, vec![7]), (0x24, vec![8; 4])]);
    assert_eq!(bell.take(), 0);
    // Reads are the device's.
    client.region_read(0, 0x20, &mut [0; 4]).unwrap();
    assert!(client.doorbells(2).unwrap().is_empty());
}

#[test]
fn the_value_can_decide() {
    let at = IoEventFd::at(0, 0x20).width(2);
    let both = Doorbell::new().unwrap();
    let builder = builder()
        .ioeventfd_to(at.datamatch(1), &both)
        .ioeventfd_to(at.datamatch(2), &both)
        .ioeventfd(IoEventFd::at(0, 0x30));
    let (server, log) = serve(builder);
    let client = Client::connect(server.path()).unwrap();
    let doorbells = client.doorbells(0).unwrap();
    for value in [1, 2] {
        assert_eq!(doorbells.write(0x20, &[value, 0]).unwrap(), Rung::ByEventFd);
        assert_eq!(wait(&both), 1);
        client.region_write(0, 0x20, &[value, 0]).unwrap();
        assert_eq!(wait(&both), 1);
    }
    client.region_write(0, 0x20, &[3, 0]).unwrap();
    assert_eq!(*log.lock().unwrap(), [(0x20, vec![3, 0])]);
    let any = server.handle().doorbell(0, 0x30).unwrap();
    for width in [1, 2, 3, 4, 8, 100] {
        assert_eq!(doorbells.write(0x30, &vec![0; width]).unwrap(), Rung::ByEventFd);
        assert_eq!(wait(&any), 1);
    }
}

/// The wire, byte by byte: 40 bytes each, every descriptor once.
#[test]
fn the_list_is_as_specified() {
    let one = Doorbell::new().unwrap();
    let builder = builder()
        .ioeventfd_to(IoEventFd::at(0, 0x1000 - 8).width(8), &one)
        .ioeventfd(IoEventFd::at(0, 0x20).width(4).datamatch(0x0102_0304))
        .ioeventfd_to(IoEventFd::at(0, 0x28), &one)
        .ioeventfd(IoEventFd::at(2, 0));
    let (server, _) = serve(builder);
    let peer = RawPeer::begin(server.path()).unwrap();
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
    for argsz in [16, 17, 135] {
        let reply = ask(&peer, argsz, 0);
        assert_eq!((reply.payload, reply.fds.len()), (words(&[136, 0, 0, 3]), 0), "argsz {argsz}");
    }
    for argsz in [136, 137, u32::MAX] {
        let reply = ask(&peer, argsz, 0);
        let expected = [
            [136, 0, 0, 3].as_slice(),
            &[0xff8, 0, 8, 0, 0, 0, 0, 0, 0, 0],
            &[0x20, 0, 4, 0, 1, 0, 1, 0, 0x0102_0304, 0],
            &[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(reply.payload, words(&expected.concat()), "argsz {argsz}");
        assert_eq!(reply.fds.len(), 2);
        rustix::io::write(&reply.fds[0], &1u64.to_ne_bytes()).unwrap();
        assert_eq!(wait(&one), 1);
    }
    assert_eq!(ask(&peer, 4096, 2).fds.len(), 1);
    for argsz in [0, 15] {
        assert!(ask(&peer, argsz, 0).errno().is_some());
    }
}

/// What does not fit into a message is rung by messages.
#[test]
fn a_client_gets_no_more_descriptors_than_it_takes() {
    let places = (0..5).map(|i| IoEventFd::at(0, 8 * i).width(4));
    let (server, _) = serve(places.fold(builder(), Builder::ioeventfd));
    for (json, most) in [
        (r#"{"capabilities":{"max_msg_fds":2}}"#, 2),
        (r#"{"capabilities":{"max_msg_fds":0}}"#, 0),
        (r#"{"capabilities":{}}"#, 1),
        (r#"{"capabilities":{"max_msg_fds":4000000000}}"#, 5),
    ] {
        let peer = RawPeer::connect(server.path()).unwrap();
        peer.handshake(json).unwrap();
        let reply = ask(&peer, 4096, 0);
        assert_eq!((reply.fds.len(), reply.payload.len()), (most, 16 + 40 * most));
        let write = RegionWriteRequest { offset: 32, region: 0, data: &[0; 4] };
        peer.send(&posted(1, &Request::RegionWrite(write))).unwrap();
        assert_eq!(wait(&server.handle().doorbell(0, 32).unwrap()), 1);
    }
}

#[test]
fn what_a_client_keeps_rings_nothing_when_it_has_gone() {
    let (server, _) = serve(builder().ioeventfd(IoEventFd::at(0, 0)));
    let bell = server.handle().doorbell(0, 0).unwrap();
    let first = RawPeer::begin(server.path()).unwrap();
    let kept = ask(&first, 4096, 0).fds;
    drop(first);
    let second = RawPeer::begin(server.path()).unwrap();
    let theirs = ask(&second, 4096, 0).fds;
    rustix::io::write(&kept[0], &5u64.to_ne_bytes()).unwrap();
    assert_eq!(bell.take(), 0);
    rustix::io::write(&theirs[0], &3u64.to_ne_bytes()).unwrap();
    assert_eq!(wait(&bell), 3);
}

/// A ring by eventfd would overtake posted writes in the socket.
#[test]
fn a_ring_does_not_overtake_posted_writes() {
    let (server, log) = serve(builder().ioeventfd(IoEventFd::at(0, 0x20).width(4)));
    let bell = server.handle().doorbell(0, 0x20).unwrap();
    let client = Client::connect(server.path()).unwrap();
    let doorbells = client.doorbells(0).unwrap();
    for round in 0..100u8 {
        client.region_write_posted(0, 0x40, &[round]).unwrap();
        assert_eq!(doorbells.write(0x20, &[0; 4]).unwrap(), Rung::ByMessage);
        assert_eq!(wait(&bell), 1);
        assert_eq!(log.lock().unwrap().pop(), Some((0x40, vec![round])), "seen with the ring");
    }
    // What waits to share a message counts too.
    let collected = client.posted();
    collected.write(0, 0x40, &[200]).unwrap();
    assert_eq!(doorbells.write(0x20, &[0; 4]).unwrap(), Rung::ByMessage);
    assert_eq!(wait(&bell), 1);
    assert_eq!(log.lock().unwrap().pop(), Some((0x40, vec![200])));
    // A reply says that all before it was done.
    client.region_read(0, 0, &mut [0; 4]).unwrap();
    assert_eq!(doorbells.write(0x20, &[0; 4]).unwrap(), Rung::ByEventFd);
    assert_eq!(wait(&bell), 1);
    client.close();
    assert!(matches!(doorbells.write(0x20, &[0; 4]), Err(ClientError::Closed(_))));
}

#[test]
fn doorbells_that_can_not_be_are_refused() {
    let memory = SharedMemory::new(4096).unwrap();
    let builder = || builder().mmap(2, Shareable::from(memory.clone()));
    let at = IoEventFd::at;
    let folder = tempfile::tempdir().unwrap();
    for bad in [
        at(0, 4096),
        at(0, 4093).width(4),
        at(0, u64::MAX),
        at(0, 0).width(3),
        at(0, 0).width(16),
        at(0, 0).datamatch(0),
        at(0, 0).width(1).datamatch(256),
        at(1, 0),
        at(2, 8),
        at(6, 0),
        at(7, 0x40),
        at(9, 0),
    ] {
        let result = builder().ioeventfd(bad).listen(folder.path().join("socket"));
        let error = result.err();
        let refused = matches!(error, Some(BuildError::Share(ShareError::Doorbell { .. })));
        assert!(refused, "{bad:?}: {error:?}");
    }
    assert!(builder().ioeventfd(at(0, 4088).width(8)).listen(folder.path().join("s")).is_ok());
}

/// A server that answers GET_REGION_INFO with a BAR of 4 KiB, and GET_REGION_IO_FDS with this.
fn ask_liar(payload: Vec<u8>, fds: Vec<OwnedFd>) -> Result<Vec<Rung>, ClientError> {
    let listener = RawListener::new().unwrap();
    let path = listener.path().to_path_buf();
    let server = thread::spawn(move || {
        let peer = listener.accept().unwrap();
        peer.answer_handshake(r#"{"capabilities":{"max_msg_fds":16}}"#, &[]).unwrap();
        while let Ok(request) = peer.recv() {
            let (mut reply, mut with): (_, Vec<BorrowedFd<'_>>) = (Vec::new(), Vec::new());
            match Command::from_u16(request.header.command) {
                Some(Command::DeviceGetRegionInfo) => RegionInfo {
                    flags: RegionFlags::READ | RegionFlags::WRITE,
                    index: 0,
                    size: 4096,
                    offset: 0,
                    capabilities: Vec::new(),
                    needed_argsz: None,
                }
                .emit(&mut reply),
                Some(Command::DeviceGetRegionIoFds) => {
                    reply = payload.clone();
                    with = fds.iter().map(|fd| fd.as_fd()).collect();
                }
                _ => continue,
            }
            peer.send_with(&request.reply(&reply), &with).unwrap();
        }
    });
    let client = Client::builder().timeout(Some(DEADLINE)).connect(path)?;
    let doorbells = client.doorbells(0);
    let rung = doorbells.and_then(|doorbells| {
        (0..doorbells.len().max(1)).map(|_| doorbells.write(0x10, &[1, 0, 0, 0])).collect()
    });
    drop(client);
    server.join().unwrap();
    rung
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn list(layout: IoFdLayout, entries: Vec<IoFd>) -> Vec<u8> {
    let mut payload = Vec::new();
    IoFdsReply { index: 0, layout, entries, truncated: None }.emit(&mut payload);
    payload
}

#[test]
fn lies_of_a_server_are_left_out_or_errors() {
    let good = IoFd {
        offset: 0x10,
        size: 4,
        fd_index: 0,
        flags: IoFdFlags::empty(),
        kind: IoFdKind::IoEventFd { datamatch: 0 },
    };
    let wide = IoFdLayout::Wide;
    let rung = |payload: Vec<u8>, fds| ask_liar(payload, fds);
    for layout in [IoFdLayout::Standard, wide] {
        let result = rung(list(layout, vec![good]), vec![event()]).unwrap();
        assert_eq!(result, [Rung::ByEventFd], "{layout:?}");
        let matching = IoFd {
            flags: IoFdFlags::DATAMATCH,
            kind: IoFdKind::IoEventFd { datamatch: 1 },
            ..good
        };
        let result = rung(list(layout, vec![matching]), vec![event()]).unwrap();
        assert_eq!(result, [Rung::ByEventFd], "{layout:?}: the value is where the stride says");
    }
    let strange = [
        IoFd { fd_index: 1, ..good },
        IoFd { fd_index: u32::MAX, ..good },
        IoFd { offset: 4096, ..good },
        IoFd { offset: 4093, ..good },
        IoFd { offset: u64::MAX, ..good },
        IoFd { size: 3, ..good },
        IoFd { size: u64::MAX, ..good },
        IoFd { size: 0, flags: IoFdFlags::DATAMATCH, ..good },
        IoFd { flags: IoFdFlags::from_bits_retain(1 << 3), ..good },
        IoFd { kind: IoFdKind::IoRegionFd { user_data: 0 }, ..good },
    ];
    for entry in strange {
        let result = rung(list(IoFdLayout::Standard, vec![entry]), vec![event()]).unwrap();
        assert_eq!(result, [Rung::ByMessage], "{entry:?}");
    }
    let file = memfd_create("no eventfd", MemfdFlags::CLOEXEC).unwrap();
    let standard = list(IoFdLayout::Standard, vec![good]);
    assert_eq!(rung(standard.clone(), vec![file]).unwrap(), [Rung::ByMessage]);
    assert_eq!(rung(standard.clone(), vec![]).unwrap(), [Rung::ByMessage]);
    // The type of an entry is unknown.
    let mut unknown = standard.clone();
    unknown[16 + 20] = 77;
    assert_eq!(rung(unknown, vec![event()]).unwrap(), [Rung::ByMessage]);
    // A longer stride: the tail is ignored.
    let mut long = standard.clone();
    long[0] = 16 + 64;
    long.resize(16 + 64, 0xee);
    assert_eq!(rung(long, vec![event()]).unwrap().len(), 1);
    let mut lies = vec![standard[..15].to_vec(), standard[..55].to_vec()];
    for (at, value) in [(0, 15), (0, 16), (0, 55), (12, 2), (12, u32::MAX), (8, 1), (0, u32::MAX)] {
        let mut lie = standard.clone();
        lie[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        lies.push(lie);
    }
    // Truncated, each time again; and a claim without end.
    lies.push(standard[..16].to_vec());
    let mut endless = standard[..16].to_vec();
    endless[..4].copy_from_slice(&(16 + 40 * 0x100_0000u32).to_le_bytes());
    endless[12..16].copy_from_slice(&0x100_0000u32.to_le_bytes());
    lies.push(endless);
    for lie in lies {
        let result = rung(lie.clone(), vec![event()]);
        assert!(matches!(result, Err(ClientError::Malformed { .. })), "{lie:x?}: {result:?}");
    }
}

/// A counter that is full has not been read: nothing waits for that.
#[test]
fn an_eventfd_that_is_full_does_not_stop_the_client() {
    let full = event();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let entry = IoFd {
        offset: 0x10,
        size: 0,
        fd_index: 0,
        flags: IoFdFlags::empty(),
        kind: IoFdKind::IoEventFd { datamatch: 0 },
    };
    let rung = ask_liar(list(IoFdLayout::Standard, vec![entry]), vec![full]).unwrap();
    assert_eq!(rung, [Rung::ByEventFd]);
}

#[test]
fn who_waits_may_stop_waiting() {
    let bell = Doorbell::new().unwrap();
    assert_eq!(bell.wait(Some(Duration::from_millis(1))), 0);
}
