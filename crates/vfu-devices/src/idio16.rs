//! `idio16`: the ACCES PCI-IDIO-16, 494f:0dc8: 16 isolated inputs and 16 FET outputs.
//!
//! Linux drives it with its own `gpio-pci-idio-16`, as 32 GPIO lines: 0 to 15 are the outputs, 16
//! to 31 the inputs. There is no field wiring here, so **input n reads output n**: a driver that
//! sets an output sees the input change, and gets its interrupt.
//!
//! BAR 2 is 8 bytes of I/O space, as on the card. All registers are one byte; a wider access is as
//! many accesses of a byte, the lowest first.
//!
//! | offset | read | write |
//! |---|---|---|
//! | 0 | outputs 0 to 7 | outputs 0 to 7 |
//! | 1 | inputs 0 to 7 | any value clears the interrupt |
//! | 2 | enables interrupts, gives 0 | any value disables interrupts |
//! | 3 | turns the filters of all inputs on, gives 0 | any value turns them off |
//! | 4 | outputs 8 to 15 | outputs 8 to 15 |
//! | 5 | inputs 8 to 15 | nothing |
//! | 6 | interrupt status | nothing |
//! | 7 | filters of inputs 0 to 7 | filters of inputs 0 to 7, unless all are on |
//!
//! Interrupt status: bit 2 says that an interrupt waits to be cleared; bit 0 that an input of 0 to
//! 7 changed, bit 1 that one of 8 to 15 did. Changes count while interrupts are enabled. The pin
//! INTA# is up while an interrupt waits and interrupts are enabled; disabling them does not clear
//! it.
//!
//! Filters suppress pulses of less than 5 ms on the real card. Here the registers are kept, and
//! inputs change at once.

use vfu::{Access, Bar, Device, Fault, Handle, Pci, Pin, Reset};

/// Vendor id: ACCES I/O Products.
pub const VENDOR: u16 = 0x494f;
/// Device id.
pub const DEVICE: u16 = 0x0dc8;
/// Which BAR has the registers.
pub const BAR: usize = 2;
/// The length of the BAR, in bytes.
pub const BAR_SIZE: u64 = 8;

/// The configuration space: one I/O BAR, INTA#. The class is that of the bus bridge that cards of
/// this kind are built on; drivers go by the ids.
pub fn pci() -> Pci {
    Pci::endpoint(VENDOR, DEVICE).class(0x06_80_00).bar(BAR, Bar::io(BAR_SIZE)).intx(Pin::A)
}

const OUTPUTS_LOW: u64 = 0;
const INPUTS_LOW: u64 = 1;
const INTERRUPT_CONTROL: u64 = 2;
const FILTER_CONTROL: u64 = 3;
const OUTPUTS_HIGH: u64 = 4;
const INPUTS_HIGH: u64 = 5;
const INTERRUPT_STATUS: u64 = 6;
const FILTERS: u64 = 7;

const STATUS_LOW_CHANGED: u8 = 1 << 0;
const STATUS_HIGH_CHANGED: u8 = 1 << 1;
const STATUS_INTERRUPT: u8 = 1 << 2;

/// The card.
#[derive(Debug)]
pub struct Idio16 {
    handle: Handle,
    registers: Registers,
    /// The level of the pin.
    pin: bool,
}

impl Idio16 {
    /// A card in its state after power-on: all outputs off, interrupts disabled.
    pub fn new(handle: Handle) -> Self {
        Idio16 { handle, registers: Registers::default(), pin: false }
    }

    fn update_pin(&mut self) {
        let up = self.registers.pin();
        if up != self.pin {
            self.pin = up;
            self.handle.intx().set(up);
        }
    }
}

impl Device for Idio16 {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        for (offset, byte) in (at.offset..).zip(data) {
            *byte = self.registers.read(offset);
        }
        self.update_pin();
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        for (offset, byte) in (at.offset..).zip(data) {
            self.registers.write(offset, *byte);
        }
        self.update_pin();
        Ok(())
    }

    /// The outputs go off. A client that goes away is a reset too: the next one finds the card as
    /// after power-on.
    fn reset(&mut self, _: Reset) {
        self.registers = Registers::default();
        self.pin = false;
        self.handle.intx().lower();
    }
}

/// The registers alone: bytes in, the level of the pin out.
#[derive(Debug, Default)]
struct Registers {
    /// Bytes 0 to 7, and 8 to 15.
    outputs: [u8; 2],
    interrupts_enabled: bool,
    status: u8,
    all_filters: bool,
    filters: u8,
}

impl Registers {
    fn pin(&self) -> bool {
        self.interrupts_enabled && self.status & STATUS_INTERRUPT != 0
    }

    fn read(&mut self, offset: u64) -> u8 {
        match offset {
            OUTPUTS_LOW => self.outputs[0],
            OUTPUTS_HIGH => self.outputs[1],
            INPUTS_LOW => self.inputs()[0],
            INPUTS_HIGH => self.inputs()[1],
            INTERRUPT_STATUS => self.status,
            FILTERS if self.all_filters => 0xff,
            FILTERS => self.filters,
            INTERRUPT_CONTROL => {
                self.interrupts_enabled = true;
                0
            }
            FILTER_CONTROL => {
                self.all_filters = true;
                0
            }
            _ => 0xff,
        }
    }

    fn write(&mut self, offset: u64, value: u8) {
        match offset {
            OUTPUTS_LOW => self.set_outputs([value, self.outputs[1]]),
            OUTPUTS_HIGH => self.set_outputs([self.outputs[0], value]),
            INPUTS_LOW => self.status = 0,
            INTERRUPT_CONTROL => self.interrupts_enabled = false,
            FILTER_CONTROL => (self.all_filters, self.filters) = (false, 0),
            FILTERS if !self.all_filters => self.filters = value,
            _ => {}
        }
    }

    /// The wiring: input n reads output n.
    fn inputs(&self) -> [u8; 2] {
        self.outputs
    }

    fn set_outputs(&mut self, outputs: [u8; 2]) {
        let before = self.inputs();
        self.outputs = outputs;
        let now = self.inputs();
        if self.interrupts_enabled && before != now {
            self.status |= STATUS_INTERRUPT;
            for (half, bit) in [STATUS_LOW_CHANGED, STATUS_HIGH_CHANGED].into_iter().enumerate() {
                if before[half] != now[half] {
                    self.status |= bit;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
