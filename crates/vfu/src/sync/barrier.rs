//! A barrier whose cost is all on one side.
//!
//! Two threads that each write one thing and then read the other's need a full barrier in between, or
//! both may read the old value. Where one side is on the path of every DMA and the other is rare, the
//! rare one can pay for both: it has the kernel run a full barrier on every processor that runs a
//! thread of ours. Where the kernel does not, both sides pay.

#[cfg(loom)]
pub(crate) use loom::{full, full as heavy, full as light, prepare};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use real::{full, heavy, light, prepare};
#[cfg(shuttle)]
pub(crate) use shuttle::{full, full as heavy, full as light, prepare};

#[cfg(not(any(loom, shuttle)))]
mod real {
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};

    use rustix::io::Errno;
    use rustix::thread::{MembarrierCommand, membarrier};

    /// The kernel is asked by [`heavy`], so that [`light`] costs nothing.
    static ONE_SIDED: AtomicBool = AtomicBool::new(false);

    /// Makes [`light`] cheap, if the kernel helps.
    pub(crate) fn prepare() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| ONE_SIDED.store(!cfg!(miri) && register().is_ok(), Ordering::SeqCst));
    }

    fn register() -> Result<(), Errno> {
        membarrier(MembarrierCommand::RegisterPrivateExpedited)
    }

    /// The common side, between its write and its read.
    #[inline]
    pub(crate) fn light() {
        if ONE_SIDED.load(Ordering::Relaxed) {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// The rare side, between its write and its read.
    pub(crate) fn heavy() {
        prepare();
        fence(Ordering::SeqCst);
        if ONE_SIDED.load(Ordering::Relaxed) {
            ask();
        }
    }

    fn ask() {
        let expedited = || membarrier(MembarrierCommand::PrivateExpedited);
        let done = expedited()
            .or_else(|_| register().and_then(|()| expedited()))
            .or_else(|_| membarrier(MembarrierCommand::Global));
        if let Err(e) = done {
            // A sandbox that was closed behind us. From now on both sides pay; what a thread wrote before it
            // knows becomes visible long before this is over.
            tracing::debug!(%e, "no membarrier");
            ONE_SIDED.store(false, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Between a write and a read, where either side pays.
    #[inline]
    pub(crate) fn full() {
        fence(Ordering::SeqCst);
    }
}

#[cfg(loom)]
mod loom {
    pub(crate) fn full() {
        ::loom::sync::atomic::fence(::loom::sync::atomic::Ordering::SeqCst);
    }

    pub(crate) fn prepare() {}
}

/// All that shuttle does is in one order.
#[cfg(shuttle)]
mod shuttle {
    pub(crate) fn full() {}

    pub(crate) fn prepare() {}
}
