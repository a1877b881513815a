//! Address Translation Services, the endpoint's side (ATS 1.1, 5.1).

use super::super::registers::Registers;
use super::super::{Field, PciError, regs};
use super::extended;

/// The length of the capability in bytes.
const LEN: usize = 8;
/// ATS Capability: Page Aligned Request.
const PAGE_ALIGNED: u32 = 1 << 5;
/// ATS Capability: Global Invalidate Supported.
const GLOBAL_INVALIDATE: u32 = 1 << 6;
/// ATS Control: Smallest Translation Unit, and Enable.
const CONTROL_RW: u32 = 0x801f;

/// The description of an ATS capability, for [`Pci::ats`](super::super::Pci::ats).
///
/// It is a layout only: vfio-user has no translation requests, so what a driver sets up here is for
/// the device to read and act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ats {
    /// Invalidate requests that the function can queue, 1 to 32.
    pub invalidate_queue: u8,
    /// Page Aligned Request: the untranslated address of a request is aligned to 4096 bytes.
    pub page_aligned: bool,
    /// Global Invalidate Supported, for invalidations of all PASIDs.
    pub global_invalidate: bool,
}

/// The registers. A queue of 32 is written as 0.
pub(crate) fn registers(ats: Ats) -> Result<Registers, PciError> {
    if !(1..=32).contains(&ats.invalidate_queue) {
        return Err(PciError::AtsQueue { depth: ats.invalidate_queue });
    }
    let mut capability = u32::from(ats.invalidate_queue & 0x1f);
    if ats.page_aligned {
        capability |= PAGE_ALIGNED;
    }
    if ats.global_invalidate {
        capability |= GLOBAL_INVALIDATE;
    }
    let mut cap = extended(regs::EXT_ATS, 1, LEN);
    cap.set_field(4, 2, Field::new(capability));
    cap.set_field(6, 2, Field::new(0).rw(CONTROL_RW));
    Ok(cap)
}
