//! Memory for DMA: a page, and the address that a device without an IOMMU knows it by.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::Result;
use crate::sys::{PAGE, Page};

/// The guest-physical address of `page`, from `/proc/self/pagemap` (root only).
///
/// Locked memory may still be moved by the kernel now and then, so ask again before each DMA.
pub(crate) fn physical(page: &Page) -> Result<u64> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;

    let mut entry = [0; 8];
    let at = page.address() / PAGE * 8;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, at as u64)?;
    let entry = u64::from_le_bytes(entry);
    if entry & PRESENT == 0 || entry & FRAME == 0 {
        return Err(format!("pagemap gives no frame for the page: {entry:#x}").into());
    }
    Ok((entry & FRAME) * PAGE as u64)
}

/// A page of bytes that differ from place to place and from round to round.
pub(crate) fn pattern(round: u32) -> [u8; PAGE] {
    // An LCG: no two rounds and no two 256-byte rows alike, so a shifted copy cannot pass.
    let mut state = round.wrapping_mul(0x9e37_79b9).wrapping_add(1);
    std::array::from_fn(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
}
