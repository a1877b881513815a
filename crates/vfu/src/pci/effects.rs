//! What a write to configuration space did.

use super::PowerState;

/// What changed by one [`write`](super::ConfigSpace::write). A flag is set only if the value
/// changed, so a write that repeats what is there has no effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a write may have moved a BAR, masked an interrupt or asked for a reset"]
pub struct Effects {
    /// Command, Bus Master Enable.
    pub bus_master_changed: bool,
    /// Command, Memory Space Enable or I/O Space Enable.
    pub decode_changed: bool,
    /// A Base Address Register. Sizing a BAR (all ones, then the address) sets it too.
    pub bars_changed: bool,
    /// Command, Interrupt Disable.
    pub intx_disable_changed: bool,
    /// Any writable register of the MSI capability: enable, vector count, address, data or mask.
    pub msi_changed: bool,
    /// MSI-X Enable or Function Mask.
    pub msix_changed: bool,
    /// The power state before and after. Registers survive D3hot (No_Soft_Reset is set), unless the
    /// author gave a raw capability that says otherwise: then from D3hot to D0 the owner resets.
    pub power_state: Option<(PowerState, PowerState)>,
    /// Initiate Function Level Reset was written. The space is still as it was: finish or abort
    /// what is in flight, then call [`reset`](super::ConfigSpace::reset).
    pub flr: bool,
}

impl Effects {
    /// Whether nothing happened that anybody has to look at.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
