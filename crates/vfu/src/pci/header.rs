//! The type 0 configuration space header (PCI 6.1).

use super::bar::Bars;
use super::registers::Registers;
use super::rom::Rom;
use super::{Field, Pin, regs};

/// The part of a description that goes into fixed registers of the header.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) revision: u8,
    pub(crate) class: u32,
    pub(crate) subsystem_vendor: u16,
    pub(crate) subsystem: u16,
    pub(crate) pin: Option<Pin>,
}

/// Defines all of the header but the Capabilities Pointer. What is not mentioned (Header Type 0,
/// BIST, CardBus CIS Pointer, Min_Gnt, Max_Lat) stays reserved: reads 0, ignores writes.
pub(crate) fn define(
    registers: &mut Registers,
    id: &Identity,
    bars: &Bars,
    rom: Option<&Rom>,
    express: bool,
) {
    registers.set_u16(regs::VENDOR_ID, id.vendor, 0);
    registers.set_u16(regs::DEVICE_ID, id.device, 0);
    registers.set_u16(regs::COMMAND, 0, command_mask(bars, rom.is_some()));
    status(registers, 0);
    registers.set_u32(regs::REVISION_ID, id.class << 8 | u32::from(id.revision), 0);
    registers.set_u8(regs::CACHE_LINE_SIZE, 0, 0xff);
    // Read-only 0 on PCI Express (PCIe 7.5.1.1.8), where no bus is arbitrated.
    registers.set_u8(regs::LATENCY_TIMER, 0, if express { 0 } else { 0xff });
    bars.define(registers);
    if let Some(rom) = rom {
        rom.define(registers);
    }
    registers.set_u16(regs::SUBSYSTEM_VENDOR_ID, id.subsystem_vendor, 0);
    registers.set_u16(regs::SUBSYSTEM_ID, id.subsystem, 0);
    registers.set_u8(regs::INTERRUPT_LINE, 0, 0xff);
    registers.set_u8(regs::INTERRUPT_PIN, id.pin.map_or(0, |pin| pin as u8), 0);
}

/// Defines Status: `reset`, the errors, and Interrupt Status, which is the device's.
pub(crate) fn status(registers: &mut Registers, reset: u16) {
    let field = Field::new(reset.into()).rw1c(regs::STATUS_ERRORS.into());
    registers.set_field(regs::STATUS, 2, field.driven(regs::STATUS_INTERRUPT.into()));
}

/// Command bits that can be set (PCI 6.2.2): a space can be enabled only if there is a BAR in it, the
/// one of the ROM included.
fn command_mask(bars: &Bars, rom: bool) -> u16 {
    let mut mask = regs::COMMAND_BUS_MASTER
        | regs::COMMAND_PARITY
        | regs::COMMAND_SERR
        | regs::COMMAND_INTX_DISABLE;
    if bars.any(true) {
        mask |= regs::COMMAND_IO;
    }
    if rom || bars.any(false) {
        mask |= regs::COMMAND_MEMORY;
    }
    mask
}
