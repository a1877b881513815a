//! The interrupt pin, as a device drives it.

use std::sync::Arc;

use super::fence::{self, Raise};
use crate::shared::Shared;

/// The interrupt pin: a level, up until the device takes it down.
///
/// Cheap to clone, usable from any thread, safe to keep.
#[derive(Clone, Debug)]
pub struct Intx {
    shared: Arc<Shared>,
}

impl Intx {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Intx { shared }
    }

    /// Asserts the pin and sets Interrupt Status. The driver is told once; and again when it
    /// unmasks the interrupt and the pin is still up. It is not told while Interrupt Disable, MSI
    /// Enable or MSI-X Enable is set. Never blocks.
    pub fn raise(&self) {
        self.set(true);
    }

    /// Takes the pin down and clears Interrupt Status.
    pub fn lower(&self) {
        self.set(false);
    }

    /// Sets the pin's level.
    pub fn set(&self, up: bool) {
        self.shared.irqs.want_pin(up);
        if up && !self.shared.is_stopped() && fence::after(&self.shared, Raise::Pin) {
            return;
        }
        self.shared.irqs.follow_pin(up, |up| self.shared.config().set_interrupt_status(up));
    }
}
