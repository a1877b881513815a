//! PCI Express, for an endpoint (PCIe 7.5.3).

use super::super::registers::Registers;
use super::super::regs;

/// The length of version 2 of the capability in bytes.
pub(crate) const LEN: usize = 0x3c;

/// PCI Express Capabilities: version 2, device/port type 0 (PCI Express endpoint).
const CAPABILITIES: u16 = 0x0002;
/// Device Capabilities: 128-byte payloads, 8-bit tags (bit 5), role-based error reporting (bit 15).
const DEVICE_CAPABILITIES: u32 = 1 << 5 | 1 << 15 | regs::DEVICE_CAPABILITIES_FLR;
/// Device Control after reset: relaxed ordering, no snoop, 512-byte read requests.
const DEVICE_CONTROL: u16 = 0x2810;
/// Device Control: the four error reporting enables, relaxed ordering, extended tags, no snoop,
/// read request size. Max_Payload_Size is hardwired to 128 bytes, as PCIe 7.5.3.4 permits to a
/// function that supports no more; phantom functions and auxiliary power are not supported.
const DEVICE_CONTROL_RW: u16 = 0x000f | 1 << 4 | 1 << 8 | 1 << 11 | 0b111 << 12;
/// Link Capabilities: 2.5 GT/s, one lane, no ASPM but its optionality bit (22), as later revisions
/// demand.
const LINK_CAPABILITIES: u32 = 0x0040_0011;
/// Link Control: ASPM control, read completion boundary, common clock, extended synch.
const LINK_CONTROL_RW: u16 = 0x00cb;
/// Device Control: Max_Payload_Size.
const MAX_PAYLOAD_SIZE: u16 = 0b111 << 5;
/// Link Control: what survives FLR, which is ASPM control, read completion boundary, common clock,
/// extended synch, clock power management and autonomous width.
const LINK_CONTROL_KEPT: u16 = 0x03cb;
/// Link Status: 2.5 GT/s, one lane.
const LINK_STATUS: u16 = 0x0011;
/// Device Capabilities 2 and Device Control 2: Completion Timeout Disable, supported and the
/// switch.
const COMPLETION_TIMEOUT_DISABLE: u16 = 1 << 4;
/// Link Capabilities 2: the vector of supported speeds has 2.5 GT/s.
const LINK_CAPABILITIES_2: u32 = 1 << 1;

/// The registers. Slot and root registers, and Link Control 2, are reserved for such an endpoint.
pub(crate) fn registers() -> Registers {
    let mut cap = Registers::reserved(LEN);
    cap.set_u8(0, regs::CAP_PCIE, 0);
    cap.set_u16(regs::PCIE_CAPABILITIES, CAPABILITIES, 0);
    cap.set_u32(regs::DEVICE_CAPABILITIES, DEVICE_CAPABILITIES, 0);
    cap.set_u16(regs::DEVICE_CONTROL, DEVICE_CONTROL, DEVICE_CONTROL_RW);
    cap.set_u32(regs::LINK_CAPABILITIES, LINK_CAPABILITIES, 0);
    cap.set_u16(regs::LINK_CONTROL, 0, LINK_CONTROL_RW);
    cap.set_u16(regs::LINK_STATUS, LINK_STATUS, 0);
    cap.set_u32(regs::DEVICE_CAPABILITIES_2, u32::from(COMPLETION_TIMEOUT_DISABLE), 0);
    cap.set_u16(regs::DEVICE_CONTROL_2, 0, COMPLETION_TIMEOUT_DISABLE);
    cap.set_u32(regs::LINK_CAPABILITIES_2, LINK_CAPABILITIES_2, 0);
    cap
}

/// Rules that hold for every such capability: Initiate FLR reads 0, error bits are RW1C, and FLR leaves
/// Max_Payload_Size and the control of the link alone (PCIe 6.6.2).
pub(crate) fn own_rules(registers: &mut Registers, at: usize, len: usize) {
    registers.set_read_only(at + regs::DEVICE_CONTROL, regs::DEVICE_CONTROL_FLR);
    registers.set_read_only(at + regs::DEVICE_STATUS, !0);
    registers.set_rw1c(at + regs::DEVICE_STATUS, regs::DEVICE_STATUS_ERRORS);
    registers.set_driven(at + regs::DEVICE_STATUS, u32::from(regs::DEVICE_STATUS_PENDING));
    registers.set_sticky(at + regs::DEVICE_CONTROL, MAX_PAYLOAD_SIZE);
    if len >= regs::LINK_CONTROL + 2 {
        registers.set_sticky(at + regs::LINK_CONTROL, LINK_CONTROL_KEPT);
    }
}
