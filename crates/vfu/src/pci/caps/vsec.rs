//! Vendor specific extended capabilities (PCIe 7.9.5).

use super::super::registers::Registers;
use super::super::{PciError, RawCapability, regs};
use super::extended;

/// The bytes ahead of the vendor's own: the header, and the vendor's header.
const HEADER: usize = 8;

/// The registers. The length in the vendor's header is filled in.
pub(crate) fn registers(id: u16, revision: u8, raw: &RawCapability) -> Result<Registers, PciError> {
    let len = HEADER + raw.body.len();
    if revision > 0xf {
        return Err(PciError::VendorRevision { vsec: id, revision });
    }
    if len > 0xfff {
        return Err(PciError::ExtendedRoom { id: regs::EXT_VENDOR, len, left: 0xf00 });
    }
    let mut cap = extended(regs::EXT_VENDOR, 1, len);
    cap.set_u32(4, u32::from(id) | u32::from(revision) << 16 | (len as u32) << 20, 0);
    cap.set_raw(HEADER, raw);
    Ok(cap)
}
