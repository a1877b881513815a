//! Waking an event loop, at no cost while nobody has to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// An eventfd that is written once however often it is asked for, and read only if it was written.
#[derive(Debug)]
pub(crate) struct Wake {
    fd: OwnedFd,
    asked: AtomicBool,
}

impl Wake {
    pub(crate) fn new() -> Result<Wake, Errno> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Wake { fd, asked: AtomicBool::new(false) })
    }

    /// Makes it readable.
    pub(crate) fn wake(&self) {
        if !self.asked.swap(true, Ordering::SeqCst) {
            let _never_full = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    /// Takes the wake-up off. What it was about has to be looked for after this, not before.
    pub(crate) fn clear(&self) {
        // If the write is still to come the next call takes it off.
        if self.asked.load(Ordering::SeqCst) && rustix::io::read(&self.fd, &mut [0u8; 8]).is_ok() {
            self.asked.store(false, Ordering::SeqCst);
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
