//! Base Address Registers (PCI 6.2.5.1).

use super::caps::rebar::{self, Sizes};
use super::registers::Registers;
use super::{BARS, PciError, regs};

/// What a BAR decodes, and how wide its address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BarKind {
    /// I/O space.
    Io,
    /// Memory space, anywhere below 4 GiB.
    Mem32,
    /// Memory space, anywhere; takes two registers.
    Mem64,
}

impl BarKind {
    /// The smallest size in bytes.
    pub const fn min_size(self) -> u64 {
        match self {
            Self::Io => 4,
            Self::Mem32 | Self::Mem64 => 16,
        }
    }

    /// The largest size in bytes. PCI 6.2.5.1 keeps I/O BARs to 256 bytes for PC compatibility; up
    /// to all of a 64 KiB I/O space is accepted here.
    pub const fn max_size(self) -> u64 {
        match self {
            Self::Io => 64 << 10,
            Self::Mem32 => 2 << 30,
            Self::Mem64 => 1 << 63,
        }
    }
}

impl std::fmt::Display for BarKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Io => "I/O",
            Self::Mem32 => "32-bit memory",
            Self::Mem64 => "64-bit memory",
        })
    }
}

/// The description of a BAR, for [`Pci::bar`](super::Pci::bar). It is checked by
/// [`Pci::build`](super::Pci::build).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    pub(crate) kind: BarKind,
    pub(crate) size: u64,
    pub(crate) prefetchable: bool,
}

impl Bar {
    /// A memory BAR with a 32-bit address; `size` in bytes, a power of two from 16 to 2 GiB.
    pub const fn mem32(size: u64) -> Self {
        Self { kind: BarKind::Mem32, size, prefetchable: false }
    }

    /// A memory BAR with a 64-bit address; `size` in bytes, a power of two from 16. It takes the
    /// next index too.
    pub const fn mem64(size: u64) -> Self {
        Self { kind: BarKind::Mem64, size, prefetchable: false }
    }

    /// An I/O BAR; `size` in bytes, a power of two from 4 to 64 KiB. PCs want 256 at most.
    pub const fn io(size: u64) -> Self {
        Self { kind: BarKind::Io, size, prefetchable: false }
    }

    /// Marks memory as prefetchable: reads have no side effects and writes may be merged.
    pub const fn prefetchable(mut self) -> Self {
        self.prefetchable = true;
        self
    }

    fn check(self, index: usize) -> Result<(), PciError> {
        let Self { kind, size, .. } = self;
        let (min, max) = (kind.min_size(), kind.max_size());
        if size < min {
            return Err(PciError::BarTooSmall { index, kind, size, min });
        }
        if size > max {
            return Err(PciError::BarTooLarge { index, kind, size, max });
        }
        if !size.is_power_of_two() {
            // `max` is a power of two, so the next one exists and is allowed.
            return Err(PciError::BarNotPowerOfTwo { index, size, next: size.next_power_of_two() });
        }
        if kind == BarKind::Io && self.prefetchable {
            return Err(PciError::BarPrefetchableIo { index });
        }
        Ok(())
    }

    /// The bits below the address: space and type.
    fn type_bits(self) -> u32 {
        match self.kind {
            BarKind::Io => 0b01,
            BarKind::Mem32 => u32::from(self.prefetchable) << 3,
            BarKind::Mem64 => 0b100 | u32::from(self.prefetchable) << 3,
        }
    }
}

/// A BAR as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarInfo {
    /// What it decodes.
    pub kind: BarKind,
    /// Whether it is prefetchable memory.
    pub prefetchable: bool,
    /// Its size in bytes.
    pub size: u64,
    /// The address programmed now. It counts only while the Command register enables the space, and
    /// is no address at all while software is sizing the BAR.
    pub address: u64,
}

/// How a BAR is resized: the byte of Resizable BAR Control that has its size (an offset in the
/// capability until that is placed), and the sizes there are.
#[derive(Clone, Copy, Debug)]
struct Resizable {
    control: usize,
    sizes: Sizes,
}

/// The six BARs of a function, checked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bars {
    bars: [Option<Bar>; BARS],
    resizable: [Option<Resizable>; BARS],
}

impl Bars {
    /// Checks each BAR and that no two claim the same register.
    pub(crate) fn new(asked: &[(usize, Bar)]) -> Result<Self, PciError> {
        let mut bars = Self::default();
        for &(index, bar) in asked {
            let Some(slot) = bars.bars.get_mut(index) else {
                return Err(PciError::BarIndex { index });
            };
            if slot.replace(bar).is_some() {
                return Err(PciError::BarTwice { index });
            }
            bar.check(index)?;
            if bar.kind == BarKind::Mem64 && index == BARS - 1 {
                return Err(PciError::BarNoUpperHalf { index });
            }
        }
        for index in 1..BARS {
            if bars.is_upper_half(index) && bars.get(index).is_some() {
                return Err(PciError::BarOverlap { lower: index - 1, index });
            }
        }
        Ok(bars)
    }

    pub(crate) fn get(&self, index: usize) -> Option<Bar> {
        self.bars.get(index).copied().flatten()
    }

    fn is_upper_half(&self, index: usize) -> bool {
        index.checked_sub(1).and_then(|i| self.get(i)).is_some_and(|b| b.kind == BarKind::Mem64)
    }

    /// Puts a checked `bar` into the lowest free register and returns its index.
    pub(crate) fn add(&mut self, bar: Bar) -> Option<usize> {
        let index = (0..BARS).find(|&i| self.get(i).is_none() && !self.is_upper_half(i))?;
        self.bars[index] = Some(bar);
        Some(index)
    }

    pub(crate) fn any(&self, io: bool) -> bool {
        self.bars.iter().flatten().any(|bar| (bar.kind == BarKind::Io) == io)
    }

    /// Defines the registers: address bits below the size are read-only 0, so writing all ones
    /// reads back the size (PCI 6.2.5.1, implementation note "Sizing a 32 bit Base Address
    /// Register").
    pub(crate) fn define(&self, registers: &mut Registers) {
        self.define_at(registers, regs::BAR0);
    }

    /// The same for BARs that begin elsewhere, as those of virtual functions do.
    pub(crate) fn define_at(&self, registers: &mut Registers, start: usize) {
        for (index, bar) in self.bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let at = start + 4 * index;
            let mask = !(bar.size - 1);
            registers.set_u32(at, bar.type_bits(), mask as u32);
            if bar.kind == BarKind::Mem64 {
                registers.set_u32(at + 4, 0, (mask >> 32) as u32);
            }
        }
    }

    pub(crate) fn info(&self, registers: &Registers, index: usize) -> Option<BarInfo> {
        let bar = self.get(index)?;
        let at = regs::BAR0 + 4 * index;
        let low = u64::from(registers.u32(at));
        let address = match bar.kind {
            BarKind::Io => low & !0x3,
            BarKind::Mem32 => low & !0xf,
            BarKind::Mem64 => low & !0xf | u64::from(registers.u32(at + 4)) << 32,
        };
        let size = self.size(registers, index)?;
        Some(BarInfo { kind: bar.kind, prefetchable: bar.prefetchable, size, address })
    }

    /// The size in bytes now.
    fn size(&self, registers: &Registers, index: usize) -> Option<u64> {
        Some(match self.resizable.get(index).copied().flatten() {
            Some(how) => Sizes::bytes(registers.u8(how.control) & rebar::SIZE),
            None => self.get(index)?.size,
        })
    }

    /// The smallest size in bytes that the BAR can have.
    pub(crate) fn min_size(&self, index: usize) -> Option<u64> {
        let how = self.resizable.get(index).copied().flatten();
        how.map(|how| how.sizes.min()).or_else(|| Some(self.get(index)?.size))
    }

    /// Notes that the size of BAR `index` is set by the byte at `control`.
    pub(crate) fn make_resizable(&mut self, index: usize, control: usize, sizes: Sizes) {
        if let Some(slot) = self.resizable.get_mut(index) {
            *slot = Some(Resizable { control, sizes });
        }
    }

    /// The Resizable BAR capability is at `at`.
    pub(crate) fn place_size_controls(&mut self, at: usize) {
        for how in self.resizable.iter_mut().flatten() {
            how.control += at;
        }
    }

    /// The BARs that can be resized: index, and offset of the byte that does it.
    pub(crate) fn size_controls(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let controls = self.resizable.map(|how| how.map(|how| how.control));
        controls.into_iter().enumerate().filter_map(|(index, control)| Some((index, control?)))
    }

    /// The byte of Resizable BAR Control at `at` after a write turned `old` into `new`: a size that
    /// is not supported is discarded (PCIe 7.8.6.3 leaves it undefined). None if no such byte is
    /// there.
    pub(crate) fn settle_size(&self, at: usize, old: u8, new: u8) -> Option<u8> {
        let how = self.resizable.iter().flatten().find(|how| how.control == at)?;
        let supported = how.sizes.has(new & rebar::SIZE);
        Some(if supported { new } else { new & !rebar::SIZE | old & rebar::SIZE })
    }

    /// Gives the registers of BAR `index` the address bits of its size now.
    pub(crate) fn apply_size(&self, registers: &mut Registers, index: usize) {
        let (Some(bar), Some(size)) = (self.get(index), self.size(registers, index)) else {
            return;
        };
        let len = if bar.kind == BarKind::Mem64 { 8 } else { 4 };
        let mask = !(size.wrapping_sub(1));
        for (i, mask) in mask.to_le_bytes().into_iter().enumerate().take(len) {
            registers.remask(regs::BAR0 + 4 * index + i, mask);
        }
    }
}
