//! Waking an event loop, at no cost while nobody has to.

use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};

use super::event::Event;
use crate::sync::atomic::{AtomicBool, Ordering};

/// An eventfd that is written once however often it is asked for, and read only if it was written.
#[derive(Debug)]
pub(crate) struct Wake {
    event: Event,
    asked: AtomicBool,
}

impl Wake {
    pub(crate) fn new() -> Result<Wake, Errno> {
        Ok(Wake { event: Event::new()?, asked: AtomicBool::new(false) })
    }

    /// Makes it readable.
    pub(crate) fn wake(&self) {
        if !self.asked.swap(true, Ordering::SeqCst) {
            self.event.set();
        }
    }

    /// Whether it is readable, or will be at once.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Takes the wake-up off. What it was about has to be looked for after this, not before.
    pub(crate) fn clear(&self) {
        // If the write is still to come the next call takes it off.
        if self.asked.load(Ordering::SeqCst) && self.event.take() {
            self.asked.store(false, Ordering::SeqCst);
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
