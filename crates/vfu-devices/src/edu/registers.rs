//! The registers, without threads, memory or interrupts: accesses in, actions out.

use std::ops::Range;

use vfu::Fault;
use vfu::regmap::BitAccess::Rw;
use vfu::regmap::{Field, Register, RegisterBank, RegisterDevice, RegisterMap, RegisterWrite};

use super::{BAR_SIZE, BUFFER_ADDRESS, BUFFER_SIZE, IRQ_DMA, IRQ_FACTORIAL};

const IDENTIFICATION: u64 = 0x00;
const LIVENESS: u64 = 0x04;
const FACTORIAL: u64 = 0x08;
const STATUS: u64 = 0x20;
const INTERRUPT_STATUS: u64 = 0x24;
const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;

const STATUS_COMPUTING: u64 = 0x01;
const STATUS_INTERRUPT: u64 = 0x80;
const COMMAND_RUN: u64 = 0x1;
const COMMAND_TO_RAM: u64 = 0x2;
const COMMAND_INTERRUPT: u64 = 0x4;

pub(super) fn map() -> RegisterMap {
    RegisterMap::builder("edu", BAR_SIZE)
        .widths(&[4, 8])
        .zero_extend()
        .register(
            Register::ro(IDENTIFICATION, 4, "identification")
                .reset(0x0100_00ed)
                .about("version 1.0"),
        )
        .register(
            Register::rw(LIVENESS, 4, "liveness")
                .about("reads the bitwise inverse of what was written"),
        )
        .register(
            Register::rw(FACTORIAL, 4, "factorial")
                .on_write("n starts n! modulo 2^32; ignored while one is computed"),
        )
        .register(
            Register::ro(STATUS, 4, "status")
                .field(Field::new(STATUS_COMPUTING, "computing"))
                .field(Field::new(STATUS_INTERRUPT, "interrupt when done").access(Rw)),
        )
        .register(
            Register::ro(INTERRUPT_STATUS, 4, "interrupt status")
                .about("what was raised and not yet acknowledged"),
        )
        .register(
            Register::wo(RAISE, 4, "raise")
                .on_write("sets these bits of the interrupt status, and interrupts"),
        )
        .register(
            Register::wo(ACKNOWLEDGE, 4, "acknowledge")
                .on_write("clears these bits of the interrupt status"),
        )
        .register(Register::rw(DMA_SOURCE, 8, "DMA source").about("an address"))
        .register(Register::rw(DMA_DESTINATION, 8, "DMA destination").about("an address"))
        .register(Register::rw(DMA_COUNT, 8, "DMA count").about("in bytes"))
        .register(
            Register::rw(DMA_COMMAND, 8, "DMA command")
                .field(Field::new(COMMAND_RUN, "start, reads 1 while it runs"))
                .field(
                    Field::new(COMMAND_TO_RAM, "direction")
                        .value(0, "from RAM to the buffer")
                        .value(1, "from the buffer to RAM"),
                )
                .field(Field::new(COMMAND_INTERRUPT, "interrupt when done")),
        )
        .build()
        .expect("the map has no mistakes")
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl RegisterDevice for Registers {
    fn bank(&mut self) -> &mut RegisterBank {
        &mut self.bank
    }

    fn on_write(&mut self, write: RegisterWrite) -> Result<u64, Fault> {
        let RegisterWrite { register, value, old, .. } = write;
        Ok(match register {
            LIVENESS => !value,
            FACTORIAL if self.bank.has(STATUS, STATUS_COMPUTING) => old,
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

    fn is_running(&self) -> bool {
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
