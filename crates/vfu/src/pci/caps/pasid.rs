//! Process Address Space ID (PCIe 7.8.8).

use super::super::registers::Registers;
use super::super::{Field, PciError, regs};
use super::extended;

/// The length of the capability in bytes.
const LEN: usize = 8;
/// PASID Capability and PASID Control: execute permission.
const EXECUTE: u32 = 1 << 1;
/// PASID Capability and PASID Control: privileged mode.
const PRIVILEGED: u32 = 1 << 2;
/// PASID Control: PASID Enable.
const ENABLE: u32 = 1 << 0;

/// The description of a PASID capability, for [`Pci::pasid`](super::super::Pci::pasid). As with
/// [`Ats`](super::super::Ats), it is a layout only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pasid {
    /// Max PASID Width: the function can use PASIDs of so many bits, 0 to 20.
    pub width: u8,
    /// Execute Permission Supported.
    pub execute: bool,
    /// Privileged Mode Supported.
    pub privileged: bool,
}

/// The registers. What is not supported can't be enabled.
pub(crate) fn registers(pasid: Pasid) -> Result<Registers, PciError> {
    if pasid.width > 20 {
        return Err(PciError::PasidWidth { width: pasid.width });
    }
    let mut modes = 0;
    if pasid.execute {
        modes |= EXECUTE;
    }
    if pasid.privileged {
        modes |= PRIVILEGED;
    }
    let mut cap = extended(regs::EXT_PASID, 1, LEN);
    cap.set_field(4, 2, Field::new(modes | u32::from(pasid.width) << 8));
    cap.set_field(6, 2, Field::new(0).rw(modes | ENABLE));
    Ok(cap)
}
