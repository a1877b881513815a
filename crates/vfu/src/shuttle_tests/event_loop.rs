//! A server in an event loop of the user, and threads that wait in the same session.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread;

use super::device::{CALLBACK, DEFERRED, PLAIN, WORKER, pattern};
use super::server::server;
use super::{check, no_timeouts};
use crate::sync::kernel::poll;

/// The loop watches one descriptor. What another thread reads for it, answers for it or leaves to
/// be sent makes that readable.
#[test]
fn the_loop_wakes_for_what_others_read() {
    check(|| {
        let (mut server, log, mut peer) = server(no_timeouts());
        let over = Arc::new(AtomicBool::new(false));
        let stopper = server.stopper();
        let is_over = over.clone();
        let event_loop = thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                let fd = server.poll_fd().unwrap();
                poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)], None).unwrap();
                server.process().unwrap();
                // What another thread is about to read keeps it readable until it has.
                thread::yield_now();
            }
        });
        peer.begin();
        peer.write(WORKER, 0x10);
        peer.write(CALLBACK, 0x20);
        let first = peer.read(DEFERRED);
        let mut asked = Vec::new();
        peer.reply_to(first, &mut asked);
        while asked.len() < 2 {
            asked.push(peer.next_command().unwrap());
        }
        // The worker waits, and so it may be the one who reads these.
        for _ in 0..2 {
            let id = peer.read(PLAIN);
            peer.reply_to(id, &mut Vec::new());
        }
        asked.iter().for_each(|command| peer.give(command));
        let last = peer.read(DEFERRED);
        peer.reply_to(last, &mut Vec::new());
        log.wait_for(&[0x10, 0x20]);
        over.store(true, Ordering::SeqCst);
        stopper.stop();
        event_loop.join().unwrap();
        log.join();
        for value in [0x10, 0x20] {
            assert_eq!(log.outcome(value), Some(Ok(pattern(value))));
        }
    });
}
