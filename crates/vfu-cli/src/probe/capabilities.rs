//! The two lists of capabilities, decoded. A list may be broken: it is followed as far as it leads.

use vfu::pci::regs;

use super::extended;
use super::header::Space;
use super::report::{Capability, Detail, Extended, Place};
use vfu::pci::names;

/// The lowest place of a capability, and what its offset is a multiple of (PCI 6.7).
const FIRST: u8 = 0x40;
const POINTER: u8 = 0xfc;
/// How many can lie between 0x40 and 0x100, each of 4 bytes at least; beyond 0x100.
const MOST: usize = 48;
const MOST_EXTENDED: usize = 960;

const MSI_ENABLE: u16 = 1;
const MSI_ADDRESS_64: u16 = 1 << 7;
const MSI_MASKABLE: u16 = 1 << 8;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_FUNCTION_MASK: u16 = 1 << 14;

/// The list that the Capabilities Pointer begins.
pub(super) fn conventional(space: Space<'_>, problems: &mut Vec<String>) -> Vec<Capability> {
    let mut found: Vec<Capability> = Vec::new();
    if space.u16(regs::STATUS) & regs::STATUS_CAPABILITIES == 0 {
        return found;
    }
    let mut at = space.u8(regs::CAPABILITIES_POINTER) & POINTER;
    while at != 0 {
        if at < FIRST {
            problems.push(format!("the capability list leads to {at:#04x}, into the header"));
            break;
        }
        if found.len() == MOST || found.iter().any(|earlier| earlier.offset == at) {
            problems.push(format!("the capability list comes back to {at:#04x}"));
            break;
        }
        let id = space.u8(at.into());
        let detail = detail(space, at.into(), id);
        found.push(Capability { offset: at, id, name: names::capability(id), detail });
        at = space.u8(usize::from(at) + 1) & POINTER;
    }
    found
}

/// The list that begins at 0x100, if the space is that large.
pub(super) fn extended(space: Space<'_>, problems: &mut Vec<String>) -> Vec<Extended> {
    let mut found: Vec<Extended> = Vec::new();
    let mut at = regs::EXTENDED;
    while at < space.0.len() {
        let header = space.u32(at);
        if header == 0 || header == u32::MAX {
            break; // an empty list is one header without an id
        }
        let (id, offset) = (header as u16, at as u16);
        let version = (header >> 16) as u8 & 0xf;
        let (name, detail) = (names::extended_capability(id), extended::detail(space, at, id));
        found.push(Extended { offset, id, version, name, detail });
        let next = (header >> 20) as usize & 0xffc;
        if next == 0 {
            break;
        }
        let is_back = next < regs::EXTENDED || found.iter().any(|f| usize::from(f.offset) == next);
        if is_back || found.len() == MOST_EXTENDED {
            problems.push(format!("the extended capability list goes back to {next:#05x}"));
            break;
        }
        at = next;
    }
    found
}

fn detail(space: Space<'_>, at: usize, id: u8) -> Detail {
    match id {
        regs::CAP_PM => {
            let control = space.u16(at + regs::PM_CONTROL);
            let capabilities = space.u16(at + regs::PM_CAPABILITIES);
            let named = |first: u16, names: &[&'static str]| {
                let set = (first..).zip(names).filter(|(bit, _)| capabilities & 1 << bit != 0);
                set.map(|(_, name)| *name).collect()
            };
            Detail::PowerManagement {
                version: capabilities as u8 & 0b111,
                states: named(9, &["D1", "D2"]),
                pme: named(11, &["D0", "D1", "D2", "D3hot", "D3cold"]),
                state: control as u8 & 0b11,
                no_soft_reset: control & 1 << 3 != 0,
            }
        }
        regs::CAP_MSI => {
            let control = space.u16(at + regs::MESSAGE_CONTROL);
            Detail::Msi {
                enabled: control & MSI_ENABLE != 0,
                vectors: 1 << (control >> 1 & 0b111),
                vectors_enabled: 1 << (control >> 4 & 0b111),
                address_64: control & MSI_ADDRESS_64 != 0,
                maskable: control & MSI_MASKABLE != 0,
            }
        }
        regs::CAP_MSIX => {
            let control = space.u16(at + regs::MESSAGE_CONTROL);
            Detail::MsiX {
                enabled: control & MSIX_ENABLE != 0,
                function_masked: control & MSIX_FUNCTION_MASK != 0,
                vectors: (control & 0x7ff) + 1,
                table: place(space.u32(at + regs::MSIX_TABLE)),
                pba: place(space.u32(at + regs::MSIX_PBA)),
            }
        }
        regs::CAP_PCIE => {
            let capabilities = space.u16(at + regs::PCIE_CAPABILITIES);
            let device = space.u32(at + regs::DEVICE_CAPABILITIES);
            Detail::Express {
                version: capabilities as u8 & 0xf,
                port_type: names::express_type((capabilities >> 4) as u8 & 0xf),
                flr: device & regs::DEVICE_CAPABILITIES_FLR != 0,
                max_payload: 128 << (device & 0b111),
            }
        }
        regs::CAP_VENDOR => Detail::Vendor { length: space.u8(at + 2) },
        _ => Detail::Other,
    }
}

fn place(register: u32) -> Place {
    Place { bar: register as u8 & 0b111, offset: register & !0b111 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::header;

    fn with_list(links: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        bytes[regs::STATUS] = regs::STATUS_CAPABILITIES as u8;
        for (at, value) in links {
            bytes[*at] = *value;
        }
        bytes
    }

    #[test]
    fn a_list_that_comes_back_ends() {
        let bytes = with_list(&[(0x34, 0x40), (0x41, 0x50), (0x51, 0x40)]);
        let mut problems = Vec::new();
        let found = conventional(Space(&bytes), &mut problems);
        assert_eq!(found.iter().map(|c| c.offset).collect::<Vec<_>>(), [0x40, 0x50]);
        assert_eq!(problems, ["the capability list comes back to 0x40"]);
    }

    #[test]
    fn a_list_that_leaves_its_room_ends() {
        let bytes = with_list(&[(0x34, 0x40), (0x41, 0x10)]);
        let mut problems = Vec::new();
        assert_eq!(conventional(Space(&bytes), &mut problems).len(), 1);
        assert_eq!(problems, ["the capability list leads to 0x10, into the header"]);
    }

    #[test]
    fn details_are_read() {
        // MSI-X, enabled, 8 vectors, table in BAR 2 at 0x1000, PBA in BAR 3 at 0x2008.
        let mut bytes = with_list(&[(0x34, 0x40)]);
        bytes[0x40..0x4c].copy_from_slice(&[0x11, 0, 7, 0x80, 2, 0x10, 0, 0, 0x0b, 0x20, 0, 0]);
        let found = conventional(Space(&bytes), &mut Vec::new());
        let expected = Detail::MsiX {
            enabled: true,
            function_masked: false,
            vectors: 8,
            table: Place { bar: 2, offset: 0x1000 },
            pba: Place { bar: 3, offset: 0x2008 },
        };
        assert_eq!(found[0].detail, expected);
        // PCI Express 2, endpoint, with FLR and payloads of 256 bytes; then a vendor's own.
        bytes[0x40..0x48].copy_from_slice(&[0x10, 0x60, 2, 0, 1, 0, 0, 0x10]);
        bytes[0x60..0x63].copy_from_slice(&[9, 0, 20]);
        let found = conventional(Space(&bytes), &mut Vec::new());
        let port_type = "endpoint";
        let expected = Detail::Express { version: 2, port_type, flr: true, max_payload: 256 };
        assert_eq!(found[0].detail, expected);
        assert_eq!(found[1].detail, Detail::Vendor { length: 20 });
    }

    #[test]
    fn any_bytes_are_decoded_without_a_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for round in 0..500 {
            let mut bytes = vec![0u8; if round % 2 == 0 { 256 } else { 4096 }];
            for byte in &mut bytes {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state as u8;
            }
            bytes[regs::HEADER_TYPE] &= 0x80;
            let config = header::decode(bytes, |_| state, &mut Vec::new());
            assert!(config.capabilities.len() <= MOST);
            assert!(config.extended_capabilities.len() <= MOST_EXTENDED);
        }
    }
}
