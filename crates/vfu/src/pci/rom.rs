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
