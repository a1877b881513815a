//! Interrupts that wait for the data that they announce.

use std::sync::Arc;
use std::task::{Wake, Waker};

use super::IrqIndex;
use crate::shared::Shared;

/// What is raised.
#[derive(Clone, Copy, Debug)]
pub(super) enum Raise {
    Vector(IrqIndex, u32),
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
pub(super) fn after_writes(shared: &Arc<Shared>, raise: Raise) -> bool {
    let Some(live) = shared.live().filter(|live| live.link.has_written()) else { return false };
    live.link.wake_after_writes(|| {
        Waker::from(Arc::new(Fenced { shared: shared.clone(), epoch: shared.epoch(), raise }))
    })
}

impl Wake for Fenced {
    fn wake(self: Arc<Self>) {
        if self.shared.epoch() != self.epoch {
            return;
        }
        match self.raise {
            Raise::Vector(index, vector) => {
                let _no_longer_enabled = self.shared.irqs.trigger(index, vector);
            }
            Raise::Pin => {
                self.shared
                    .irqs
                    .follow_pin(true, |up| self.shared.config().set_interrupt_status(up));
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
