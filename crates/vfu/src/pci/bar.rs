//! Base Address Registers (PCI 6.2.5.1).

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

/// The six BARs of a function, checked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bars([Option<Bar>; BARS]);

impl Bars {
    /// Checks each BAR and that no two claim the same register.
    pub(crate) fn new(asked: &[(usize, Bar)]) -> Result<Self, PciError> {
        let mut bars = Self::default();
        for &(index, bar) in asked {
            let Some(slot) = bars.0.get_mut(index) else {
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
        self.0.get(index).copied().flatten()
    }

    fn is_upper_half(&self, index: usize) -> bool {
        index.checked_sub(1).and_then(|i| self.get(i)).is_some_and(|b| b.kind == BarKind::Mem64)
    }

    /// Puts a checked `bar` into the lowest free register and returns its index.
    pub(crate) fn add(&mut self, bar: Bar) -> Option<usize> {
        let index = (0..BARS).find(|&i| self.get(i).is_none() && !self.is_upper_half(i))?;
        self.0[index] = Some(bar);
        Some(index)
    }

    pub(crate) fn any(&self, io: bool) -> bool {
        self.0.iter().flatten().any(|bar| (bar.kind == BarKind::Io) == io)
    }

    /// Defines the registers: address bits below the size are read-only 0, so writing all ones
    /// reads back the size (PCI 6.2.5.1, implementation note "Sizing a 32 bit Base Address
    /// Register").
    pub(crate) fn define(&self, registers: &mut Registers) {
        for (index, bar) in self.0.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let at = regs::BAR0 + 4 * index;
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
        Some(BarInfo { kind: bar.kind, prefetchable: bar.prefetchable, size: bar.size, address })
    }
}
