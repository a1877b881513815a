//! Ends writes to eventfds that a client has made wait.
//!
//! We ask that a write to a client's eventfd never waits (`O_NONBLOCK`). But that is a property of the open
//! file, which is the client's as well: it may take it back at any time, and fill the counter. Neither can be
//! found out before a write without a system call more for each interrupt, and not surely then; and Linux
//! knows no write to an eventfd that is non-blocking by itself (`RWF_NOWAIT` is `EOPNOTSUPP`).
//!
//! So writes are counted when they begin and when they end. A thread, one for the whole process and only
//! while there are eventfds, looks now and then whether one has not ended since it looked last, and empties the
//! counter, which ends it. From then on none of that session's eventfds is written: a client that makes
//! writes wait could do so again and again, with any of them. In other sessions every write is preceded by a
//! look whether it would wait.

use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
// Of those who watch a model knows nothing: it looks itself.
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError, Weak};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tracing::warn;

use crate::seldom::OF_THE_PROCESS;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::yield_now;

/// A write that a client makes wait takes no longer than two of them.
const TICK: Duration = Duration::from_millis(500);
/// How often a counter is emptied again that is filled faster than the writer wakes up.
const TRIES: u32 = if cfg!(loom) { 3 } else { 10_000 };

const WAITED: &str = "the peer made a write to an eventfd wait: it gets no more in this session";

/// Eventfds that are watched without the list growing.
const ROOM: usize = 64;

#[cfg(not(any(loom, shuttle)))]
mod places {
    /// A write has waited.
    pub(super) static SUSPICIOUS: super::AtomicBool = super::AtomicBool::new(false);
}

#[cfg(loom)]
mod places {
    loom::lazy_static! {
        pub(super) static ref SUSPICIOUS: super::AtomicBool = super::AtomicBool::new(false);
    }
}

#[cfg(shuttle)]
mod places {
    shuttle::lazy_static! {
        pub(super) static ref SUSPICIOUS: super::AtomicBool = super::AtomicBool::new(false);
    }
}

use places::SUSPICIOUS;

static WATCHED: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static MORE: Condvar = Condvar::new();

/// Whether the other end of a session has made a write to one of its eventfds wait: one for each session.
#[derive(Clone, Debug, Default)]
pub struct Distrust(Arc<AtomicBool>);

/// What is written to: an eventfd, or a model of one.
pub(super) trait Counter {
    /// Whether a write would wait, if it may.
    fn is_full(&self) -> bool;
    /// Ends a write that waits.
    fn empty(&self);
}

/// An eventfd of which the writes are counted.
#[derive(Debug)]
pub(super) struct Counted<F = OwnedFd> {
    fd: F,
    distrust: Distrust,
    begun: AtomicU64,
    ended: AtomicU64,
}

struct Entry {
    file: Weak<Counted>,
    /// Ends that were seen, if there was one to come.
    seen: Option<u64>,
}

impl Counted {
    /// Sees to it that no write to `fd` takes longer than a moment.
    pub(super) fn new(fd: OwnedFd, distrust: &Distrust) -> Arc<Counted> {
        let file = Arc::new(Counted::of(fd, distrust));
        if cfg!(not(any(loom, shuttle))) {
            enter(Entry { file: Arc::downgrade(&file), seen: None });
        }
        file
    }
}

impl<F: Counter> Counted<F> {
    fn of(fd: F, distrust: &Distrust) -> Counted<F> {
        let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
        Counted { fd, distrust: distrust.clone(), begun, ended }
    }

    /// Writes, by `write`, unless that is known to wait. Of several threads one calls it at a time: so to
    /// count takes no atomic operation.
    ///
    /// # Errors
    /// Those of `write`; `EDEADLK`: a write of this session has waited, and there are no more.
    #[inline]
    pub(super) fn write_alone(
        &self,
        write: impl FnOnce(&F) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        if SUSPICIOUS.load(Ordering::Relaxed) {
            if self.distrust.0.load(Ordering::Relaxed) {
                return Err(Errno::DEADLK);
            }
            if self.fd.is_full() {
                return Ok(());
            }
        }
        let add_one = |count: &AtomicU64| {
            count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        };
        add_one(&self.begun);
        let result = write(&self.fd);
        add_one(&self.ended);
        result.map(drop)
    }

    /// The number of ends, if one is to come.
    fn awaited(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::Relaxed);
        (self.begun.load(Ordering::Relaxed) != ended).then_some(ended)
    }

    fn rescue(&self, ended: u64) {
        // A thread that merely did not run has perhaps written already: what is there is the client's.
        if !self.fd.is_full() {
            return;
        }
        SUSPICIOUS.store(true, Ordering::Relaxed);
        if !self.distrust.0.swap(true, Ordering::Relaxed) {
            if let Some(kept) = OF_THE_PROCESS.ask(WAITED) {
                warn!("{WAITED}{kept}");
            }
        }
        for _ in 0..TRIES {
            if self.fd.is_full() {
                self.fd.empty();
            }
            if self.awaited() != Some(ended) {
                break;
            }
            yield_now();
        }
    }
}

impl Counter for OwnedFd {
    fn is_full(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut set = [PollFd::new(self, PollFlags::OUT)];
        poll(&mut set, Some(&now)).is_ok() && !set[0].revents().contains(PollFlags::OUT)
    }

    fn empty(&self) {
        let mut counter = [0; 8];
        let to = &mut [IoSliceMut::new(&mut counter)];
        let _empty_already = preadv2(self, to, u64::MAX, ReadWriteFlags::NOWAIT);
    }
}

fn enter(entry: Entry) {
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    if watched.len() == watched.capacity() {
        watched.retain(|entry| entry.file.strong_count() > 0);
        let room = watched.len().max(ROOM);
        watched.reserve(room);
    }
    let sleeps = watched.is_empty();
    watched.push(entry);
    drop(watched);
    static START: Once = Once::new();
    START.call_once(|| {
        let thread = std::thread::Builder::new().name("vfu-eventfds".into());
        if thread.spawn(watch).is_err() {
            SUSPICIOUS.store(true, Ordering::Relaxed); // at least that
        }
    });
    if sleeps {
        MORE.notify_one();
    }
}

/// Never ends; sleeps while there is nothing to watch.
fn watch() {
    loop {
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        while watched.is_empty() {
            watched = MORE.wait(watched).unwrap_or_else(PoisonError::into_inner);
        }
        drop(watched);
        std::thread::sleep(TICK);
        let mut stuck = Vec::new();
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain_mut(|entry| {
            let Some(file) = entry.file.upgrade() else { return false };
            let now = file.awaited();
            if let Some(ended) = now.filter(|_| now == entry.seen) {
                stuck.push((file, ended));
            }
            entry.seen = now;
            true
        });
        drop(watched);
        stuck.iter().for_each(|(file, ended)| file.rescue(*ended));
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    /// Two looks find it between its write and the end of that.
    #[test]
    fn an_interrupt_of_a_thread_that_does_not_run_is_not_taken() {
        let fd = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
        let file = Counted::of(fd, &Distrust::default());
        file.begun.store(1, Ordering::Relaxed);
        file.rescue(file.awaited().unwrap());
        let mut counter = [0; 8];
        assert_eq!(rustix::io::read(&file.fd, &mut counter), Ok(8));
        assert_eq!(u64::from_ne_bytes(counter), 1);
    }
}
