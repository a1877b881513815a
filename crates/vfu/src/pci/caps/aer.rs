//! Advanced Error Reporting of an endpoint (PCIe 7.8.4): the registers, and how an error is logged.

use super::super::registers::Registers;
use super::super::{ConfigSpace, Field, regs};
use super::extended;

/// The length of the capability in bytes: up to the Header Log. What follows is for root ports and
/// for TLP prefixes.
pub(crate) const LEN: usize = 0x2c;

/// The uncorrectable errors that an endpoint has: data link protocol, poisoned TLP, flow control,
/// completion timeout, completer abort, unexpected completion, receiver overflow, malformed TLP,
/// unsupported request, internal.
const UNCORRECTABLE: u32 = 0x0057_f010;
/// Uncorrectable Error Mask after power-on: internal errors.
const UNCORRECTABLE_MASKED: u32 = 1 << 22;
/// Uncorrectable Error Severity after power-on. These are fatal: data link protocol, flow control,
/// receiver overflow, malformed TLP, internal.
const FATAL: u32 = 0x0046_2010;
/// The correctable errors: receiver, bad TLP, bad DLLP, replay number, replay timer, advisory
/// non-fatal, corrected internal.
const CORRECTABLE: u32 = 0x0000_71c1;
/// Correctable Error Mask after power-on: advisory non-fatal and corrected internal.
const CORRECTABLE_MASKED: u32 = 0x0000_6000;
/// Advanced Error Capabilities and Control: First Error Pointer. There is no ECRC.
const FIRST_ERROR: u32 = 0x1f;

/// The message by which a function tells of an error, and how grave that is (PCIe 6.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorMessage {
    /// ERR_COR: hardware has put it right.
    Correctable,
    /// ERR_NONFATAL: a transaction is lost, the link works.
    NonFatal,
    /// ERR_FATAL: the link can't be relied on.
    Fatal,
}

/// The registers: all status and control is sticky.
pub(crate) fn registers() -> Registers {
    let log = Field::new(0).driven(!0).sticky(!0);
    let mut cap = extended(regs::EXT_AER, 2, LEN);
    for (at, field) in [
        (regs::AER_UNCORRECTABLE_STATUS, Field::new(0).rw1c(UNCORRECTABLE).sticky(UNCORRECTABLE)),
        (regs::AER_UNCORRECTABLE_MASK, sticky(UNCORRECTABLE_MASKED, UNCORRECTABLE)),
        (regs::AER_UNCORRECTABLE_SEVERITY, sticky(FATAL, UNCORRECTABLE)),
        (regs::AER_CORRECTABLE_STATUS, Field::new(0).rw1c(CORRECTABLE).sticky(CORRECTABLE)),
        (regs::AER_CORRECTABLE_MASK, sticky(CORRECTABLE_MASKED, CORRECTABLE)),
        (regs::AER_CONTROL, Field::new(0).driven(FIRST_ERROR).sticky(FIRST_ERROR)),
        (regs::AER_HEADER_LOG, log),
        (regs::AER_HEADER_LOG + 4, log),
        (regs::AER_HEADER_LOG + 8, log),
        (regs::AER_HEADER_LOG + 12, log),
    ] {
        cap.set_field(at, 4, field);
    }
    cap
}

/// RWS.
fn sticky(reset: u32, bits: u32) -> Field {
    Field::new(reset).rw(bits).sticky(bits)
}

/// Status: Signaled System Error.
const SIGNALED_SYSTEM_ERROR: u16 = 1 << 14;
/// Unsupported Request Error, in the uncorrectable registers.
const UNSUPPORTED_REQUEST: u32 = 1 << 20;

impl ConfigSpace {
    /// Logs an uncorrectable error in AER and Device Status, as PCIe 6.2.5 says. `error` is its bit
    /// number in Uncorrectable Error Status; `header` the header of the TLP that it is about, which
    /// goes to Header Log if that is free (the first error that is not masked keeps it until software
    /// clears its status bit).
    ///
    /// Returns the message that the function would send now: by the error's severity, and None if it
    /// is masked, or neither Device Control nor SERR# Enable lets it out. With it a server raises the
    /// client's ERR interrupt.
    ///
    /// Nothing happens without AER, or if its registers have no such error.
    pub fn raise_uncorrectable(&mut self, error: u8, header: [u32; 4]) -> Option<ErrorMessage> {
        let at = self.known.aer?;
        let bit = self.aer_bit(at + regs::AER_UNCORRECTABLE_STATUS, error)?;
        let free = self.log_is_free(at);
        self.raise32(at + regs::AER_UNCORRECTABLE_STATUS, bit);
        let fatal = self.registers.u32(at + regs::AER_UNCORRECTABLE_SEVERITY) & bit != 0;
        let message = if fatal { ErrorMessage::Fatal } else { ErrorMessage::NonFatal };
        let unsupported = bit == UNSUPPORTED_REQUEST;
        self.raise_detected(message, unsupported);
        if self.registers.u32(at + regs::AER_UNCORRECTABLE_MASK) & bit != 0 {
            return None;
        }
        if free {
            self.drive(at + regs::AER_CONTROL, &[error]);
            for (i, dword) in header.into_iter().enumerate() {
                self.drive(at + regs::AER_HEADER_LOG + 4 * i, &dword.to_le_bytes());
            }
        }
        self.send(message, unsupported)
    }

    /// Logs a correctable error: `error` is its bit number in Correctable Error Status. See
    /// [`raise_uncorrectable`](Self::raise_uncorrectable).
    pub fn raise_correctable(&mut self, error: u8) -> Option<ErrorMessage> {
        let at = self.known.aer?;
        let bit = self.aer_bit(at + regs::AER_CORRECTABLE_STATUS, error)?;
        self.raise32(at + regs::AER_CORRECTABLE_STATUS, bit);
        let message = ErrorMessage::Correctable;
        self.raise_detected(message, false);
        let masked = self.registers.u32(at + regs::AER_CORRECTABLE_MASK) & bit != 0;
        if masked { None } else { self.send(message, false) }
    }

    /// The bit of an error whose status register, at `at`, has it.
    fn aer_bit(&self, at: usize, error: u8) -> Option<u32> {
        let bit = 1u32.checked_shl(error.into())?;
        let masks = [0, 1, 2, 3].map(|i| self.writable_bits(at + i));
        (u32::from_le_bytes(masks) & bit != 0).then_some(bit)
    }

    /// Whether no error that is still in Uncorrectable Error Status owns the log.
    fn log_is_free(&self, at: usize) -> bool {
        let first = self.registers.u32(at + regs::AER_CONTROL) & FIRST_ERROR;
        self.registers.u32(at + regs::AER_UNCORRECTABLE_STATUS) >> first & 1 == 0
    }

    fn raise32(&mut self, at: usize, bits: u32) {
        self.raise(at, bits as u16);
        self.raise(at + 2, (bits >> 16) as u16);
    }

    /// Sets what Device Status says of errors, masked or not.
    fn raise_detected(&mut self, message: ErrorMessage, unsupported: bool) {
        if let Some(cap) = self.known.pcie {
            let bits = 1 << (message as u16) | u16::from(unsupported) << 3;
            self.raise(cap + regs::DEVICE_STATUS, bits);
        }
    }

    /// The message, if the function may send it (PCIe 6.2.6). Status remembers what SERR# Enable let
    /// out.
    fn send(&mut self, message: ErrorMessage, unsupported: bool) -> Option<ErrorMessage> {
        let control =
            self.known.pcie.map_or(0, |cap| self.registers.u16(cap + regs::DEVICE_CONTROL));
        let reports = control >> (message as u16) & 1 != 0 && (!unsupported || control & 8 != 0);
        let serr = self.registers.u16(regs::COMMAND) & regs::COMMAND_SERR != 0;
        let system = serr && message != ErrorMessage::Correctable;
        if system {
            self.raise(regs::STATUS, SIGNALED_SYSTEM_ERROR);
        }
        (reports || system).then_some(message)
    }
}
