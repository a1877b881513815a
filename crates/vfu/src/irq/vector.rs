//! Message signalled interrupts, as a device raises them.

use std::sync::Arc;

use super::fence::{self, Raise};
use super::{Coalescing, IrqError};
use crate::shared::Shared;

/// A message signalled interrupt: MSI-X or MSI, whichever the driver enabled.
///
/// Cheap to clone, usable from any thread, safe to keep.
#[derive(Clone, Debug)]
pub struct Vector {
    shared: Arc<Shared>,
    vector: u32,
}

impl Vector {
    pub(crate) fn new(shared: Arc<Shared>, vector: u32) -> Self {
        Vector { shared, vector }
    }

    /// Whether the driver uses MSI-X or MSI now. If not, the device has to use its pin.
    pub fn is_enabled(&self) -> bool {
        self.shared.irqs.messages().is_some()
    }

    /// Raises the interrupt. Never blocks, and never overtakes the data that it announces: if
    /// DMA_WRITEs of the device are under way, it is raised when the client has acknowledged them.
    /// While something [holds it back](crate::irq#what-holds-a-message-back) the interrupt is kept,
    /// once, and raised when nothing does.
    ///
    /// A driver may grant fewer MSI vectors than the device has: then some share one, by the low bits
    /// of their numbers. [`Handle::messages`](crate::Handle::messages) says how many there are.
    ///
    /// # Errors
    /// [`IrqError::NotEnabled`] if the driver uses neither MSI nor MSI-X.
    pub fn trigger(&self) -> Result<(), IrqError> {
        let has_written = self.shared.has_written().ok_or(IrqError::NotEnabled)?;
        let may_master = self.shared.may_master();
        // Of a device that stops it waits in any case, and has to be there when that is saved.
        if has_written && !self.shared.is_stopped() {
            self.shared.irqs.check_message(self.vector, may_master)?;
            if fence::after(&self.shared, Raise::Message(self.vector)) {
                return Ok(());
            }
        }
        fence::raise_message(&self.shared, self.vector, may_master)
    }

    /// How often this interrupt is signalled at most; `None`: whenever it is raised, which is the
    /// default unless the [server says otherwise](crate::server::Builder::coalesce). What is held by
    /// the old rule is signalled.
    pub fn coalesce(&self, rule: Option<Coalescing>) {
        self.shared.irqs.coalesce(Some(self.vector), rule);
    }
}
