//! The registers, without threads, memory or interrupts: accesses in, effects out.

use std::ops::Range;

use vfu::Fault;

use super::{IDENTIFICATION, command, register};

/// The bytes that are registers; behind them the BAR is empty.
const FILE: usize = register::END as usize;
/// What a driver may write.
const WRITABLE: [Range<usize>; 2] = [
    register::SOURCE as usize..register::LENGTH as usize + 4,
    register::SCRATCH as usize..register::END as usize,
];

/// What an access asks the device to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Copy before the access is answered.
    Copy(Job),
    /// Copy on the device's thread.
    Queue(Job),
    /// Take the pin down.
    Acknowledge,
}

/// One copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) source: u64,
    pub(super) destination: u64,
    /// In bytes, as the driver wrote it.
    pub(super) length: u32,
    /// Raise the pin at the end.
    pub(super) interrupt: bool,
}

/// A register file, as bytes in little-endian order.
#[derive(Clone, Debug)]
pub(super) struct Registers([u8; FILE]);

vfu::state! { Job { source, destination, length, interrupt } }
vfu::state! { Registers { 0 } }

impl Registers {
    /// As after power-on.
    pub(super) fn new() -> Self {
        let mut registers = Registers([0; FILE]);
        registers.set32(register::IDENTIFICATION, IDENTIFICATION);
        registers
    }

    /// What to do before a read of `len` bytes is answered.
    pub(super) fn before_read(&self, offset: u64, len: usize) -> Result<Option<Effect>, Fault> {
        let range = range(offset, len)?;
        Ok(match offset {
            register::COPY => Some(Effect::Copy(self.job(false))),
            _ if range.contains(&(register::COUNT as usize)) => Some(Effect::Acknowledge),
            _ => None,
        })
    }

    /// Fills `data` from `offset` on.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Fault> {
        data.copy_from_slice(&self.0[range(offset, data.len())?]);
        Ok(())
    }

    /// Writes what may be written, and ignores the rest.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<Option<Effect>, Fault> {
        let range = range(offset, data.len())?;
        for (at, byte) in range.zip(data) {
            if WRITABLE.iter().any(|writable| writable.contains(&at)) {
                self.0[at] = *byte;
            }
        }
        if offset != register::COMMAND {
            return Ok(None);
        }
        let value = data.iter().take(4).rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let job = self.job(value & command::INTERRUPT != 0);
        Ok(match value & 0xff {
            command::IN_HANDLER => Some(Effect::Copy(job)),
            command::ON_THREAD => Some(Effect::Queue(job)),
            _ => None,
        })
    }

    /// A copy has ended.
    pub(super) fn ended(&mut self, errno: u32) {
        self.set32(register::ERRNO, errno);
        self.set32(register::COPY, errno);
        let count = self.get32(register::COUNT).wrapping_add(1);
        self.set32(register::COUNT, count);
    }

    fn job(&self, interrupt: bool) -> Job {
        Job {
            source: self.get64(register::SOURCE),
            destination: self.get64(register::DESTINATION),
            length: self.get32(register::LENGTH),
            interrupt,
        }
    }

    fn get32(&self, register: u64) -> u32 {
        self.get64(register) as u32
    }

    /// All registers of 4 bytes have 4 more behind them.
    fn get64(&self, register: u64) -> u64 {
        let bytes = self.0.iter().skip(register as usize).take(8);
        bytes.rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn set32(&mut self, register: u64, value: u32) {
        let at = register as usize;
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// The bytes of an access, which all have to be registers.
fn range(offset: u64, len: usize) -> Result<Range<usize>, Fault> {
    let start = usize::try_from(offset).map_err(|_| Fault::Unmodelled)?;
    let end = start.checked_add(len).filter(|end| *end <= FILE).ok_or(Fault::Unmodelled)?;
    Ok(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(registers: &Registers, offset: u64) -> u32 {
        let mut data = [0; 4];
        registers.read(offset, &mut data).unwrap();
        u32::from_le_bytes(data)
    }

    #[test]
    fn commands_take_what_the_registers_hold() {
        let mut registers = Registers::new();
        assert_eq!(registers.write(0x08, &0x1_2345_6789u64.to_le_bytes()), Ok(None));
        // In halves, as a driver of 32 bits does.
        assert_eq!(registers.write(0x10, &0x9abc_def0u32.to_le_bytes()), Ok(None));
        assert_eq!(registers.write(0x14, &1u32.to_le_bytes()), Ok(None));
        assert_eq!(registers.write(0x18, &77u32.to_le_bytes()), Ok(None));
        let job =
            Job { source: 0x1_2345_6789, destination: 0x1_9abc_def0, length: 77, interrupt: false };
        assert_eq!(registers.write(0x20, &[1, 0, 0, 0]), Ok(Some(Effect::Copy(job))));
        assert_eq!(registers.write(0x20, &[2]), Ok(Some(Effect::Queue(job))));
        let aloud = Job { interrupt: true, ..job };
        assert_eq!(registers.write(0x20, &[2, 1, 0, 0]), Ok(Some(Effect::Queue(aloud))));
        assert_eq!(registers.write(0x20, &[3, 0, 0, 0]), Ok(None));
        assert_eq!(registers.before_read(0x30, 4), Ok(Some(Effect::Copy(job))));
        assert_eq!(registers.before_read(0x28, 4), Ok(Some(Effect::Acknowledge)));
        assert_eq!(registers.before_read(0x2c, 4), Ok(None));
        assert_eq!(read32(&registers, 0x20), 0, "the command can't be read");
    }

    #[test]
    fn read_only_registers_stay() {
        let mut registers = Registers::new();
        registers.ended(110);
        assert_eq!(registers.write(0x28, &[0xff; 8]), Ok(None));
        assert_eq!(registers.write(0x00, &[0xff; 4]), Ok(None));
        assert_eq!(read32(&registers, 0x00), IDENTIFICATION);
        assert_eq!((read32(&registers, 0x28), read32(&registers, 0x2c)), (1, 110));
        registers.ended(0);
        assert_eq!((read32(&registers, 0x28), read32(&registers, 0x2c)), (2, 0));
    }

    #[test]
    fn the_end_of_the_registers() {
        let mut registers = Registers::new();
        assert_eq!(registers.write(0xfc, &[1, 2, 3, 4]), Ok(None));
        assert_eq!(read32(&registers, 0xfc), 0x0403_0201);
        assert_eq!(registers.write(0xfd, &[0; 4]), Err(Fault::Unmodelled));
        assert_eq!(registers.read(0x100, &mut [0]), Err(Fault::Unmodelled));
        assert_eq!(registers.read(u64::MAX, &mut [0; 4]), Err(Fault::Unmodelled));
    }
}
