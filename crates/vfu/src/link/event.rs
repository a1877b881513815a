//! An eventfd, and what stands for it in a model of the atomics around it.

#[cfg(not(loom))]
mod chosen {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::{Errno, read, write};

    use crate::sync::kernel::act;

    /// An eventfd that is readable once it is set.
    #[derive(Debug)]
    pub(in crate::link) struct Event(OwnedFd);

    impl Event {
        pub(in crate::link) fn new() -> Result<Event, Errno> {
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Event)
        }

        pub(in crate::link) fn set(&self) {
            let _never_full = act(|| write(&self.0, &1u64.to_ne_bytes()));
        }

        /// Takes it back. False if it was not set.
        pub(in crate::link) fn take(&self) -> bool {
            act(|| read(&self.0, &mut [0u8; 8])).is_ok()
        }
    }

    impl AsFd for Event {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(loom)]
mod chosen {
    use std::os::fd::{AsFd, BorrowedFd};

    use loom::sync::atomic::{AtomicBool, Ordering};
    use rustix::io::Errno;

    /// What an eventfd is to those who use it: set or not.
    #[derive(Debug)]
    pub(in crate::link) struct Event(AtomicBool);

    impl Event {
        pub(in crate::link) fn new() -> Result<Event, Errno> {
            Ok(Event(AtomicBool::new(false)))
        }

        // The kernel orders nothing that is around these calls.
        pub(in crate::link) fn set(&self) {
            self.0.swap(true, Ordering::Relaxed);
        }

        pub(in crate::link) fn take(&self) -> bool {
            self.0.swap(false, Ordering::Relaxed)
        }

        #[cfg(test)]
        pub(in crate::link) fn is_set(&self) -> bool {
            // A look that is up to date, as `poll` gives.
            self.0.fetch_or(false, Ordering::Relaxed)
        }
    }

    impl AsFd for Event {
        fn as_fd(&self) -> BorrowedFd<'_> {
            unreachable!("a model of the atomics has no descriptors")
        }
    }
}

pub(super) use chosen::Event;
