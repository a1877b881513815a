//! Interrupts that wait: for the data that they announce, or for the end of an interval.

use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::{IrqError, IrqIndex};
use crate::shared::{Live, Shared};

/// What is raised.
#[derive(Clone, Copy, Debug)]
pub(super) enum Raise {
    /// A vector of MSI-X or MSI.
    Message(u32),
    /// ERR or REQ.
    Notice(IrqIndex),
    Pin,
}

/// An interrupt that waits.
struct Fenced {
    shared: Arc<Shared>,
    /// Resets before it: one in between, or another client, and it is not raised.
    epoch: u64,
    raise: Raise,
}

/// Raises an interrupt when all DMA_WRITEs that are under way have ended. False if there are none:
/// the caller raises it now.
pub(super) fn after(shared: &Arc<Shared>, raise: Raise) -> bool {
    shared.live().is_some_and(|live| live.link.has_written() && after_writes(shared, &live, raise))
}

/// As [`after`], in a session that is known, and in which the device has written.
pub(super) fn after_writes(shared: &Arc<Shared>, live: &Live, raise: Raise) -> bool {
    live.link.wake_after_writes(|| {
        Waker::from(Arc::new(Fenced { shared: shared.clone(), epoch: shared.epoch(), raise }))
    })
}

/// Raises an interrupt.
pub(super) fn now(shared: &Arc<Shared>, raise: Raise) -> Result<(), IrqError> {
    match raise {
        Raise::Message(vector) => {
            if let Some(wait) = shared.irqs.raise_message(vector)? {
                flush_in(shared, wait);
            }
            Ok(())
        }
        Raise::Notice(index) => shared.irqs.raise_notice(index),
        Raise::Pin => {
            shared.irqs.follow_pin(true, |up| shared.config().set_interrupt_status(up));
            Ok(())
        }
    }
}

impl Wake for Fenced {
    fn wake(self: Arc<Self>) {
        if self.shared.epoch() == self.epoch {
            let _no_longer_enabled = now(&self.shared, self.raise);
        }
    }
}

/// Looks after interrupts that are held, once their interval is over.
struct Flush(Weak<Shared>);

impl Wake for Flush {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = self.0.upgrade() {
            if let Some(wait) = shared.irqs.flush() {
                flush_in(&shared, wait);
            }
        }
    }
}

/// Whoever waits for the session sees to the end of the interval.
fn flush_in(shared: &Arc<Shared>, wait: Duration) {
    if let Some(live) = shared.live() {
        live.link.alarm(wait, || Waker::from(Arc::new(Flush(Arc::downgrade(shared)))));
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
