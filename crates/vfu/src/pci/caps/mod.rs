//! The capabilities that the library knows: their registers, and where they are in a space.

pub(crate) mod aer;
pub(crate) mod ats;
pub(crate) mod msi;
pub(crate) mod msix;
pub(crate) mod pasid;
pub(crate) mod pcie;
pub(crate) mod pm;
pub(crate) mod rebar;
pub(crate) mod serial;
pub(crate) mod sriov;
pub(crate) mod vsec;

use super::bar::Bars;
use super::registers::Registers;
use super::{PciError, regs};

/// A capability in the list: its id, offset and length in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) id: u16,
    pub(crate) offset: u16,
    pub(crate) len: u16,
}

/// Where the capabilities with rules of their own are. Each may be there once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    pub(crate) pm: Option<usize>,
    pub(crate) msi: Option<msi::Layout>,
    pub(crate) msix: Option<usize>,
    pub(crate) pcie: Option<usize>,
    pub(crate) aer: Option<usize>,
}

impl Known {
    /// Finds them in the lists and checks them. A capability that the author gave as raw bytes has the
    /// same rules as one of the library.
    pub(crate) fn bind(
        registers: &mut Registers,
        list: &[Placed],
        extended: &[Placed],
        bars: &Bars,
    ) -> Result<Self, PciError> {
        let mut known = Self::default();
        for cap in list {
            let (at, len) = (usize::from(cap.offset), usize::from(cap.len));
            let id = registers.u8(at);
            let again = match id {
                regs::CAP_PM => {
                    long_enough(id, len, pm::LEN)?;
                    known.pm.replace(at).is_some()
                }
                regs::CAP_MSI => {
                    long_enough(id, len, regs::MESSAGE_CONTROL + 2)?;
                    let layout = msi::Layout::of(registers, at)?;
                    long_enough(id, len, layout.len)?;
                    layout.own_rules(registers);
                    known.msi.replace(layout).is_some()
                }
                regs::CAP_MSIX => {
                    long_enough(id, len, msix::LEN)?;
                    msix::check(registers, at, bars)?;
                    known.msix.replace(at).is_some()
                }
                regs::CAP_PCIE => {
                    long_enough(id, len, regs::DEVICE_STATUS + 2)?;
                    pcie::own_rules(registers, at, len);
                    known.pcie.replace(at).is_some()
                }
                _ => false,
            };
            if again {
                return Err(PciError::CapabilityTwice { id });
            }
        }
        let aer = |cap: &&Placed| cap.id == regs::EXT_AER && usize::from(cap.len) >= aer::LEN;
        known.aer = extended.iter().find(aer).map(|cap| cap.offset.into());
        Ok(known)
    }
}

fn long_enough(id: u8, len: usize, min: usize) -> Result<(), PciError> {
    if len < min { Err(PciError::CapabilityTooShort { id, len, min }) } else { Ok(()) }
}

/// The registers of an extended capability of `len` bytes, with nothing but its header.
pub(crate) fn extended(id: u16, version: u8, len: usize) -> Registers {
    let mut cap = Registers::reserved(len);
    cap.set_u16(0, id, 0);
    cap.set_u16(2, u16::from(version), 0);
    cap
}
