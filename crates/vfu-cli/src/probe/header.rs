//! The header of configuration space, decoded (PCI 6.1, 6.2).

use vfu::pci::{BARS, regs};

use super::capabilities;
use super::report::{Bar, BarKind, Class, Config, Register, Rom, Subsystem};
use vfu::pci::names;

/// Bytes of configuration space; beyond their end there are ones, as on a bus.
#[derive(Clone, Copy)]
pub(super) struct Space<'a>(pub(super) &'a [u8]);

impl Space<'_> {
    pub(super) fn u8(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0xff)
    }

    pub(super) fn u16(self, at: usize) -> u16 {
        u16::from_le_bytes([self.u8(at), self.u8(at + 1)])
    }

    pub(super) fn u32(self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }
}

const COMMAND: [(u16, &str); 10] = [
    (regs::COMMAND_IO, "io"),
    (regs::COMMAND_MEMORY, "memory"),
    (regs::COMMAND_BUS_MASTER, "bus_master"),
    (1 << 3, "special_cycle"),
    (1 << 4, "write_invalidate"),
    (1 << 5, "vga_snoop"),
    (regs::COMMAND_PARITY, "parity"),
    (regs::COMMAND_SERR, "serr"),
    (1 << 9, "fast_back_to_back"),
    (regs::COMMAND_INTX_DISABLE, "intx_disable"),
];

const STATUS: [(u16, &str); 10] = [
    (regs::STATUS_INTERRUPT, "interrupt"),
    (regs::STATUS_CAPABILITIES, "capabilities"),
    (1 << 5, "66mhz"),
    (1 << 7, "fast_back_to_back"),
    (1 << 8, "master_parity_error"),
    (1 << 11, "signaled_target_abort"),
    (1 << 12, "received_target_abort"),
    (1 << 13, "received_master_abort"),
    (1 << 14, "signaled_system_error"),
    (1 << 15, "parity_error"),
];

const MULTIFUNCTION: u8 = 0x80;
const BAR_IO: u32 = 1;
const BAR_TYPE: u32 = 0b110;
const BAR_TYPE_64: u32 = 0b100;
const BAR_PREFETCHABLE: u32 = 1 << 3;
const ROM_ENABLE: u32 = 1;
const ROM_ADDRESS: u32 = 0xffff_f800;
const ROM_REGION: u32 = 6;

/// Decodes all of it. `size_of` gives the size of a region, in bytes, 0 if it is not there.
/// What makes no sense is added to `problems`.
pub(super) fn decode(
    bytes: Vec<u8>,
    size_of: impl Fn(u32) -> u64,
    problems: &mut Vec<String>,
) -> Config {
    let space = Space(&bytes);
    let header_type = space.u8(regs::HEADER_TYPE);
    let is_endpoint = header_type & !MULTIFUNCTION == 0;
    if !is_endpoint {
        let layout = header_type & !MULTIFUNCTION;
        problems.push(format!("header type {layout} is not that of a device; it is not decoded"));
    }
    let revision_and_class = space.u32(regs::REVISION_ID);
    let class = revision_and_class >> 8;
    let (capabilities, extended_capabilities) =
        (capabilities::conventional(space, problems), capabilities::extended(space, problems));
    Config {
        size: bytes.len(),
        vendor: space.u16(regs::VENDOR_ID),
        device: space.u16(regs::DEVICE_ID),
        subsystem: is_endpoint.then(|| Subsystem {
            vendor: space.u16(regs::SUBSYSTEM_VENDOR_ID),
            device: space.u16(regs::SUBSYSTEM_ID),
        }),
        revision: space.u8(regs::REVISION_ID),
        class: Class { code: class, name: names::class(class) },
        command: register(space.u16(regs::COMMAND), &COMMAND),
        status: register(space.u16(regs::STATUS), &STATUS),
        header_type: header_type & !MULTIFUNCTION,
        multifunction: header_type & MULTIFUNCTION != 0,
        interrupt_line: space.u8(regs::INTERRUPT_LINE),
        interrupt_pin: match space.u8(regs::INTERRUPT_PIN) {
            pin @ 1..=4 => Some(char::from(b'A' + pin - 1)),
            _ => None,
        },
        bars: if is_endpoint { bars(space, &size_of, problems) } else { Vec::new() },
        rom: rom(space, size_of(ROM_REGION)).filter(|_| is_endpoint),
        capabilities,
        extended_capabilities,
        bytes,
    }
}

fn register(value: u16, names: &[(u16, &'static str)]) -> Register {
    let set = names.iter().filter(|(bit, _)| value & bit != 0);
    Register { value, flags: set.map(|(_, name)| *name).collect() }
}

fn bars(space: Space<'_>, size_of: impl Fn(u32) -> u64, problems: &mut Vec<String>) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut index = 0;
    while index < BARS {
        let low = space.u32(regs::BAR0 + 4 * index);
        let size = size_of(index as u32);
        let (kind, address) = if low & BAR_IO != 0 {
            (BarKind::Io, u64::from(low & !0b11))
        } else {
            match low & BAR_TYPE {
                0 => (BarKind::Memory32, u64::from(low & !0xf)),
                BAR_TYPE_64 if index + 1 < BARS => {
                    let high = space.u32(regs::BAR0 + 4 * (index + 1));
                    (BarKind::Memory64, u64::from(high) << 32 | u64::from(low & !0xf))
                }
                _ => (BarKind::Reserved, u64::from(low & !0xf)),
            }
        };
        if size == 0 && low != 0 {
            problems.push(format!("BAR{index} reads {low:#010x}, but its region has no size"));
        }
        if size != 0 || low != 0 {
            let prefetchable = kind != BarKind::Io && low & BAR_PREFETCHABLE != 0;
            bars.push(Bar { index: index as u32, kind, prefetchable, address, size });
        }
        index += if kind == BarKind::Memory64 { 2 } else { 1 };
    }
    bars
}

fn rom(space: Space<'_>, size: u64) -> Option<Rom> {
    let register = space.u32(regs::EXPANSION_ROM);
    let (address, enabled) = (register & ROM_ADDRESS, register & ROM_ENABLE != 0);
    (size > 0).then_some(Rom { address, enabled, size })
}
