//! What configuration space has to say about interrupts.

use super::IrqIndex;
use crate::pci::{MsiState, MsixState};

/// What holds interrupts back, as configuration space has it now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gates {
    /// Messages may leave the device: it may master the bus, or nobody asks whether it may.
    pub(crate) master: bool,
    /// Interrupt Disable of the Command register.
    pub(crate) pin_disabled: bool,
    pub(crate) msi: Option<MsiState>,
    pub(crate) msix: Option<MsixState>,
}

impl Gates {
    /// MSI Enable or MSI-X Enable.
    pub(super) fn enabled(&self, index: IrqIndex) -> bool {
        match index {
            IrqIndex::Msi => self.msi.is_some_and(|msi| msi.enabled),
            IrqIndex::Msix => self.msix.is_some_and(|msix| msix.enabled),
            IrqIndex::Intx | IrqIndex::Err | IrqIndex::Req => false,
        }
    }

    /// A function that sends messages must not use its pin (PCI 6.8.1.3, 6.8.2.3).
    pub(super) fn hold_pin(&self) -> bool {
        self.pin_disabled || self.enabled(IrqIndex::Msi) || self.enabled(IrqIndex::Msix)
    }

    /// The Mask Bit of an MSI vector, or the Function Mask, which masks every vector of MSI-X.
    pub(super) fn mask(&self, index: IrqIndex, vector: usize) -> bool {
        match index {
            IrqIndex::Msi => self.msi.is_some_and(|msi| msi.masked >> (vector % 32) & 1 != 0),
            IrqIndex::Msix => self.msix.is_some_and(|msix| msix.enabled && msix.function_mask),
            IrqIndex::Intx | IrqIndex::Err | IrqIndex::Req => false,
        }
    }
}
