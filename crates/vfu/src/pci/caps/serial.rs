//! Device Serial Number (PCIe 7.9.3).

use super::super::registers::Registers;
use super::super::regs;
use super::extended;

/// The length of the capability in bytes.
const LEN: usize = 12;

/// The registers: the number, lower half first, read-only.
pub(crate) fn registers(serial: u64) -> Registers {
    let mut cap = extended(regs::EXT_SERIAL, 1, LEN);
    cap.set_bytes(4, &serial.to_le_bytes(), &[]);
    cap
}
