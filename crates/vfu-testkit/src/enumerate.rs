//! Enumeration, in the steps in which Linux does it (`drivers/pci/probe.c`).

use vfu::client::ClientError;
use vfu::pci::{BARS, BarKind, regs};

use crate::{Capability, ExtendedCapability, Function, FunctionBar, KitError, Vmm};

/// Capabilities at most: the space has no room for more, so more is a loop.
const MOST_CAPABILITIES: usize = 48;
/// Extended capabilities at most, for the same reason.
const MOST_EXTENDED: usize = (4096 - 256) / 8;
/// Decoding is off while BARs are sized: they hold no addresses meanwhile.
const DECODE: u16 = regs::COMMAND_IO | regs::COMMAND_MEMORY;

/// Reads a function, and leaves it as it was.
pub(crate) fn read(vmm: &Vmm) -> Result<Function, KitError> {
    let size = vmm.client().region_info(Vmm::CONFIG)?.size;
    if size != 256 && size != 4096 {
        return Err(KitError::Config(format!("{size} bytes; PCI has 256 or 4096")));
    }
    let mut config = vec![0; size as usize];
    vmm.client().region_read(Vmm::CONFIG, 0, &mut config)?;
    let u8_at = |at: usize| config.get(at).copied().unwrap_or(0);
    let u16_at = |at| u16::from_le_bytes([u8_at(at), u8_at(at + 1)]);
    let vendor = u16_at(regs::VENDOR_ID);
    if vendor == 0xffff || vendor == 0 {
        return Err(KitError::Config(format!("vendor {vendor:#06x}: nobody is there")));
    }
    let header_type = u8_at(regs::HEADER_TYPE);
    if header_type & 0x7f != 0 {
        return Err(KitError::Config(format!("header type {header_type:#04x} is no endpoint's")));
    }
    let command = u16_at(regs::COMMAND);
    vmm.config_write16(regs::COMMAND, command & !DECODE)?;
    let (bars, rom_size) = (size_bars(vmm)?, size_rom(vmm)?);
    vmm.config_write16(regs::COMMAND, command)?;
    Ok(Function {
        vendor,
        device: u16_at(regs::DEVICE_ID),
        subsystem_vendor: u16_at(regs::SUBSYSTEM_VENDOR_ID),
        subsystem: u16_at(regs::SUBSYSTEM_ID),
        revision: u8_at(regs::REVISION_ID),
        class: u32::from(u16_at(regs::CLASS_CODE)) | u32::from(u8_at(regs::CLASS_CODE + 2)) << 16,
        header_type: header_type & 0x7f,
        multi_function: header_type & 0x80 != 0,
        interrupt_pin: u8_at(regs::INTERRUPT_PIN),
        command,
        status: u16_at(regs::STATUS),
        bars,
        rom_size,
        capabilities: walk(&config)?,
        extended: walk_extended(&config)?,
        config,
    })
}

/// Writes all ones to each BAR, reads back which bits took them, and restores it.
fn size_bars(vmm: &Vmm) -> Result<Vec<FunctionBar>, ClientError> {
    let mut bars = Vec::new();
    let mut index = 0;
    while index < BARS {
        let at = regs::BAR0 + 4 * index;
        let (low, low_mask) = size_register(vmm, at, u32::MAX)?;
        if low_mask == 0 {
            index += 1;
            continue;
        }
        let is_io = low & 1 != 0;
        let is_64 = !is_io && low >> 1 & 3 == 2 && index + 1 < BARS;
        let type_bits = if is_io { 0x3 } else { 0xf };
        let mut address = u64::from(low & !type_bits);
        let mut mask = u64::from(low_mask & !type_bits);
        if is_io && mask >> 16 == 0 {
            mask |= 0xffff_0000; // decodes 16 bits of the address
        }
        if is_64 {
            let (high, high_mask) = size_register(vmm, at + 4, u32::MAX)?;
            address |= u64::from(high) << 32;
            mask |= u64::from(high_mask) << 32;
        }
        let kind = match (is_io, is_64) {
            (true, _) => BarKind::Io,
            (_, true) => BarKind::Mem64,
            _ => BarKind::Mem32,
        };
        let size = mask & mask.wrapping_neg();
        if size != 0 {
            let prefetchable = !is_io && low & 8 != 0;
            bars.push(FunctionBar { index, kind, prefetchable, size, address });
        }
        index += if is_64 { 2 } else { 1 };
    }
    Ok(bars)
}

fn size_rom(vmm: &Vmm) -> Result<u64, ClientError> {
    let (_, mask) = size_register(vmm, regs::EXPANSION_ROM, !0x7ff)?;
    let mask = u64::from(mask & !0x7ff);
    Ok(mask & mask.wrapping_neg())
}

/// The value of a register, and what it reads after `ones` have been written to it.
fn size_register(vmm: &Vmm, at: usize, ones: u32) -> Result<(u32, u32), ClientError> {
    let value = vmm.config_read32(at)?;
    vmm.config_write32(at, ones)?;
    let mask = vmm.config_read32(at)?;
    vmm.config_write32(at, value)?;
    Ok((value, mask))
}

/// Gives every BAR an address of its own, aligned to its size, and writes it.
pub(crate) fn assign(vmm: &Vmm, bars: &mut [FunctionBar]) -> Result<(), KitError> {
    let (mut io, mut low, mut high) = (0x1000_u64, 0xc000_0000_u64, 0x40_0000_0000_u64);
    for bar in bars {
        let is_high = bar.kind == BarKind::Mem64;
        let (window, end) = match bar.kind {
            BarKind::Io => (&mut io, 0x1_0000),
            BarKind::Mem32 => (&mut low, 0xfec0_0000),
            BarKind::Mem64 => (&mut high, u64::MAX),
        };
        let no_room = || KitError::Config(format!("no addresses left for {bar}"));
        let address = window.checked_next_multiple_of(bar.size).ok_or_else(no_room)?;
        let next = address.checked_add(bar.size).filter(|next| *next <= end);
        *window = next.ok_or_else(no_room)?;
        let at = regs::BAR0 + 4 * bar.index;
        vmm.config_write32(at, address as u32)?;
        if is_high {
            vmm.config_write32(at + 4, (address >> 32) as u32)?;
        }
        bar.address = address;
    }
    Ok(())
}

/// Follows the capability list.
pub(crate) fn walk(config: &[u8]) -> Result<Vec<Capability>, KitError> {
    let u8_at = |at: u8| config.get(usize::from(at)).copied().unwrap_or(0);
    let has_list = u16::from(u8_at(regs::STATUS as u8)) & regs::STATUS_CAPABILITIES != 0;
    let mut found: Vec<Capability> = Vec::new();
    let mut at = if has_list { u8_at(regs::CAPABILITIES_POINTER as u8) & !3 } else { 0 };
    while at != 0 {
        if usize::from(at) < regs::DEVICE_DEPENDENT {
            return Err(KitError::Config(format!("a capability at {at:#04x}, inside the header")));
        }
        let seen = found.iter().any(|capability| capability.offset == u16::from(at));
        if seen || found.len() == MOST_CAPABILITIES {
            return Err(KitError::Config(format!("the capability list loops at {at:#04x}")));
        }
        if u8_at(at) == 0xff {
            return Err(KitError::Config(format!("the capability list is broken at {at:#04x}")));
        }
        found.push(Capability::decode(config, at));
        at = u8_at(at + 1) & !3;
    }
    Ok(found)
}

/// Follows the extended capability list.
pub(crate) fn walk_extended(config: &[u8]) -> Result<Vec<ExtendedCapability>, KitError> {
    let u32_at = |at: usize| {
        let bytes = config.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let mut found: Vec<ExtendedCapability> = Vec::new();
    let mut at = regs::EXTENDED;
    loop {
        let header = u32_at(at);
        if header == 0 || header == u32::MAX {
            return Ok(found);
        }
        let seen = found.iter().any(|capability| usize::from(capability.offset) == at);
        if seen || found.len() == MOST_EXTENDED {
            let text = format!("the extended capability list loops at {at:#05x}");
            return Err(KitError::Config(text));
        }
        found.push(ExtendedCapability::decode(header, at as u16));
        at = (header >> 20) as usize & !3;
        if at < regs::EXTENDED {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Vec<u8> {
        let mut config = vec![0; 256];
        config[regs::STATUS] = regs::STATUS_CAPABILITIES as u8;
        config[regs::CAPABILITIES_POINTER] = 0x40;
        config
    }

    #[test]
    fn a_list_that_loops_is_an_error() {
        let mut config = space();
        config[0x40..0x42].copy_from_slice(&[regs::CAP_VENDOR, 0x50]);
        config[0x50..0x52].copy_from_slice(&[regs::CAP_VENDOR, 0x40]);
        assert!(matches!(walk(&config), Err(KitError::Config(text)) if text.contains("loops")));
    }

    #[test]
    fn a_list_that_leads_into_the_header_is_an_error() {
        let mut config = space();
        config[0x40..0x42].copy_from_slice(&[regs::CAP_VENDOR, 0x10]);
        assert!(walk(&config).is_err());
    }

    #[test]
    fn a_list_is_followed_in_its_order() {
        let mut config = space();
        config[0x40..0x43].copy_from_slice(&[regs::CAP_VENDOR, 0xfc, 5]);
        config[0xfc..0xfe].copy_from_slice(&[regs::CAP_PM, 0]);
        let list = walk(&config).unwrap();
        let offsets: Vec<_> = list.iter().map(|capability| capability.offset).collect();
        assert_eq!(offsets, [0x40, 0xfc]);
        assert_eq!(list[0].detail, crate::Detail::Vendor { len: 5 });
        assert_eq!(list[1].name, "Power Management");
    }

    #[test]
    fn extended_lists_end_at_a_loop() {
        let mut config = space();
        config.resize(4096, 0);
        assert_eq!(walk_extended(&config).unwrap(), []);
        let header = |id: u32, next: u32| (id | 1 << 16 | next << 20).to_le_bytes();
        config[0x100..0x104].copy_from_slice(&header(3, 0x200));
        config[0x200..0x204].copy_from_slice(&header(1, 0));
        assert_eq!(walk_extended(&config).unwrap().len(), 2);
        config[0x200..0x204].copy_from_slice(&header(1, 0x100));
        assert!(walk_extended(&config).is_err());
    }
}
