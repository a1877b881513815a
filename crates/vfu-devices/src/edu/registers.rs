//! The registers, without threads, memory or interrupts: accesses in, actions out.

use std::ops::Range;

use vfu::Fault;

use super::{BUFFER_ADDRESS, BUFFER_SIZE, IRQ_DMA, IRQ_FACTORIAL};

const IDENTIFICATION: u64 = 0x00;
const LIVENESS: u64 = 0x04;
const FACTORIAL: u64 = 0x08;
const STATUS: u64 = 0x20;
const INTERRUPT_STATUS: u64 = 0x24;
const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
/// From here on registers are 8 bytes wide.
const WIDE: u64 = 0x80;
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;

const VERSION: u32 = 0x0100_00ed;
const STATUS_COMPUTING: u32 = 0x01;
const STATUS_INTERRUPT: u32 = 0x80;
const COMMAND_RUN: u64 = 0x1;
const COMMAND_TO_RAM: u64 = 0x2;
const COMMAND_INTERRUPT: u64 = 0x4;

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

#[derive(Clone, Debug)]
pub(super) struct Registers {
    pub(super) dma_mask: u64,
    liveness: u32,
    factorial: u32,
    status: u32,
    interrupt_status: u32,
    source: u64,
    destination: u64,
    count: u64,
    command: u64,
}

impl Registers {
    /// As after power-on.
    pub(super) fn new(dma_mask: u64) -> Self {
        Registers {
            dma_mask,
            liveness: 0,
            factorial: 0,
            status: 0,
            interrupt_status: 0,
            source: 0,
            destination: 0,
            count: 0,
            command: 0,
        }
    }

    pub(super) fn interrupt_status(&self) -> u32 {
        self.interrupt_status
    }

    /// The value of the register at `offset`; `width` in bytes.
    pub(super) fn read(&self, offset: u64, width: usize) -> Result<u64, Fault> {
        check_width(offset, width)?;
        Ok(match offset {
            IDENTIFICATION => VERSION.into(),
            LIVENESS => self.liveness.into(),
            FACTORIAL => self.factorial.into(),
            STATUS => self.status.into(),
            INTERRUPT_STATUS => self.interrupt_status.into(),
            DMA_SOURCE => self.source,
            DMA_DESTINATION => self.destination,
            DMA_COUNT => self.count,
            DMA_COMMAND => self.command,
            _ => return Err(Fault::Unmodelled),
        })
    }

    /// Writes the register at `offset`; `width` in bytes.
    pub(super) fn write(
        &mut self,
        offset: u64,
        width: usize,
        value: u64,
    ) -> Result<Option<Action>, Fault> {
        check_width(offset, width)?;
        // Below WIDE the value is 4 bytes long.
        let low = value as u32;
        match offset {
            LIVENESS => self.liveness = !low,
            FACTORIAL if self.status & STATUS_COMPUTING == 0 => {
                self.factorial = low;
                self.status |= STATUS_COMPUTING;
                return Ok(Some(Action::Compute(low)));
            }
            FACTORIAL => {}
            STATUS => {
                self.status = self.status & STATUS_COMPUTING | low & STATUS_INTERRUPT;
            }
            RAISE => return Ok(self.raise(low).then_some(Action::Interrupt)),
            ACKNOWLEDGE => {
                self.interrupt_status &= !low;
                return Ok(Some(Action::Acknowledge));
            }
            DMA_SOURCE | DMA_DESTINATION | DMA_COUNT | DMA_COMMAND if self.is_running() => {}
            DMA_SOURCE => self.source = value,
            DMA_DESTINATION => self.destination = value,
            DMA_COUNT => self.count = value,
            DMA_COMMAND if value & COMMAND_RUN != 0 => {
                self.command = value;
                let transfer = self.transfer();
                return Ok(Some(transfer.map_or(Action::OutOfBounds, Action::Copy)));
            }
            DMA_COMMAND => {}
            // Read-only ones ignore writes.
            IDENTIFICATION | INTERRUPT_STATUS => {}
            _ => return Err(Fault::Unmodelled),
        }
        Ok(None)
    }

    /// The factorial is computed. Whether to interrupt.
    pub(super) fn computed(&mut self, result: u32) -> bool {
        self.factorial = result;
        self.status &= !STATUS_COMPUTING;
        self.status & STATUS_INTERRUPT != 0 && self.raise(IRQ_FACTORIAL)
    }

    /// The DMA has ended, well or not. Whether to interrupt.
    pub(super) fn copied(&mut self) -> bool {
        self.command &= !COMMAND_RUN;
        self.command & COMMAND_INTERRUPT != 0 && self.raise(IRQ_DMA)
    }

    fn raise(&mut self, bits: u32) -> bool {
        self.interrupt_status |= bits;
        self.interrupt_status != 0
    }

    fn is_running(&self) -> bool {
        self.command & COMMAND_RUN != 0
    }

    /// What the DMA registers ask for. `None`: it does not lie in the buffer.
    fn transfer(&self) -> Option<Transfer> {
        let to_ram = self.command & COMMAND_TO_RAM != 0;
        let (ram, device) = match to_ram {
            true => (self.destination, self.source),
            false => (self.source, self.destination),
        };
        let start = usize::try_from(device.checked_sub(BUFFER_ADDRESS)?).ok()?;
        let end = start.checked_add(usize::try_from(self.count).ok()?)?;
        let masked = ram & self.dma_mask;
        (end <= BUFFER_SIZE).then_some(Transfer {
            to_ram,
            ram: masked,
            masked: masked != ram,
            buffer: start..end,
        })
    }
}

fn check_width(offset: u64, width: usize) -> Result<(), Fault> {
    match width {
        4 => Ok(()),
        8 if offset >= WIDE => Ok(()),
        _ => Err(Fault::Width),
    }
}

#[cfg(test)]
mod tests;
