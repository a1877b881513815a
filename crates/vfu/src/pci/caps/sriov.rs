//! Single Root I/O Virtualization (SR-IOV 1.1, 3.3).

use super::super::bar::{Bar, BarKind, Bars};
use super::super::registers::Registers;
use super::super::{Field, PciError, regs};
use super::extended;

/// The length of the capability in bytes.
const LEN: usize = 0x40;
/// SR-IOV Control: VF Enable, VF MSE, ARI Capable Hierarchy. VF migration is not supported.
const CONTROL_RW: u32 = 1 << 0 | 1 << 3 | 1 << 4;
/// Supported Page Sizes that every function must have: 4 KiB, 8 KiB, 64 KiB, 256 KiB, 1 MiB, 4 MiB.
const PAGE_SIZES: u32 = 0x553;
/// The smallest VF BAR in bytes, which is the smallest page.
const MIN_BAR: u64 = 4096;

/// The description of an SR-IOV capability, for [`Pci::sriov`](super::super::Pci::sriov).
///
/// It is a layout only: the registers read and write as they should, and no virtual function
/// appears. A vfio-user socket is one function, so each VF would be a server of its own; and QEMU
/// hides this capability from its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Sriov {
    total: u16,
    device: u16,
    first_offset: u16,
    stride: u16,
    bars: Vec<(usize, Bar)>,
}

impl Sriov {
    /// `total` virtual functions (InitialVFs and TotalVFs) with the Device ID `device`, the first one
    /// right behind this function and the others behind it. Supported Page Sizes are the six that
    /// the specification demands.
    pub const fn new(total: u16, device: u16) -> Self {
        Self { total, device, first_offset: 1, stride: 1, bars: Vec::new() }
    }

    /// First VF Offset and VF Stride: the distance in routing ids from this function to the first VF,
    /// and from each to the next.
    pub const fn routing(mut self, first_offset: u16, stride: u16) -> Self {
        self.first_offset = first_offset;
        self.stride = stride;
        self
    }

    /// Adds VF BAR `index`, 0 to 5, of which each VF has one: memory, 4096 bytes or more.
    pub fn bar(mut self, index: usize, bar: Bar) -> Self {
        self.bars.push((index, bar));
        self
    }
}

/// The registers. NumVFs and System Page Size take what is written: software must not change them
/// while VF Enable is set (SR-IOV 3.3.7, 3.3.13), which is for the device to look after.
pub(crate) fn registers(sriov: &Sriov) -> Result<Registers, PciError> {
    let Sriov { total, device, first_offset, stride, ref bars } = *sriov;
    if total == 0 {
        return Err(PciError::SriovNoVfs);
    }
    let last = u32::from(first_offset) + u32::from(stride) * (u32::from(total) - 1);
    if first_offset == 0 || (stride == 0 && total > 1) || last > 0xffff {
        return Err(PciError::SriovRouting { total, first_offset, stride });
    }
    let vf_bar = |error| PciError::VfBar(Box::new(error));
    for &(index, bar) in bars {
        let Bar { kind, size, .. } = bar;
        if kind == BarKind::Io {
            return Err(PciError::VfBarIo { index });
        }
        if size < MIN_BAR {
            return Err(vf_bar(PciError::BarTooSmall { index, kind, size, min: MIN_BAR }));
        }
    }
    let bars = Bars::new(bars).map_err(vf_bar)?;
    let mut cap = extended(regs::EXT_SRIOV, 1, LEN);
    cap.set_field(0x08, 2, Field::new(0).rw(CONTROL_RW));
    cap.set_u16(0x0c, total, 0);
    cap.set_u16(0x0e, total, 0);
    cap.set_u16(0x10, 0, 0xffff);
    cap.set_u16(0x14, first_offset, 0);
    cap.set_u16(0x16, stride, 0);
    cap.set_u16(0x1a, device, 0);
    cap.set_u32(0x1c, PAGE_SIZES, 0);
    cap.set_u32(0x20, 1, PAGE_SIZES);
    bars.define_at(&mut cap, 0x24);
    Ok(cap)
}
