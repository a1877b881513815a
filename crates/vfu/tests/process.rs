//! A server inside somebody else's event loop: `poll_fd` and `process`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use vfu::device::Reset;
use vfu::wire::{
    Command, DeviceInfoRequest, RegionReadReply, RegionReadRequest, RegionWriteRequest, Request,
};
use vfu::{Limits, Server};
use vfu_testkit::{Call, CallLog, DEADLINE, RawPeer, TestDevice, Vmm, command, posted, within};

const INFO: Request<'_> = Request::DeviceGetInfo(DeviceInfoRequest { argsz: 16 });

struct Loop {
    server: Server<TestDevice>,
    poll_fd: OwnedFd,
    folder: TempDir,
    log: CallLog,
}

impl Loop {
    fn new(limits: Limits) -> Loop {
        let (folder, log) = (tempfile::tempdir().unwrap(), CallLog::default());
        let device_log = log.clone();
        let bound = Server::builder(TestDevice::pci())
            .limits(limits)
            .listen(folder.path().join("s"))
            .unwrap();
        let mut server = bound.serve(|handle| TestDevice::new(handle, device_log)).unwrap();
        let poll_fd = rustix::io::dup(server.poll_fd().unwrap()).unwrap();
        Loop { server, poll_fd, folder, log }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("s")
    }

    fn is_ready(&self) -> bool {
        is_readable(self.poll_fd.as_fd(), Timespec { tv_sec: 0, tv_nsec: 0 })
    }

    /// Waits for something to do, and does it.
    fn step(&mut self) -> usize {
        let timeout = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
        assert!(is_readable(self.poll_fd.as_fd(), timeout), "nothing to do");
        self.server.process().unwrap()
    }

    /// Works until nothing is left to do; gives the number of commands executed.
    fn settle(&mut self) -> usize {
        let mut executed = 0;
        for _ in 0..10_000 {
            if !self.is_ready() {
                return executed;
            }
            executed += self.server.process().unwrap();
        }
        panic!("always readable: the loop would spin");
    }

    /// A client that has agreed on its session.
    fn client(&mut self) -> RawPeer {
        let peer = RawPeer::connect(self.path()).unwrap();
        peer.send(&RawPeer::version(0, 0, 1, Some("{}"))).unwrap();
        assert_eq!(self.settle(), 1);
        assert_eq!(peer.recv_reply(0, Command::Version).unwrap().errno(), None);
        peer
    }
}

fn is_readable(fd: BorrowedFd<'_>, timeout: Timespec) -> bool {
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

fn write(id: u16, value: u32) -> Vec<u8> {
    let data = value.to_le_bytes();
    command(id, &Request::RegionWrite(RegionWriteRequest { offset: 0, region: 0, data: &data }))
}

#[test]
fn all_that_came_is_done_in_one_call() {
    let mut eventloop = Loop::new(Limits::default());
    assert!(!eventloop.is_ready());
    let peer = eventloop.client();
    assert!(!eventloop.is_ready());
    let read = RegionReadRequest { offset: 0, region: 0, count: 4 };
    let read = Request::RegionRead(read);
    peer.send(&[write(1, 1), write(2, 2), write(3, 3), command(4, &read)].concat()).unwrap();
    assert_eq!(eventloop.step(), 4);
    assert!(!eventloop.is_ready());
    for id in 1..4 {
        peer.recv_reply(id, Command::RegionWrite).unwrap();
    }
    let reply = peer.recv_reply(4, Command::RegionRead).unwrap();
    assert_eq!(RegionReadReply::parse(&reply.payload).unwrap().data, [3, 0, 0, 0]);
}

#[test]
fn nothing_is_left_behind_when_the_queue_is_short() {
    let mut eventloop = Loop::new(Limits { queued_commands: 3, ..Limits::default() });
    let peer = eventloop.client();
    let many: Vec<u8> = (0..100).flat_map(|id| write(id, id.into())).collect();
    peer.send(&many).unwrap();
    assert_eq!(eventloop.settle(), 100);
    for id in 0..100 {
        peer.recv_reply(id, Command::RegionWrite).unwrap();
    }
    // More than one receive brings.
    let flood: Vec<u8> = (0..1000).flat_map(|id| command(id, &INFO)).collect();
    peer.send(&flood).unwrap();
    assert_eq!(eventloop.settle(), 1000);
}

#[test]
fn a_message_may_come_in_pieces() {
    let mut eventloop = Loop::new(Limits::default());
    let peer = eventloop.client();
    for byte in &write(1, 9)[..35] {
        peer.send(&[*byte]).unwrap();
        assert_eq!(eventloop.step(), 0);
        assert!(!eventloop.is_ready());
    }
    peer.send(&write(1, 9)[35..]).unwrap();
    assert_eq!(eventloop.step(), 1);
    peer.recv_reply(1, Command::RegionWrite).unwrap();
}

#[test]
fn clients_come_and_go() {
    let mut eventloop = Loop::new(Limits::default());
    for round in 0..5 {
        let peer = eventloop.client();
        let waiting = RawPeer::connect(eventloop.path()).unwrap();
        waiting.send(&[RawPeer::version(1, 0, 1, Some("{}")), command(2, &INFO)].concat()).unwrap();
        assert_eq!(eventloop.settle(), 0, "the second one waits");
        drop(peer);
        assert_eq!(eventloop.settle(), 2, "the second one's turn");
        let lost = |call: &Call| *call == Call::Reset(Reset::ConnectionLost);
        assert_eq!(eventloop.log.count(lost), round * 2 + 1);
        waiting.recv_reply(1, Command::Version).unwrap();
        waiting.recv_reply(2, Command::DeviceGetInfo).unwrap();
        drop(waiting);
        assert_eq!(eventloop.settle(), 0);
        assert_eq!(eventloop.log.count(lost), round * 2 + 2);
    }
    // One that is refused, too.
    let refused = RawPeer::connect(eventloop.path()).unwrap();
    refused.send(&command(1, &INFO)).unwrap();
    eventloop.settle();
    assert!(refused.recv().unwrap().errno().is_some());
    refused.expect_eof().unwrap();
    eventloop.client();
}

#[test]
fn replies_that_find_no_room_are_sent_when_there_is_some() {
    let mut eventloop = Loop::new(Limits::default());
    let peer = eventloop.client();
    let read = RegionReadRequest { offset: 0, region: 2, count: 1 << 20 };
    let posts = RegionWriteRequest { offset: 0, region: 2, data: &[7] };
    peer.send(&posted(1, &Request::RegionWrite(posts))).unwrap();
    for id in 0..4 {
        peer.send(&command(id, &Request::RegionRead(read))).unwrap();
    }
    let reader = thread::spawn(move || {
        for id in 0..4 {
            let reply = peer.recv_reply(id, Command::RegionRead).unwrap();
            assert_eq!(reply.payload.len(), 16 + (1 << 20));
            assert_eq!(reply.payload[16], 7);
        }
        peer
    });
    while !reader.is_finished() {
        let timeout = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        if is_readable(eventloop.poll_fd.as_fd(), timeout) {
            eventloop.server.process().unwrap();
        }
    }
    let _peer = reader.join().unwrap();
    assert!(!eventloop.is_ready());
}

/// What it asks for meanwhile waits in its socket, which is no reason to look there.
#[test]
fn a_client_that_reads_nothing_does_not_keep_the_loop_busy() {
    let (queued_commands, unsent_bytes) = (16, 1024);
    let limits = Limits { queued_commands, unsent_bytes, send_timeout: None, ..Limits::default() };
    let mut eventloop = Loop::new(limits);
    let peer = eventloop.client();
    let read = RegionReadRequest { offset: 0, region: 0, count: 4 };
    let reads: Vec<u8> = (0..4000).flat_map(|id| command(id, &Request::RegionRead(read))).collect();
    peer.send(&reads).unwrap();
    let mut executed = eventloop.settle();
    assert!(executed < 4000, "it does not hold so many answers: {executed}");
    let reader = thread::spawn(move || {
        for id in 0..4000 {
            peer.recv_reply(id, Command::RegionRead).unwrap();
        }
        peer
    });
    while !reader.is_finished() {
        let timeout = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        if is_readable(eventloop.poll_fd.as_fd(), timeout) {
            executed += eventloop.server.process().unwrap();
        }
    }
    let _peer = reader.join().unwrap();
    assert_eq!(executed + eventloop.settle(), 4000);
}

/// Runs the loop on a thread of its own until it is told to end.
fn on_a_thread(mut eventloop: Loop) -> (Arc<AtomicBool>, thread::JoinHandle<Loop>) {
    let end = Arc::new(AtomicBool::new(false));
    let told = end.clone();
    let thread = thread::spawn(move || {
        let mut stopped = false;
        while !stopped {
            eventloop.step();
            stopped = told.load(Ordering::SeqCst);
        }
        eventloop
    });
    (end, thread)
}

#[test]
fn a_worker_does_dma_while_the_loop_runs_elsewhere() {
    for twin in [false, true] {
        let eventloop = Loop::new(Limits::default());
        let (path, stopper) = (eventloop.path(), eventloop.server.stopper());
        let (end, thread) = on_a_thread(eventloop);
        let vmm = if twin { Vmm::connect(path) } else { Vmm::connect_single(path) }.unwrap();
        let function = vmm.enumerate().unwrap();
        let msix = vmm.enable_msix(&function, 1).unwrap();
        let ram = vmm.message_ram(0x10_0000, 0x10000).unwrap();
        vmm.write64(0, TestDevice::SOURCE, 0x10_0000).unwrap();
        vmm.write64(0, TestDevice::DESTINATION, 0x10_8000).unwrap();
        vmm.write32(0, TestDevice::LENGTH, 5000).unwrap();
        for round in 0..50u8 {
            let data: Vec<u8> = (0..5000u32).map(|i| (i as u8).wrapping_mul(round)).collect();
            ram.store(0x10_0000, &data).unwrap();
            vmm.write32(0, TestDevice::DOORBELL, 0).unwrap();
            vmm.read32(0, 0).unwrap();
            msix.wait(0).unwrap();
            assert_eq!(vmm.read32(0, TestDevice::DONE).unwrap(), 0);
            assert_eq!(ram.bytes(0x10_8000, 5000).unwrap(), data, "round {round}, twin {twin}");
        }
        end.store(true, Ordering::SeqCst);
        stopper.stop();
        within("the loop's end", move || drop(thread.join().unwrap()));
    }
}

#[test]
fn a_stop_wakes_the_loop() {
    let mut eventloop = Loop::new(Limits::default());
    let peer = eventloop.client();
    let stopper = eventloop.server.stopper();
    let (end, thread) = on_a_thread(eventloop);
    end.store(true, Ordering::SeqCst);
    stopper.stop();
    let mut eventloop = within("the loop's end", move || thread.join().unwrap());
    peer.expect_eof().unwrap();
    let _ = eventloop.settle();
    assert_eq!(eventloop.log.count(|call| *call == Call::Reset(Reset::ConnectionLost)), 1);
    let late = RawPeer::connect(eventloop.path()).unwrap();
    late.send(&RawPeer::version(1, 0, 1, Some("{}"))).unwrap();
    assert_eq!(eventloop.server.process().unwrap(), 0, "nobody is served any more");
}

#[test]
fn a_stop_wakes_a_loop_without_a_client() {
    let eventloop = Loop::new(Limits::default());
    let stopper = eventloop.server.stopper();
    let (end, thread) = on_a_thread(eventloop);
    end.store(true, Ordering::SeqCst);
    stopper.stop();
    within("the loop's end", move || drop(thread.join().unwrap()));
}

#[test]
fn a_connected_socket_needs_no_announcement() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let bound = Server::builder(TestDevice::pci()).fd(theirs.into()).unwrap();
    let mut server = bound.serve(|handle| TestDevice::new(handle, CallLog::default())).unwrap();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    assert!(is_readable(server.poll_fd().unwrap(), now));
    server.process().unwrap();
    let peer = RawPeer::over(ours.into());
    peer.send(&RawPeer::version(1, 0, 1, Some("{}"))).unwrap();
    assert!(is_readable(server.poll_fd().unwrap(), now));
    assert_eq!(server.process().unwrap(), 1);
    peer.recv_reply(1, Command::Version).unwrap();
}
