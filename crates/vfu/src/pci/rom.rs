//! The expansion ROM (PCI 6.2.5.2 and 6.3).

use std::sync::Arc;

use super::registers::Registers;
use super::{PciError, regs};

/// The smallest ROM BAR in bytes: its register has address bits from 11 up.
const MIN: usize = 2 << 10;
/// The largest one (PCI 6.2.5.2).
const MAX: usize = 16 << 20;
/// The first two bytes of an image that firmware accepts (PCI 6.3.1.1).
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// What reads give behind the image, as erased flash does.
const ERASED: u8 = 0xff;

/// The ROM BAR as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RomInfo {
    /// Its size in bytes, a power of two from 2 KiB to 16 MiB.
    pub size: u64,
    /// The length of the image in bytes.
    pub image_len: u64,
    /// The address programmed now. It counts only while [`enabled`](Self::enabled) and Memory Space
    /// Enable are set.
    pub address: u32,
    /// Expansion ROM Enable, bit 0 of the register.
    pub enabled: bool,
    /// Whether the image begins with 0x55 0xaa. Firmware ignores one that does not.
    pub has_signature: bool,
}

/// How long a ROM says that it is, in bytes: the sum of its images' lengths (PCI 6.3.1.2), or the
/// length in the header of x86's expansion ROMs. `None`: it says nothing.
fn claimed_len(rom: &[u8]) -> Option<usize> {
    const UNIT: usize = 512;
    const DATA_POINTER: usize = 0x18;
    const DATA_SIGNATURE: [u8; 4] = *b"PCIR";
    let mut start: usize = 0;
    loop {
        let image = rom.get(start..)?;
        if !image.starts_with(&SIGNATURE) {
            return (start > 0).then_some(start);
        }
        let u16_at = |at: usize| {
            let bytes = image.get(at..at.checked_add(2)?)?;
            Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
        };
        let data = u16_at(DATA_POINTER)
            .filter(|at| image.get(*at..).is_some_and(|data| data.starts_with(&DATA_SIGNATURE)));
        let Some(data) = data else {
            let units = usize::from(*image.get(2)?);
            return (units > 0).then_some(start + units * UNIT);
        };
        let (units, indicator) = (u16_at(data + 0x10)?, *image.get(data + 0x15)?);
        // At most as many rounds as the image has units: each moves on.
        start = start.checked_add(units * UNIT)?;
        if indicator & 0x80 != 0 || units == 0 || start >= rom.len() {
            return (start > 0).then_some(start);
        }
    }
}

/// An image, and the size of the BAR that shows it. Clones share the image.
#[derive(Clone)]
pub(crate) struct Rom {
    image: Arc<[u8]>,
    size: u32,
}

impl Rom {
    pub(crate) fn new(image: &Arc<[u8]>) -> Result<Self, PciError> {
        let len = image.len();
        if len == 0 {
            return Err(PciError::RomEmpty);
        }
        if len > MAX {
            return Err(PciError::RomTooLarge { len, max: MAX });
        }
        if let Some(claimed) = claimed_len(image).filter(|claimed| *claimed > len) {
            return Err(PciError::RomCutShort { len, claimed });
        }
        let size = len.max(MIN).next_power_of_two() as u32;
        Ok(Self { image: image.clone(), size })
    }

    /// Defines the register: the address, and Expansion ROM Enable.
    pub(crate) fn define(&self, registers: &mut Registers) {
        registers.set_u32(regs::EXPANSION_ROM, 0, !(self.size - 1) | regs::ROM_ENABLE);
    }

    pub(crate) fn info(&self, registers: &Registers) -> RomInfo {
        let register = registers.u32(regs::EXPANSION_ROM);
        RomInfo {
            size: u64::from(self.size),
            image_len: self.image.len() as u64,
            address: register & !(self.size - 1),
            enabled: register & regs::ROM_ENABLE != 0,
            has_signature: self.image.starts_with(&SIGNATURE),
        }
    }

    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let image = self.image.get(at..).unwrap_or_default();
        let (inside, outside) = data.split_at_mut(image.len().min(data.len()));
        inside.copy_from_slice(&image[..inside.len()]);
        outside.fill(ERASED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with a PCI data structure that claims so many units.
    fn image(units: u16, last: bool) -> Vec<u8> {
        let mut image = vec![0; usize::from(units) * 512];
        image[..2].copy_from_slice(&SIGNATURE);
        image[0x18] = 0x40;
        image[0x40..0x44].copy_from_slice(b"PCIR");
        image[0x50..0x52].copy_from_slice(&units.to_le_bytes());
        image[0x55] = if last { 0x80 } else { 0 };
        image
    }

    #[test]
    fn a_rom_says_how_long_it_is() {
        assert_eq!(claimed_len(&[]), None);
        assert_eq!(claimed_len(&[0x90; 4096]), None, "no signature");
        assert_eq!(claimed_len(&SIGNATURE), None);
        assert_eq!(claimed_len(&[0x55, 0xaa, 0]), None);
        assert_eq!(claimed_len(&[0x55, 0xaa, 4]), Some(2048), "x86's own length");
        assert_eq!(claimed_len(&image(3, true)), Some(3 * 512));
        let two = [image(3, false), image(2, true)].concat();
        assert_eq!(claimed_len(&two), Some(5 * 512));
        assert_eq!(claimed_len(&two[..3 * 512 + 0x60]), Some(5 * 512), "the second is cut short");
        assert_eq!(claimed_len(&two[..1000]), Some(3 * 512), "the first is");
        let open = image(3, false);
        assert_eq!(claimed_len(&open), Some(3 * 512), "one more should come");
    }

    #[test]
    fn any_bytes_end() {
        for fill in 0..=u8::MAX {
            for len in [0x18, 0x19, 0x1a, 0x58, 600, 2000] {
                let mut rom = vec![fill; len];
                rom[..2].copy_from_slice(&SIGNATURE);
                let _any = claimed_len(&rom);
                if let Some(data) = rom.get_mut(0x18..0x1a) {
                    data.copy_from_slice(&[0x20, 0]);
                }
                if let Some(data) = rom.get_mut(0x20..0x24) {
                    data.copy_from_slice(b"PCIR");
                }
                let _any = claimed_len(&rom);
            }
        }
    }
}
