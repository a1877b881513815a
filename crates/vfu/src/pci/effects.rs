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
    /// The size of a BAR, by its Resizable BAR Control. `bars_changed` comes with it, and the BAR has
    /// no useful address until software writes one.
    pub bar_sizes_changed: bool,
    /// The Expansion ROM Base Address register: the address or Expansion ROM Enable.
    pub rom_changed: bool,
    /// Command, Interrupt Disable.
    pub intx_disable_changed: bool,
    /// Any writable register of the MSI capability: enable, vector count, address, data or mask.
    pub msi_changed: bool,
    /// MSI-X Enable or Function Mask.
    pub msix_changed: bool,
    /// The power state before and after.
    pub power_state: Option<(PowerState, PowerState)>,
    /// The function left D3hot for D0 and its No_Soft_Reset is clear: its registers do not survive
    /// that (PM 5.4.1). As with `flr`, finish or abort what is in flight, then call
    /// [`reset_function`](super::ConfigSpace::reset_function).
    pub soft_reset: bool,
    /// Initiate Function Level Reset was written. The space is still as it was: finish or abort
    /// what is in flight, then call [`reset_function`](super::ConfigSpace::reset_function).
    pub flr: bool,
}

impl Effects {
    /// Whether nothing happened that anybody has to look at.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
