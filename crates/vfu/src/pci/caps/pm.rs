//! PCI Power Management (PM 3.2).

use super::super::registers::Registers;
use super::super::regs;

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

/// PMCSR: PowerState.
const STATE: u8 = 0b11;
/// PMCSR: No_Soft_Reset, registers keep their values from D3hot to D0.
const NO_SOFT_RESET: u16 = 1 << 3;
/// PMC: version of the specification, 3 for revision 1.2.
const VERSION: u16 = 3;
/// PMC: D1_Support.
const D1_SUPPORT: u16 = 1 << 9;
/// PMC: D2_Support.
const D2_SUPPORT: u16 = 1 << 10;

/// The registers: D0 and D3hot only, no PME#.
pub(crate) fn registers() -> Registers {
    let mut cap = Registers::reserved(LEN);
    cap.set_u8(0, regs::CAP_PM, 0);
    cap.set_u16(regs::PM_CAPABILITIES, VERSION, 0);
    cap.set_u16(regs::PM_CONTROL, NO_SOFT_RESET, u16::from(STATE));
    cap
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
