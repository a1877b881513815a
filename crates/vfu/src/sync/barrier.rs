//! A barrier whose cost is all on one side.
//!
//! Two threads that each write one thing and then read the other's need a full barrier in between, or
//! both may read the old value. Where one side is on the path of every DMA and the other is rare, the
//! rare one can pay for both: it has the kernel run a full barrier on every processor that runs a
//! thread of ours.

/// The common side, between its write and its read: the compiler keeps their order.
#[inline]
pub(crate) fn light() {
    #[cfg(not(any(loom, shuttle)))]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(loom)]
    loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
}

/// The rare side, between its write and its read.
pub(crate) fn heavy() {
    #[cfg(not(any(loom, shuttle)))]
    kernel();
    #[cfg(loom)]
    loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
}

#[cfg(not(any(loom, shuttle)))]
fn kernel() {
    use rustix::thread::{MembarrierCommand, membarrier};
    use std::sync::atomic::{Ordering, fence};

    fence(Ordering::SeqCst);
    // Registering again costs nothing.
    let done = membarrier(MembarrierCommand::RegisterPrivateExpedited)
        .and_then(|()| membarrier(MembarrierCommand::PrivateExpedited))
        .or_else(|_| membarrier(MembarrierCommand::Global));
    if let Err(e) = done {
        // A sandbox without it. What is left is that a store becomes visible long before the
        // system calls of the answer, which follows, are over.
        tracing::debug!(%e, "no membarrier");
    }
}
