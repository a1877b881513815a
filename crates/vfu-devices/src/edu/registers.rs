//! The registers, without threads, memory or interrupts: accesses in, actions out.

use std::ops::Range;

use vfu::Fault;
use vfu::regmap::{RegisterBank, RegisterDevice, RegisterWrite};

use super::{BAR_SIZE, BUFFER_ADDRESS, BUFFER_SIZE, IRQ_DMA, IRQ_FACTORIAL};

vfu::registers! {
    pub(super) fn map("edu", BAR_SIZE).widths(&[4, 8]).zero_extend();

    0x00 IDENTIFICATION: Ro<u32> = 0x0100_00ed, "version 1.0";
    0x04 LIVENESS: Rw<u32>, "reads the bitwise inverse of what was written";
    0x08 FACTORIAL: Rw<u32>, "writing n starts n! modulo 2^32; ignored while one is computed";
    0x20 STATUS: Ro<u32> {
        0 STATUS_COMPUTING, "a factorial is being computed";
        7 STATUS_INTERRUPT: Rw, "interrupt when it is done";
    };
    0x24 INTERRUPT_STATUS: Ro<u32>, "what was raised and not yet acknowledged";
    0x60 RAISE: Wo<u32>, "sets these bits of the interrupt status, and interrupts";
    0x64 ACKNOWLEDGE: Wo<u32>, "clears these bits of the interrupt status";
    0x80 DMA_SOURCE: Rw<u64>, "an address";
    0x88 DMA_DESTINATION: Rw<u64>, "an address";
    0x90 DMA_COUNT: Rw<u64>, "in bytes";
    0x98 DMA_COMMAND: Rw<u64> {
        0 COMMAND_RUN, "start; reads 1 while it runs";
        1 COMMAND_TO_RAM, "direction" { 0 = "from RAM to the buffer", 1 = "from it to RAM" };
        2 COMMAND_INTERRUPT, "interrupt when done";
    };
}

/// What a write asks the device to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Compute this factorial, then call [`Registers::computed`].
    Compute(u32),
    /// Move bytes, then call [`Registers::copied`].
    Copy(Transfer),
    /// Move nothing: the command leaves the buffer. Call [`Registers::copied`].
    OutOfBounds,
    /// Interrupt the driver.
    Interrupt,
    /// The interrupt status has lost bits.
    Acknowledge,
}

/// One run of the DMA engine, inside the buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Transfer {
    /// From the buffer to RAM; else the other way.
    pub(super) to_ram: bool,
    /// Where in RAM, behind the mask.
    pub(super) ram: u64,
    /// The mask has changed the address.
    pub(super) masked: bool,
    /// Where in the buffer.
    pub(super) buffer: Range<usize>,
}

#[derive(Debug)]
pub(super) struct Registers {
    pub(super) dma_mask: u64,
    bank: RegisterBank,
    /// What the last write asks for.
    pub(super) action: Option<Action>,
}

vfu::state! { Registers { bank, dma_mask } }
vfu::state! { Transfer { to_ram, ram, masked, buffer } }

impl RegisterDevice for Registers {
    fn bank(&mut self) -> &mut RegisterBank {
        &mut self.bank
    }

    fn on_write(&mut self, write: RegisterWrite) -> Result<u64, Fault> {
        let RegisterWrite { register, value, old, .. } = write;
        Ok(match register {
            LIVENESS => !value,
            FACTORIAL if self.is_computing() => old,
            FACTORIAL => {
                self.bank.set_bits(STATUS, STATUS_COMPUTING);
                self.action = Some(Action::Compute(value as u32));
                value
            }
            RAISE => {
                self.action = self.raise(value as u32).then_some(Action::Interrupt);
                value
            }
            ACKNOWLEDGE => {
                self.bank.clear_bits(INTERRUPT_STATUS, value);
                self.action = Some(Action::Acknowledge);
                value
            }
            DMA_SOURCE | DMA_DESTINATION | DMA_COUNT | DMA_COMMAND if self.is_running() => old,
            DMA_COMMAND if value & COMMAND_RUN == 0 => old,
            DMA_COMMAND => {
                self.action = Some(self.transfer(value).map_or(Action::OutOfBounds, Action::Copy));
                value
            }
            _ => value,
        })
    }
}

impl Registers {
    /// As after power-on.
    pub(super) fn new(dma_mask: u64) -> Self {
        Registers { dma_mask, bank: RegisterBank::new(map()), action: None }
    }

    /// As after power-on, again.
    pub(super) fn reset(&mut self) {
        self.bank.reset();
    }

    pub(super) fn interrupt_status(&self) -> u32 {
        self.bank.get(INTERRUPT_STATUS) as u32
    }

    /// The factorial is computed. Whether to interrupt.
    pub(super) fn computed(&mut self, result: u32) -> bool {
        self.bank.set(FACTORIAL, result.into());
        self.bank.clear_bits(STATUS, STATUS_COMPUTING);
        self.bank.has(STATUS, STATUS_INTERRUPT) && self.raise(IRQ_FACTORIAL)
    }

    /// The DMA has ended, well or not. Whether to interrupt.
    pub(super) fn copied(&mut self) -> bool {
        self.bank.clear_bits(DMA_COMMAND, COMMAND_RUN);
        self.bank.has(DMA_COMMAND, COMMAND_INTERRUPT) && self.raise(IRQ_DMA)
    }

    fn raise(&mut self, bits: u32) -> bool {
        self.bank.set_bits(INTERRUPT_STATUS, bits.into());
        self.interrupt_status() != 0
    }

    pub(super) fn is_computing(&self) -> bool {
        self.bank.has(STATUS, STATUS_COMPUTING)
    }

    pub(super) fn is_running(&self) -> bool {
        self.bank.has(DMA_COMMAND, COMMAND_RUN)
    }

    /// What a command asks for. `None`: it does not lie in the buffer.
    fn transfer(&self, command: u64) -> Option<Transfer> {
        let (source, destination) = (self.bank.get(DMA_SOURCE), self.bank.get(DMA_DESTINATION));
        let to_ram = command & COMMAND_TO_RAM != 0;
        let (ram, device) = if to_ram { (destination, source) } else { (source, destination) };
        let start = usize::try_from(device.checked_sub(BUFFER_ADDRESS)?).ok()?;
        let end = start.checked_add(usize::try_from(self.bank.get(DMA_COUNT)).ok()?)?;
        let masked = ram & self.dma_mask;
        (end <= BUFFER_SIZE).then_some(Transfer {
            to_ram,
            ram: masked,
            masked: masked != ram,
            buffer: start..end,
        })
    }
}

/// Accesses as values.
#[cfg(test)]
impl Registers {
    fn read(&self, offset: u64, width: usize) -> Result<u64, Fault> {
        self.bank.peek(offset, width)
    }

    fn write(&mut self, offset: u64, width: usize, value: u64) -> Result<Option<Action>, Fault> {
        self.bar_write(offset, value.to_le_bytes().get(..width).ok_or(Fault::Width)?)?;
        Ok(self.action.take())
    }
}

#[cfg(test)]
mod tests;
