//! Locks, atomics, threads and the clock: everything by which threads of ours meet.
//!
//! They are the standard library's. Under `--cfg loom` and `--cfg shuttle` they are those of a
//! model checker, which runs the same code in many orders; CONTRIBUTING.md says how. What never
//! makes a thread wait, `Arc` and `OnceLock`, is the standard library's always; except where the last to let
//! go of an `Arc` does something, which is a [`Counted`].

mod backoff;
pub(crate) mod barrier;
mod cell;
#[cfg(shuttle)]
pub(crate) mod clock;
#[cfg(shuttle)]
mod condvar;
pub(crate) mod kernel;
mod left_right;
mod readers;
#[cfg(shuttle)]
mod thread;

#[cfg(not(any(loom, shuttle)))]
mod chosen {
    pub(crate) use std::sync::Arc as Counted;
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, RwLock, atomic};
    pub(crate) use std::thread::{Builder as ThreadBuilder, yield_now};
    pub(crate) use std::thread_local;
    pub(crate) use std::time::Instant;

    pub(crate) use super::monotonic::monotonic_ns;
}

/// The time of [`Instant`], as a number.
#[cfg(not(shuttle))]
mod monotonic {
    use rustix::time::{ClockId, clock_gettime};

    /// Nanoseconds since some point before this process began.
    #[inline]
    pub(crate) fn monotonic_ns() -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }
}

#[cfg(loom)]
mod chosen {
    pub(crate) use super::monotonic::monotonic_ns;
    pub(crate) use loom::sync::Arc as Counted;
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, RwLock, atomic};
    pub(crate) use loom::thread::{Builder as ThreadBuilder, yield_now};
    pub(crate) use std::thread_local;
    pub(crate) use std::time::Instant;
}

#[cfg(shuttle)]
mod chosen {
    pub(crate) use super::clock::{Instant, monotonic_ns};
    pub(crate) use super::condvar::Condvar;
    pub(crate) use super::thread::ThreadBuilder;
    pub(crate) use shuttle::sync::Arc as Counted;
    pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock, atomic};
    pub(crate) use shuttle::thread::yield_now;
    pub(crate) use shuttle::thread_local;
}

pub(crate) use backoff::Backoff;
pub(crate) use chosen::*;
pub(crate) use left_right::LeftRight;
pub(crate) use readers::is_reading;
