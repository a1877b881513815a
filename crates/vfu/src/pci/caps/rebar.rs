//! Resizable BARs (PCIe 7.8.6): the sizes of a BAR that software may choose from.

use super::super::bar::{BarKind, Bars};
use super::super::registers::Registers;
use super::super::{BARS, Field, PciError, regs};
use super::extended;

/// The smallest size in bytes, which a size field of 0 stands for.
const UNIT: u64 = 1 << 20;
/// The largest size of which each such BAR has this or a smaller one, as a power of two of [`UNIT`]
/// (512 GiB).
const COMMON: u32 = 19;
/// Sizes up to this one have a bit in Resizable BAR Capability, the others in Control.
const LAST_IN_CAPABILITY: u32 = 27;
/// The BAR Size field in the second byte of Resizable BAR Control.
pub(crate) const SIZE: u8 = 0x3f;

/// The sizes that a BAR can have: bit n stands for 2^n MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes(u64);

impl Sizes {
    fn new(index: usize, asked: &[u64], kind: BarKind) -> Result<Self, PciError> {
        let mut sizes = 0;
        for &size in asked {
            if !size.is_power_of_two() || size < UNIT || size > kind.max_size() {
                return Err(PciError::ResizableSize { index, size, kind, max: kind.max_size() });
            }
            sizes |= size / UNIT;
        }
        Ok(Self(sizes))
    }

    /// Whether the value of a size field is one of them.
    pub(crate) fn has(self, field: u8) -> bool {
        self.0.checked_shr(field.into()).is_some_and(|sizes| sizes & 1 != 0)
    }

    /// The size in bytes that a size field stands for. It must be one of them.
    pub(crate) fn bytes(field: u8) -> u64 {
        UNIT.checked_shl(field.into()).unwrap_or(0)
    }

    /// The smallest of them in bytes.
    pub(crate) fn min(self) -> u64 {
        (self.0 & self.0.wrapping_neg()) * UNIT
    }
}

/// The registers, for all such BARs in the order of their indices. What was described as the BAR's
/// size is the size after power-on.
pub(crate) fn registers(
    asked: &[(usize, Vec<u64>)],
    bars: &mut Bars,
) -> Result<Registers, PciError> {
    let mut found: [Option<Sizes>; BARS] = [None; BARS];
    for (index, sizes) in asked {
        let index = *index;
        let bar = bars.get(index).ok_or(PciError::ResizableNoBar { index })?;
        if bar.kind == BarKind::Io {
            return Err(PciError::ResizableIo { index });
        }
        let sizes = Sizes::new(index, sizes, bar.kind)?;
        if bar.size < UNIT || sizes.0 & (bar.size / UNIT) == 0 {
            return Err(PciError::ResizableDefault { index, size: bar.size });
        }
        if sizes.0.trailing_zeros() > COMMON {
            return Err(PciError::ResizableTooLarge { index, max: UNIT << COMMON });
        }
        if found.get_mut(index).and_then(|slot| slot.replace(sizes)).is_some() {
            return Err(PciError::ResizableTwice { index });
        }
    }
    let mut cap = extended(regs::EXT_REBAR, 1, 4 + 8 * asked.len());
    let all = found.iter().enumerate().filter_map(|(index, sizes)| Some((index, (*sizes)?)));
    for (place, (index, sizes)) in all.enumerate() {
        let size = bars.get(index).map_or(0, |bar| (bar.size / UNIT).trailing_zeros());
        let low = (sizes.0 << 4) as u32;
        let high = (sizes.0 >> (LAST_IN_CAPABILITY + 1)) as u32;
        // Only the first control register says how many there are.
        let count = if place == 0 { asked.len() as u32 } else { 0 };
        let control = index as u32 | count << 5 | size << 8 | high << 16;
        cap.set_u32(regs::REBAR_CAPABILITY + 8 * place, low, 0);
        let at = regs::REBAR_CONTROL + 8 * place;
        cap.set_field(at, 4, Field::new(control).rw(u32::from(SIZE) << 8));
        bars.make_resizable(index, at + 1, sizes);
    }
    Ok(cap)
}
