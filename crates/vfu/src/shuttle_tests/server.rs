//! A server whose device does DMA by message, and a client that is played.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use shuttle::thread;
use vfu_proto::session::{Limits, Message};
use vfu_proto::wire::{DmaUnmapRequest, Request, UnmapWhat};

use super::device::{
    BUSY, CALLBACK, DEFERRED, IN_HANDLER, LEASE, Log, PLAIN, Tester, WORKER, pattern,
};
use super::peer::{MEMORY, Peer, pair};
use super::{check, no_timeouts, some_spin};
use crate::dma::DmaError;
use crate::server::Stopper;
use crate::{Bar, Pci, Server};

type Asked = Message<OwnedFd>;

/// A server on a thread of its own, with the session begun, and what its device logs.
pub(super) struct Serving {
    pub(super) peer: Peer,
    pub(super) log: Arc<Log>,
    pub(super) stopper: Stopper,
    thread: thread::JoinHandle<()>,
}

pub(super) fn server(limits: Limits) -> (Server<Tester>, Arc<Log>, Peer) {
    let (ours, theirs) = pair();
    let log = Arc::new(Log::default());
    let pci = Pci::endpoint(1, 2).bar(0, Bar::mem32(4096)).msix(1);
    let builder = Server::builder(pci).limits(limits).spin(some_spin()).bus_master_gate(false);
    let bound = builder.fd(ours).unwrap();
    let device_log = log.clone();
    let server = bound.serve(|handle| Tester { handle, log: device_log, busy: false }).unwrap();
    (server, log, Peer::new(theirs))
}

impl Serving {
    pub(super) fn begin(limits: Limits) -> Self {
        let (mut server, log, mut peer) = server(limits);
        let stopper = server.stopper();
        let thread = thread::spawn(move || server.run().unwrap());
        peer.begin();
        Serving { peer, log, stopper, thread }
    }

    /// Hangs up, and waits for everybody.
    pub(super) fn end(self) -> Arc<Log> {
        self.peer.hang_up();
        self.thread.join().unwrap();
        self.log.join();
        self.log
    }
}

/// Two workers read memory; their replies come late, in the wrong order, between commands.
#[test]
fn replies_find_their_workers() {
    check(|| {
        let mut s = Serving::begin(no_timeouts());
        let ids = [s.peer.write(WORKER, 0x10), s.peer.write(WORKER, 0x20), s.peer.read(PLAIN)];
        let mut asked = Vec::new();
        for id in ids {
            s.peer.reply_to(id, &mut asked);
        }
        while asked.len() < 2 {
            asked.push(s.peer.next_command().unwrap());
        }
        s.peer.give(&asked[1]);
        let id = s.peer.read(PLAIN);
        s.peer.give(&asked[0]);
        s.peer.reply_to(id, &mut Vec::new());
        // They end while the session goes on: nobody has to hang up for that.
        s.log.join();
        let log = s.end();
        assert_eq!(log.outcome(0x10), Some(Ok(pattern(0x10))));
        assert_eq!(log.outcome(0x20), Some(Ok(pattern(0x20))));
    });
}

/// What was asked for before a reset or an unmap ends with it, and is not waited for. What the
/// device asks for later is answered, as if it were not known which is which.
#[test]
fn a_reset_ends_workers() {
    ends(|s, asked| {
        let reset = s.peer.ask(&Request::DeviceReset);
        s.peer.reply_to(reset, asked);
    });
}

#[test]
fn an_unmap_ends_workers() {
    ends(|s, asked| {
        let (address, size) = MEMORY;
        let what = UnmapWhat::Range { address, size };
        let unmap = s.peer.ask(&Request::DmaUnmap(DmaUnmapRequest::new(what)));
        s.peer.reply_to(unmap, asked);
    });
}

#[test]
fn a_hang_up_ends_workers() {
    ends(|s, _| s.peer.hang_up());
}

#[test]
fn a_stop_ends_workers() {
    ends(|s, _| s.stopper.stop());
}

fn ends(by: impl Fn(&mut Serving, &mut Vec<Asked>) + Clone + Send + Sync + 'static) {
    check(move || {
        let mut s = Serving::begin(no_timeouts());
        let ids = [s.peer.write(WORKER, 0x10), s.peer.write(CALLBACK, 0x20)];
        for id in ids {
            s.peer.reply_to(id, &mut Vec::new());
        }
        let mut asked = Vec::new();
        by(&mut s, &mut asked);
        asked.iter().for_each(|command| s.peer.give(command));
        let (log, stopper) = (s.log.clone(), s.stopper.clone());
        let all_ended = thread::spawn(move || {
            log.wait_for(&[0x10, 0x20]);
            stopper.stop();
        });
        while let Some(command) = s.peer.next_command() {
            s.peer.give(&command);
        }
        all_ended.join().unwrap();
        let log = s.end();
        for value in [0x10, 0x20] {
            let ends = [
                Ok(pattern(value)),
                Err(DmaError::Canceled),
                Err(DmaError::NotConnected),
                Err(DmaError::NotMapped { address: MEMORY.0 + value }),
            ];
            let outcome = log.outcome(value).expect("it has ended");
            assert!(ends.contains(&outcome), "{value:#x}: {outcome:?}");
        }
    });
}

/// A handler waits for DMA, a worker too, a third answers by a callback.
#[test]
fn all_three_faces_at_once() {
    check(|| {
        let mut s = Serving::begin(no_timeouts());
        s.peer.write(WORKER, 0x10);
        s.peer.write(CALLBACK, 0x20);
        s.peer.write(IN_HANDLER, 0x30);
        let last = s.peer.read(PLAIN);
        for _ in 0..3 {
            let command = s.peer.next_command().unwrap();
            s.peer.give(&command);
        }
        s.peer.reply_to(last, &mut Vec::new());
        s.log.wait_for(&[0x10, 0x20, 0x30]);
        let log = s.end();
        for value in [0x10, 0x20, 0x30] {
            assert_eq!(log.outcome(value), Some(Ok(pattern(value))));
        }
    });
}

/// Answers that come later from other threads, and commands that go on meanwhile.
#[test]
fn deferred_answers_come() {
    check(|| {
        let limits = Limits { queued_commands: 2, ..no_timeouts() };
        let mut s = Serving::begin(limits);
        let mut ids: Vec<_> = (0..3).map(|_| s.peer.read(DEFERRED)).collect();
        ids.push(s.peer.read(PLAIN));
        while !ids.is_empty() {
            let reply = s.peer.next().unwrap();
            assert!(!reply.header().is_error());
            ids.retain(|id| *id != reply.header().id);
        }
        s.end();
    });
}

/// A device that takes its time to come to rest gets the command that waited for it.
#[test]
fn a_command_waits_for_rest() {
    check(|| {
        let mut s = Serving::begin(no_timeouts());
        s.peer.write(BUSY, 0);
        s.peer.write(WORKER, 0x10);
        let reset = s.peer.ask(&Request::DeviceReset);
        let read = s.peer.read(PLAIN);
        s.peer.reply_to(reset, &mut Vec::new());
        s.peer.reply_to(read, &mut Vec::new());
        s.end();
    });
}

/// An unmap waits for a lease; it is answered when that has gone.
#[test]
fn an_unmap_waits_for_its_lease() {
    check(|| {
        let mut s = Serving::begin(no_timeouts());
        let (address, size) = (0x10_0000, 0x1000);
        let id = s.peer.map_file(address, size);
        s.peer.reply_to(id, &mut Vec::new());
        s.peer.write(LEASE, address);
        let what = UnmapWhat::Range { address, size };
        let unmap = s.peer.ask(&Request::DmaUnmap(DmaUnmapRequest::new(what)));
        s.peer.reply_to(unmap, &mut Vec::new());
        s.end();
    });
}
