//! Interrupts that wait: for the data that they announce, or for the end of an interval.

use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::{IrqError, IrqIndex};
use crate::shared::Shared;

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
    let fenced = || Arc::new(Fenced { shared: shared.clone(), epoch: shared.epoch(), raise });
    shared.has_written() == Some(true)
        && shared.live().is_some_and(|live| live.link.wake_after_writes(|| Waker::from(fenced())))
}

/// Raises an interrupt.
pub(super) fn now(shared: &Arc<Shared>, raise: Raise) -> Result<(), IrqError> {
    match raise {
        Raise::Message(vector) => raise_message(shared, vector, true),
        Raise::Notice(index) => shared.irqs.raise_notice(index),
        Raise::Pin => {
            shared.irqs.follow_pin(true, |up| shared.config().set_interrupt_status(up));
            Ok(())
        }
    }
}

/// Raises a message, now, of a device that may master the bus, or may not.
#[inline]
pub(super) fn raise_message(
    shared: &Arc<Shared>,
    vector: u32,
    may_master: bool,
) -> Result<(), IrqError> {
    if let Some(wait) = shared.irqs.raise_message(vector, may_master)? {
        flush_in(shared, wait);
    }
    Ok(())
}

/// The client has gone: what has waited for its writes is dropped. The pin's level is the device's, not
/// the client's, and is what the device has last asked for.
pub(crate) fn abandon(shared: &Shared) {
    shared.next_epoch();
    shared.irqs.follow_pin(true, |up| shared.config().set_interrupt_status(up));
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
#[cold]
fn flush_in(shared: &Arc<Shared>, wait: Duration) {
    if let Some(live) = shared.live() {
        live.link.alarm(wait, || Waker::from(Arc::new(Flush(Arc::downgrade(shared)))));
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;
    use crate::irq::Irqs;
    use crate::pci::{Pci, Pin};
    use crate::server::Regions;

    /// Whoever sees that the session has ended may be ahead of whoever wakes what waited for it.
    #[test]
    fn a_pin_that_waited_for_a_client_that_has_gone_is_up() {
        let config = Pci::endpoint(0x1234, 1).intx(Pin::A).build().unwrap();
        let irqs = Irqs::of(&config);
        let regions = Arc::new(Regions::default());
        let shared = Arc::new(Shared::new(config, irqs, true, None, Default::default(), regions));
        let status = || {
            let mut status = [0];
            shared.config().read(6, &mut status);
            status[0] & 1 << 3 != 0
        };
        let pin = Fenced { shared: shared.clone(), epoch: shared.epoch(), raise: Raise::Pin };
        shared.irqs.want_pin(true);
        abandon(&shared);
        Waker::from(Arc::new(pin)).wake();
        assert!(status(), "nobody raises it again");
        shared.irqs.want_pin(false);
        abandon(&shared);
        assert!(status(), "whoever asked takes it down");
    }
}
