//! Interrupts: what a device raises, and what the client does with it.

mod eventfd;
mod fence;
mod moving;
mod table;

use std::sync::Arc;

use crate::shared::Shared;
use fence::Raise;

pub(crate) use eventfd::EventFd;
pub(crate) use table::Irqs;

/// The interrupt types of a PCI device; the numbers are VFIO's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum IrqIndex {
    /// The interrupt pin, level triggered.
    Intx = 0,
    /// Message signalled interrupts.
    Msi = 1,
    /// MSI-X.
    Msix = 2,
    /// The device reports an error that it can't recover from.
    Err = 3,
    /// The device asks the client to let it go.
    Req = 4,
}

impl IrqIndex {
    /// All of them, in VFIO's order.
    pub const ALL: [IrqIndex; 5] =
        [IrqIndex::Intx, IrqIndex::Msi, IrqIndex::Msix, IrqIndex::Err, IrqIndex::Req];

    /// The type with this number.
    pub fn from_u32(index: u32) -> Option<IrqIndex> {
        IrqIndex::ALL.get(usize::try_from(index).ok()?).copied()
    }
}

/// Why an interrupt was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IrqError {
    /// The device has no such vector.
    #[error("the device has no vector {vector}; it has {count}")]
    NoSuchVector {
        /// The vector that was asked for.
        vector: u32,
        /// How many there are.
        count: u32,
    },
    /// The driver has not enabled this kind of interrupt, or not this vector.
    #[error("the driver has not enabled this interrupt")]
    NotEnabled,
    /// The driver has not set Bus Master Enable, without which no message leaves the device; nor does
    /// one unless the function is in D0.
    #[error(
        "the driver has not enabled bus mastering (Command register, bit 2), or has put the device \
         to sleep"
    )]
    BusMasterDisabled,
    /// The client's event file descriptor does not take it.
    #[error("the client's eventfd failed")]
    Eventfd,
}

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
        self.shared.irqs.message_index().is_some()
    }

    /// Raises the interrupt. Never blocks, and never overtakes the data that it announces: if
    /// DMA_WRITEs of the device are under way, it is raised when the client has acknowledged them.
    /// While the vector is masked the interrupt is kept, once,
    /// and raised when it is unmasked.
    ///
    /// # Errors
    /// [`IrqError::NotEnabled`] if the driver uses neither MSI nor MSI-X, or not this vector.
    pub fn trigger(&self) -> Result<(), IrqError> {
        let index = self.shared.irqs.message_index().ok_or(IrqError::NotEnabled)?;
        if !self.shared.may_master() {
            return Err(IrqError::BusMasterDisabled);
        }
        // Of a device that stops it waits in any case, and has to be there when that is saved.
        if !self.shared.is_stopped()
            && fence::after_writes(&self.shared, Raise::Vector(index, self.vector))
        {
            return Ok(());
        }
        self.shared.irqs.trigger(index, self.vector)
    }
}

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
    /// unmasks the interrupt and the pin is still up. Never blocks.
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
        if up && !self.shared.is_stopped() && fence::after_writes(&self.shared, Raise::Pin) {
            return;
        }
        self.shared.irqs.follow_pin(up, |up| self.shared.config().set_interrupt_status(up));
    }
}
