//! The time of a model: it stands still but for what a test lets pass.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[cfg(test)]
use super::{condvar, kernel};

shuttle::lazy_static! {
    /// In nanoseconds. Not an atomic of the model: to look at a clock orders nothing.
    static ref NOW: AtomicU64 = AtomicU64::new(0);
}

/// Since the model began.
pub(super) fn now() -> Duration {
    Duration::from_nanos(NOW.load(Ordering::SeqCst))
}

/// Lets time pass. Who waits for an end of it goes on.
#[cfg(test)]
pub(crate) fn advance(time: Duration) {
    kernel::act(|| NOW.fetch_add(time.as_nanos() as u64, Ordering::SeqCst));
    condvar::ring();
}

/// As a number.
pub(crate) fn monotonic_ns() -> u64 {
    NOW.load(Ordering::SeqCst)
}

/// As [`std::time::Instant`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Instant(now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        now() - self.0
    }
}
