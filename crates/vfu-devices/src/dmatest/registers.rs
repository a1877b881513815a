//! The registers, without threads, memory or interrupts: accesses in, effects out.

use vfu::Fault;
use vfu::regmap::{RegisterBank, RegisterDevice, RegisterRead, RegisterWrite};

use super::{IDENTIFICATION, command, register};

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

#[derive(Clone, Debug)]
pub(super) struct Registers {
    bank: RegisterBank,
    /// What the last access asks for.
    effect: Option<Effect>,
}

vfu::state! { Job { source, destination, length, interrupt } }
vfu::state! { Registers { bank } }

impl RegisterDevice for Registers {
    fn bank(&mut self) -> &mut RegisterBank {
        &mut self.bank
    }

    fn on_read(&mut self, read: RegisterRead) -> Result<u64, Fault> {
        if read.register == register::COUNT {
            self.effect = Some(Effect::Acknowledge);
        }
        Ok(read.value)
    }

    fn on_write(&mut self, write: RegisterWrite) -> Result<u64, Fault> {
        if write.register == register::COMMAND {
            let job = self.job(write.written & register::INTERRUPT != 0);
            self.effect = match (write.written & register::PLACE) as u32 {
                command::IN_HANDLER => Some(Effect::Copy(job)),
                command::ON_THREAD => Some(Effect::Queue(job)),
                _ => None,
            };
        }
        Ok(write.value)
    }
}

impl Registers {
    /// As after power-on.
    pub(super) fn new() -> Self {
        Registers { bank: RegisterBank::new(register::map()), effect: None }
    }

    /// As after power-on, again.
    pub(super) fn reset(&mut self) {
        self.bank.reset();
    }

    /// What to do before a read is answered.
    pub(super) fn before_read(&self, offset: u64) -> Option<Job> {
        (offset == register::COPY).then(|| self.job(false))
    }

    /// Fills `data` from `offset` on.
    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<Option<Effect>, Fault> {
        self.bar_read(offset, data)?;
        Ok(self.effect.take())
    }

    /// Writes what may be written.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<Option<Effect>, Fault> {
        self.bar_write(offset, data)?;
        Ok(self.effect.take())
    }

    /// A copy has ended.
    pub(super) fn ended(&mut self, errno: u32) {
        self.bank.set(register::ERRNO, errno.into());
        self.bank.set(register::COPY, errno.into());
        self.bank.set(register::COUNT, self.bank.get(register::COUNT).wrapping_add(1));
    }

    /// Whether a device can have come to hold these.
    pub(super) fn are_possible(&self) -> bool {
        self.bank.get(register::IDENTIFICATION) == u64::from(IDENTIFICATION)
    }

    fn job(&self, interrupt: bool) -> Job {
        Job {
            source: self.bank.get(register::SOURCE),
            destination: self.bank.get(register::DESTINATION),
            length: self.bank.get(register::LENGTH) as u32,
            interrupt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(registers: &mut Registers, offset: u64) -> u32 {
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
        assert_eq!(registers.before_read(0x30), Some(job));
        assert_eq!(registers.before_read(0x2c), None);
        assert_eq!(registers.read(0x28, &mut [0; 4]), Ok(Some(Effect::Acknowledge)));
        assert_eq!(registers.read(0x24, &mut [0; 8]), Ok(Some(Effect::Acknowledge)));
        assert_eq!(registers.read(0x2c, &mut [0; 4]), Ok(None));
        let command = registers.read(0x20, &mut [0; 4]);
        assert_eq!(command, Err(Fault::Unmodelled), "it can't be read");
    }

    #[test]
    fn read_only_registers_stay() {
        let mut registers = Registers::new();
        registers.ended(110);
        assert_eq!(registers.write(0x28, &[0xff; 8]), Ok(None));
        assert_eq!(registers.write(0x00, &[0xff; 4]), Ok(None));
        assert_eq!(read32(&mut registers, 0x00), IDENTIFICATION);
        assert_eq!((read32(&mut registers, 0x28), read32(&mut registers, 0x2c)), (1, 110));
        registers.ended(0);
        assert_eq!((read32(&mut registers, 0x28), read32(&mut registers, 0x2c)), (2, 0));
    }

    #[test]
    fn the_end_of_the_registers() {
        let mut registers = Registers::new();
        assert_eq!(registers.write(0xfc, &[1, 2, 3, 4]), Ok(None));
        assert_eq!(read32(&mut registers, 0xfc), 0x0403_0201);
        assert_eq!(registers.write(0xfd, &[0; 4]), Ok(None), "the first bytes of it");
        assert_eq!(read32(&mut registers, 0xfc), 1);
        assert_eq!(registers.write(0x100, &[0; 4]), Err(Fault::Unmodelled));
        assert_eq!(registers.read(0x100, &mut [0]), Err(Fault::Unmodelled));
        assert_eq!(registers.read(u64::MAX, &mut [0; 4]), Err(Fault::Unmodelled));
    }
}
