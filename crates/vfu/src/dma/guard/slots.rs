//! Which ranges are guarded: changed under a lock, searched by a handler of signals, which can't take
//! one.
//!
//! A slot is never freed, only used again. Its version is odd while it stands for a range. A handler
//! that has found its slot says so (`users`) and then looks at the version once more; who takes the range
//! out changes the version first and then waits for the users. So at least one of them sees the other,
//! and no range is unmapped, and perhaps mapped again by somebody else, under a handler.

use std::sync::{OnceLock, PoisonError};

use rustix::io::Errno;

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use crate::sync::{Backoff, Mutex};

/// Slots that are made at once.
const CHUNK: usize = if cfg!(loom) { 1 } else { 64 };

/// All ranges of this process.
#[derive(Debug, Default)]
pub(super) struct Slots {
    first: OnceLock<&'static Chunk>,
    free: Mutex<Free>,
}

#[derive(Debug)]
struct Chunk {
    slots: [Slot; CHUNK],
    next: OnceLock<&'static Chunk>,
}

#[derive(Debug, Default)]
struct Free {
    slots: Vec<&'static Slot>,
    last: Option<&'static Chunk>,
}

/// One range, and what became of it.
#[derive(Debug, Default)]
pub(in crate::dma) struct Slot {
    version: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
    page: AtomicUsize,
    /// Handlers that are at work in it.
    users: AtomicUsize,
    /// A page of it has gone away.
    lost: AtomicBool,
    /// That was told of.
    told: AtomicBool,
}

/// A handler's hold on the range that a fault is in. The range stays mapped meanwhile.
pub(super) struct Hold {
    slot: &'static Slot,
    address: usize,
}

impl Slots {
    /// Guards a range.
    pub(super) fn claim(&self, start: usize, len: usize, page: usize) -> &'static Slot {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = free.slots.pop().unwrap_or_else(|| self.grow(&mut free));
        drop(free);
        slot.begin(start, len, page);
        slot
    }

    /// Adds a chunk, and gives the first of its slots.
    fn grow(&self, free: &mut Free) -> &'static Slot {
        let slots = std::array::from_fn(|_| Slot::default());
        let chunk: &'static Chunk = Box::leak(Box::new(Chunk { slots, next: OnceLock::new() }));
        let link = free.last.map_or(&self.first, |last| &last.next);
        let _empty_till_now = link.set(chunk);
        free.last = Some(chunk);
        let [slot, others @ ..] = &chunk.slots;
        free.slots.extend(others);
        slot
    }

    /// Guards it no longer. When this returns no handler is at work in it.
    pub(super) fn release(&self, slot: &'static Slot) {
        slot.end();
        self.free.lock().unwrap_or_else(PoisonError::into_inner).slots.push(slot);
    }

    /// Takes hold of the range that an address is in. May be called by a handler of signals.
    pub(super) fn hold(&self, address: usize) -> Option<Hold> {
        let mut chunk = self.first.get();
        while let Some(here) = chunk {
            let hold = here.slots.iter().find_map(|slot| slot.hold(address));
            if hold.is_some() {
                return hold;
            }
            chunk = here.next.get();
        }
        None
    }
}

impl Slot {
    fn begin(&self, start: usize, len: usize, page: usize) {
        // Each with release: who sees one of these sees that the version of before is over.
        self.start.store(start, Ordering::Release);
        self.len.store(len, Ordering::Release);
        self.page.store(page, Ordering::Release);
        self.lost.store(false, Ordering::Release);
        self.told.store(false, Ordering::Release);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
        // A read that writes: either it sees the handler's mark, or the handler sees the new version.
        let mut backoff = Backoff::default();
        while self.users.fetch_add(0, Ordering::SeqCst) > 0 {
            backoff.pause();
        }
    }

    fn hold(&'static self, address: usize) -> Option<Hold> {
        let version = self.version.load(Ordering::Acquire);
        let (start, len) = (self.start.load(Ordering::Acquire), self.len.load(Ordering::Acquire));
        if version % 2 == 0 || address.wrapping_sub(start) >= len {
            return None;
        }
        self.users.fetch_add(1, Ordering::SeqCst);
        let hold = Hold { slot: self, address };
        // Else it was taken out, or is another's by now; then what was read need not fit together.
        (self.version.fetch_add(0, Ordering::SeqCst) == version).then_some(hold)
    }

    /// Touches the range.
    ///
    /// # Errors
    /// `EFAULT`: a page of it has gone, now or earlier. What was read is nothing, and what was written is
    /// nowhere.
    #[inline]
    pub(in crate::dma) fn guard(&self, touch: impl FnOnce()) -> Result<(), Errno> {
        if self.is_lost() {
            return Err(Errno::FAULT);
        }
        touch();
        // Who has seen the empty page sees that there is one.
        fence(Ordering::Acquire);
        if self.is_lost() { Err(Errno::FAULT) } else { Ok(()) }
    }

    /// Whether a page of it has gone away.
    #[inline]
    pub(in crate::dma) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether that is news.
    pub(in crate::dma) fn is_news(&self) -> bool {
        self.is_lost() && !self.told.swap(true, Ordering::Relaxed)
    }
}

impl Hold {
    /// Says that a page has gone. Before another one is put there, which others could see first.
    pub(super) fn lose(&self) {
        self.slot.lost.store(true, Ordering::SeqCst);
    }

    /// The page of the fault: its start, and how many bytes it has.
    pub(super) fn page(&self) -> (usize, usize) {
        let page = self.slot.page.load(Ordering::Acquire).max(1);
        (self.address - self.address % page, page)
    }

    /// The whole range.
    pub(super) fn range(&self) -> (usize, usize) {
        (self.slot.start.load(Ordering::Acquire), self.slot.len.load(Ordering::Acquire))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.slot.users.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom), not(shuttle)))]
mod tests;
