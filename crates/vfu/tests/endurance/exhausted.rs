//! Out of descriptors, out of memory: what can't be done is an error, and over when there is some
//! again.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Child, Command};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use vfu::wire::{DmaMap, Errno, RegionReadRequest, RegionWriteRequest, Request};
use vfu::{Access, Defer, Device, Fault, Server};
use vfu_testkit::{RawPeer, SharedRam, Vmm, command, within};

use crate::alone::alone;
use crate::{Copier, rounds, settle};

/// A limit of this process, for a while.
struct Limited(Resource, Rlimit);

impl Limited {
    fn to(resource: Resource, current: u64) -> Limited {
        let before = getrlimit(resource);
        setrlimit(resource, Rlimit { current: Some(current), ..before }).unwrap();
        Limited(resource, before)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        setrlimit(self.0, self.1).unwrap();
    }
}

/// From now on the process gets no descriptor.
fn no_descriptors() -> Limited {
    let lowest_free = rustix::io::dup(std::io::stdin()).unwrap();
    let lowest_free = lowest_free.as_raw_fd();
    Limited::to(Resource::Nofile, u64::try_from(lowest_free).unwrap())
}

#[test]
fn a_client_that_can_not_be_accepted_waits() {
    alone!(|| {
        let server = Copier::serve();
        settle(&server);
        // It gets connected by the kernel, when nobody gets a descriptor any more.
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            None,
        );
        let socket = socket.unwrap();
        let spare = SharedRam::new(0, 0x1000).unwrap();
        let limited = no_descriptors();
        let address = rustix::net::SocketAddrUnix::new(server.path()).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        let peer = RawPeer::over(socket);
        peer.send(&RawPeer::version(1, 0, 1, Some("{}"))).unwrap();
        assert!(!peer.has_input().unwrap());
        drop(limited);
        // No new client came that would wake it.
        let reply = peer.recv_reply(1, vfu::wire::Command::Version).unwrap();
        assert_eq!(reply.errno(), None);
        drop((peer, spare));
        settle(&server);
        server.stop().unwrap();
    });
}

/// The same in somebody else's event loop, which must not be kept busy meanwhile.
#[test]
fn an_event_loop_that_can_not_accept_a_client_rests() {
    alone!(|| {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let pci = vfu::Pci::endpoint(0x1234, 2).bar(0, vfu::Bar::mem32(4096));
        let mut server = Server::builder(pci).listen(&path).unwrap().serve(Copier::new).unwrap();
        let poll_fd = rustix::io::dup(server.poll_fd().unwrap()).unwrap();
        let wait = || {
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            poll(&mut [PollFd::new(&poll_fd, PollFlags::IN)], Some(&limit)).unwrap()
        };
        let peer = RawPeer::connect(&path).unwrap();
        peer.send(&RawPeer::version(1, 0, 1, Some("{}"))).unwrap();
        let limited = no_descriptors();
        let began = std::time::Instant::now();
        for _ in 0..4 {
            assert_eq!(wait(), 1, "it tries again");
            assert_eq!(server.process().unwrap(), 0);
        }
        // A pause before each attempt but the first: not before that time, however slow the machine.
        assert!(began.elapsed() >= std::time::Duration::from_millis(300));
        drop(limited);
        while server.process().unwrap() == 0 {
            assert_eq!(wait(), 1);
        }
        assert_eq!(peer.recv_reply(1, vfu::wire::Command::Version).unwrap().errno(), None);
    });
}

/// Descriptors that can't be received end that session, and no other.
#[test]
fn descriptors_that_find_no_room_end_the_session() {
    alone!(|| {
        let server = Copier::serve();
        for twin in [false, true] {
            settle(&server);
            let (peer, _twin) = if twin {
                let (main, twin) = RawPeer::begin_twin(server.path()).unwrap();
                (main, Some(twin))
            } else {
                (RawPeer::begin(server.path()).unwrap(), None)
            };
            let ram = SharedRam::new(0, 0x1000).unwrap();
            let flags = vfu::client::READ_WRITE;
            let map = DmaMap { flags, offset: 0, address: 0x10_0000, size: 0x1000 };
            let fds = vec![ram.as_fd(); 200];
            let limited = no_descriptors();
            peer.send_with(&command(1, &Request::DmaMap(map)), &fds).unwrap();
            while peer.recv().is_ok() {}
            drop(limited);
        }
        settle(&server);
        server.stop().unwrap();
    });
}

/// What takes memory of the peer's choice: each is refused, or ends its session.
fn greedy(path: &Path) {
    let Ok(peer) = RawPeer::begin(path) else { return };
    let data = vec![1; 1 << 20];
    let write = RegionWriteRequest { offset: 0, region: 2, data: &data };
    let read = RegionReadRequest { offset: 0, region: 2, count: 1 << 20 };
    let flags = vfu::client::READ_WRITE;
    let ram = SharedRam::new(0, 64 << 20);
    let mut bytes = vec![command(1, &Request::RegionRead(read)).repeat(3)];
    bytes.push(command(2, &Request::RegionWrite(write)));
    for bytes in bytes {
        let _closed = peer.send(&bytes);
    }
    if let Ok(ram) = ram {
        let map = DmaMap { flags, offset: 0, address: 1 << 32, size: 64 << 20 };
        let _closed = peer.send_with(&command(3, &Request::DmaMap(map)), &[ram.as_fd()]);
    }
    // Until it has refused, or has done, all of it, or has gone.
    for _ in 0..5 {
        match peer.recv() {
            Ok(reply) => {
                let errno = reply.errno();
                assert!(matches!(errno, None | Some(Errno::ENOMEM)), "{errno:?}");
            }
            Err(_) => break,
        }
    }
}

/// The socket, to a process that is to be a server.
const SOCKET: &str = "VFU_ENDURANCE_SERVER";

/// A server that has little memory.
struct Poor(Child);

impl Poor {
    fn start(path: &Path, test: &str) -> Poor {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("exhausted::{test}"), "--test-threads=1", "--nocapture"])
            .env(SOCKET, path)
            .env("MALLOC_MMAP_THRESHOLD_", "65536")
            .spawn();
        let server = Poor(child.unwrap());
        within("the server's start", {
            let path = path.to_path_buf();
            move || while RawPeer::begin(&path).is_err() {}
        });
        server
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// So much more than it has, and no more.
    fn limit(&self, room: Option<u64>) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
        let current = room.map(|room| (size << 10) + room);
        let limit = Rlimit { current, maximum: None };
        prlimit(Some(Pid::from_child(&self.0)), Resource::As, limit).unwrap();
    }
}

impl Drop for Poor {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[test]
fn memory_that_is_not_there_is_an_error() {
    if let Some(path) = std::env::var_os(SOCKET) {
        let pci = vfu::Pci::endpoint(0x1234, 2)
            .bar(0, vfu::Bar::mem32(4096))
            .bar(2, vfu::Bar::mem64(2 << 20));
        let bound = Server::builder(pci.msix(4)).listen(Path::new(&path)).unwrap();
        return bound.serve(Copier::new).unwrap().run().unwrap();
    }
    alone!(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut server = Poor::start(&path, "memory_that_is_not_there_is_an_error");
        for round in 0..rounds(16, 256) {
            // From hardly anything to enough for nearly all.
            let room = (192 << 10) + u64::from(round % 16) * (256 << 10);
            server.limit(Some(room));
            let client = path.clone();
            within("the greedy client", move || greedy(&client));
            server.limit(None);
            assert!(server.is_alive(), "it has died with {room} bytes to go");
        }
        let vmm = Vmm::connect(&path).unwrap();
        let mut data = vec![0; 1 << 20];
        vmm.client().region_read(2, 0, &mut data).unwrap();
        assert!(data.iter().all(|byte| *byte == 0x22));
    });
}

/// Answers reads later, as soon as it can.
struct Late;

impl Device for Late {
    fn region_read(&mut self, _: Access, _: &mut [u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn region_write(&mut self, _: Access, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn region_read_or_defer(
        &mut self,
        _: Access,
        _: &mut [u8],
        defer: &mut Defer<'_>,
    ) -> Result<(), Fault> {
        if let Some(later) = defer.later() {
            later.give(&[0x22]);
        }
        Ok(())
    }
}

/// There is memory for one answer, and the one that is given later needs another.
#[test]
fn an_answer_that_is_given_later_and_finds_no_memory_is_an_error() {
    if let Some(path) = std::env::var_os(SOCKET) {
        let pci = vfu::Pci::endpoint(0x1234, 2).bar(2, vfu::Bar::mem64(2 << 20));
        let bound = Server::builder(pci).listen(Path::new(&path)).unwrap();
        return bound.serve(|_| Late).unwrap().run().unwrap();
    }
    alone!(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let test = "an_answer_that_is_given_later_and_finds_no_memory_is_an_error";
        let server = Poor::start(&path, test);
        let peer = RawPeer::begin(&path).unwrap();
        let read = Request::RegionRead(RegionReadRequest { offset: 0, region: 2, count: 1 << 20 });
        server.limit(Some((1 << 20) + (512 << 10)));
        assert_eq!(peer.call(1, &read).unwrap().errno(), Some(Errno::ENOMEM));
        server.limit(None);
        let reply = peer.call(2, &read).unwrap();
        assert_eq!((reply.errno(), reply.payload.len()), (None, 16 + (1 << 20)));
    });
}
