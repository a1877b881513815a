//! `idio16`: the ACCES PCI-IDIO-16, 494f:0dc8: 16 isolated inputs and 16 FET outputs.
//!
//! Linux drives it with its own `gpio-pci-idio-16`, as 32 GPIO lines: 0 to 15 are the outputs, 16
//! to 31 the inputs. There is no field wiring here, so **input n reads output n**: a driver that
//! sets an output sees the input change, and gets its interrupt.
//!
//! BAR 2 is 8 bytes of I/O space, as on the card. All registers are one byte; a wider access is as
//! many accesses of a byte, the lowest first.
//!
#![doc = include_str!("idio16/registers.md")]
//!
//! Changes count while interrupts are enabled. The pin INTA# is up while an interrupt waits and
//! interrupts are enabled; disabling them does not clear it.
//!
//! Filters suppress pulses of less than 5 ms on the real card. Here the registers are kept, and
//! inputs change at once.

use vfu::migration::{LoadError, Migration, State as _};
use vfu::regmap::{RegisterBank, RegisterDevice, RegisterRead, RegisterWrite};
use vfu::wire::Errno;
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

vfu::registers! {
    /// What the BAR holds.
    pub fn register_map("idio16", BAR_SIZE);

    0 OUTPUTS_LOW: Rw<u8>, "outputs 0 to 7";
    1 INPUTS_LOW: Ro<u8>, "inputs 0 to 7" .on_write("any value clears the interrupt");
    2 INTERRUPT_CONTROL: Raz<u8> .on_read("enables interrupts").on_write("disables interrupts");
    3 FILTER_CONTROL: Raz<u8> .on_read("turns all filters on").on_write("turns all filters off");
    4 OUTPUTS_HIGH: Rw<u8>, "outputs 8 to 15";
    5 INPUTS_HIGH: Ro<u8>, "inputs 8 to 15";
    6 INTERRUPT_STATUS: Ro<u8> {
        0 STATUS_LOW_CHANGED, "an input of 0 to 7 changed";
        1 STATUS_HIGH_CHANGED, "an input of 8 to 15 changed";
        2 STATUS_INTERRUPT, "an interrupt waits to be cleared";
    };
    7 FILTERS: Rw<u8>, "filters of inputs 0 to 7" .on_write("ignored while all are on");
}

const ON: u64 = 1;

/// The card.
#[derive(Debug)]
pub struct Idio16 {
    handle: Handle,
    /// Bit 0 of the two control registers, which read 0: they are on.
    bank: RegisterBank,
    /// The level of the pin.
    pin: bool,
}

impl Idio16 {
    /// A card in its state after power-on: all outputs off, interrupts disabled.
    pub fn new(handle: Handle) -> Self {
        Idio16 { handle, bank: RegisterBank::new(register_map()), pin: false }
    }

    /// The wiring: input n reads output n.
    fn set_inputs(&mut self, inputs: u64, value: u64, changed: u64) {
        if self.bank.has(INTERRUPT_CONTROL, ON) && self.bank.get(inputs) != value {
            self.bank.set_bits(INTERRUPT_STATUS, STATUS_INTERRUPT | changed);
        }
        self.bank.set(inputs, value);
    }
}

impl RegisterDevice for Idio16 {
    fn bank(&mut self) -> &mut RegisterBank {
        &mut self.bank
    }

    fn on_read(&mut self, read: RegisterRead) -> Result<u64, Fault> {
        match read.register {
            INTERRUPT_CONTROL => self.bank.set(INTERRUPT_CONTROL, ON),
            FILTER_CONTROL => {
                self.bank.set(FILTER_CONTROL, ON);
                self.bank.set(FILTERS, 0xff);
            }
            _ => {}
        }
        Ok(read.value)
    }

    fn on_write(&mut self, write: RegisterWrite) -> Result<u64, Fault> {
        match write.register {
            OUTPUTS_LOW => self.set_inputs(INPUTS_LOW, write.value, STATUS_LOW_CHANGED),
            OUTPUTS_HIGH => self.set_inputs(INPUTS_HIGH, write.value, STATUS_HIGH_CHANGED),
            INPUTS_LOW => self.bank.set(INTERRUPT_STATUS, 0),
            INTERRUPT_CONTROL => return Ok(0),
            FILTER_CONTROL => {
                self.bank.set(FILTERS, 0);
                return Ok(0);
            }
            FILTERS if self.bank.has(FILTER_CONTROL, ON) => return Ok(write.old),
            _ => {}
        }
        Ok(write.value)
    }

    fn settle(&mut self) {
        let waits = self.bank.has(INTERRUPT_STATUS, STATUS_INTERRUPT);
        let up = waits && self.bank.has(INTERRUPT_CONTROL, ON);
        if up != self.pin {
            self.pin = up;
            self.handle.intx().set(up);
        }
    }
}

impl Device for Idio16 {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        self.bar_read(at.offset, data)
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        self.bar_write(at.offset, data)
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }

    /// The outputs go off. A client that goes away leaves the card as it is.
    fn reset(&mut self, kind: Reset) {
        match kind {
            Reset::ConnectionLost => self.bank.report_uncovered(),
            _ => self.bank.reset(),
        }
        self.settle();
    }
}

vfu::state! { Idio16 { bank, pin } }

impl Migration for Idio16 {
    fn max_len(&self) -> usize {
        4096
    }

    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        Ok(self.to_state())
    }

    fn load(&mut self, version: u32, state: &[u8]) -> Result<(), LoadError> {
        Ok(self.load_state(version, state)?)
    }
}

#[cfg(test)]
mod tests;
