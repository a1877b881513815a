//! PCI Power Management (PM 3.2).

use super::super::registers::Registers;
use super::super::{Field, PciError, regs};

/// The length of the capability in bytes.
pub(crate) const LEN: usize = 8;

/// The power state of a function (PM 5), as in the PowerState field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PowerState {
    /// On.
    #[default]
    D0,
    /// Light sleep; optional.
    D1,
    /// Deeper sleep; optional.
    D2,
    /// Off with power applied: configuration space answers, nothing else does, and the function
    /// issues no requests and no interrupts.
    D3Hot,
}

impl PowerState {
    /// The state in the low two bits of PMCSR.
    pub(crate) fn from_bits(pmcsr: u8) -> Self {
        match pmcsr & STATE {
            0 => Self::D0,
            1 => Self::D1,
            2 => Self::D2,
            _ => Self::D3Hot,
        }
    }
}

/// The description of a Power Management capability, for [`Pci::pm_with`](super::super::Pci::pm_with).
/// The default has D0 and D3hot only, no PME#, and registers that survive D3hot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pm {
    /// D1_Support: software may choose [`PowerState::D1`].
    pub d1: bool,
    /// D2_Support: software may choose [`PowerState::D2`].
    pub d2: bool,
    /// PME_Support: the states from which the function can assert PME#; bit 0 is D0, 1 D1, 2 D2, 3
    /// D3hot and 4 D3cold. With any of them there are PME_En and PME_Status: the device sets the
    /// latter with [`ConfigSpace::raise`](super::super::ConfigSpace::raise).
    pub pme_support: u8,
    /// No_Soft_Reset: registers keep their values from D3hot to D0. Without it that step is a reset;
    /// see [`Effects::soft_reset`](super::super::Effects::soft_reset).
    pub no_soft_reset: bool,
}

impl Default for Pm {
    fn default() -> Self {
        Self { d1: false, d2: false, pme_support: 0, no_soft_reset: true }
    }
}

/// PMCSR: PowerState.
const STATE: u8 = 0b11;
/// PMCSR: No_Soft_Reset, registers keep their values from D3hot to D0.
const NO_SOFT_RESET: u16 = 1 << 3;
/// PMCSR: PME_En.
const PME_ENABLE: u32 = 1 << 8;
/// PMC: version of the specification, 3 for revision 1.2.
const VERSION: u16 = 3;
/// PMC: D1_Support.
const D1_SUPPORT: u16 = 1 << 9;
/// PMC: D2_Support.
const D2_SUPPORT: u16 = 1 << 10;
/// PMC: the lowest bit of PME_Support.
const PME_SUPPORT: u32 = 11;

/// The registers. Data and Data_Scale are not implemented and read 0.
pub(crate) fn registers(pm: Pm) -> Result<Registers, PciError> {
    let missing = u8::from(!pm.d1) << 1 | u8::from(!pm.d2) << 2 | 0b1110_0000;
    if pm.pme_support & missing != 0 {
        return Err(PciError::PmeState { pme_support: pm.pme_support });
    }
    let mut capabilities = VERSION | u16::from(pm.pme_support) << PME_SUPPORT;
    let mut control = Field::new(0).rw(u32::from(STATE));
    if pm.d1 {
        capabilities |= D1_SUPPORT;
    }
    if pm.d2 {
        capabilities |= D2_SUPPORT;
    }
    if pm.no_soft_reset {
        control.reset |= u32::from(NO_SOFT_RESET);
    }
    if pm.pme_support != 0 {
        let status = u32::from(regs::PM_CONTROL_PME_STATUS);
        control = control.rw(u32::from(STATE) | PME_ENABLE).rw1c(status);
        control = control.sticky(PME_ENABLE | status);
    }
    let mut cap = Registers::reserved(LEN);
    cap.set_u8(0, regs::CAP_PM, 0);
    cap.set_u16(regs::PM_CAPABILITIES, capabilities, 0);
    cap.set_field(regs::PM_CONTROL, 2, control);
    Ok(cap)
}

/// Whether the step from one state to another resets the function (PM 5.4.1), by the low byte of
/// PMCSR.
pub(crate) fn is_soft_reset(from: PowerState, to: PowerState, pmcsr: u8) -> bool {
    from == PowerState::D3Hot && to == PowerState::D0 && u16::from(pmcsr) & NO_SOFT_RESET == 0
}

/// The low byte of PMCSR after a write turned `old` into `new`: a state that PMC does not offer is
/// discarded, the rest of the write is not (PM 3.2.4).
pub(crate) fn settle(capabilities: u16, old: u8, new: u8) -> u8 {
    let offered = match PowerState::from_bits(new) {
        PowerState::D0 | PowerState::D3Hot => true,
        PowerState::D1 => capabilities & D1_SUPPORT != 0,
        PowerState::D2 => capabilities & D2_SUPPORT != 0,
    };
    if offered { new } else { new & !STATE | old & STATE }
}
