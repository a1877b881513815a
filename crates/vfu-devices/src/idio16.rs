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
        self.registers.bar_read(at.offset, data)?;
        self.update_pin();
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        self.registers.bar_write(at.offset, data)?;
        self.update_pin();
        Ok(())
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }

    /// The outputs go off. A client that goes away leaves the card as it is.
    fn reset(&mut self, kind: Reset) {
        if kind == Reset::ConnectionLost {
            return;
        }
        self.registers.bank.reset();
        (self.registers.interrupts_enabled, self.registers.all_filters) = (false, false);
        self.pin = false;
        self.handle.intx().lower();
    }
}

vfu::state! { Idio16 { registers, pin } }

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

/// The registers alone: accesses in, the level of the pin out.
#[derive(Debug)]
struct Registers {
    bank: RegisterBank,
    interrupts_enabled: bool,
    all_filters: bool,
}

vfu::state! { Registers { bank, interrupts_enabled, all_filters } }

impl Default for Registers {
    fn default() -> Self {
        let bank = RegisterBank::new(register_map());
        Registers { bank, interrupts_enabled: false, all_filters: false }
    }
}

impl RegisterDevice for Registers {
    fn bank(&mut self) -> &mut RegisterBank {
        &mut self.bank
    }

    fn on_read(&mut self, read: RegisterRead) -> Result<u64, Fault> {
        match read.register {
            INTERRUPT_CONTROL => self.interrupts_enabled = true,
            FILTER_CONTROL => self.set_filters(true),
            _ => {}
        }
        Ok(read.value)
    }

    fn on_write(&mut self, write: RegisterWrite) -> Result<u64, Fault> {
        match write.register {
            OUTPUTS_LOW => self.set_inputs(INPUTS_LOW, write.value, STATUS_LOW_CHANGED),
            OUTPUTS_HIGH => self.set_inputs(INPUTS_HIGH, write.value, STATUS_HIGH_CHANGED),
            INPUTS_LOW => self.bank.set(INTERRUPT_STATUS, 0),
            INTERRUPT_CONTROL => self.interrupts_enabled = false,
            FILTER_CONTROL => self.set_filters(false),
            FILTERS if self.all_filters => return Ok(write.old),
            _ => {}
        }
        Ok(write.value)
    }
}

impl Registers {
    fn pin(&self) -> bool {
        self.interrupts_enabled && self.bank.has(INTERRUPT_STATUS, STATUS_INTERRUPT)
    }

    fn set_filters(&mut self, all: bool) {
        self.all_filters = all;
        self.bank.set(FILTERS, if all { 0xff } else { 0 });
    }

    /// The wiring: input n reads output n.
    fn set_inputs(&mut self, inputs: u64, value: u64, changed: u64) {
        if self.interrupts_enabled && self.bank.get(inputs) != value {
            self.bank.set_bits(INTERRUPT_STATUS, STATUS_INTERRUPT | changed);
        }
        self.bank.set(inputs, value);
    }
}

/// Accesses of one byte.
#[cfg(test)]
impl Registers {
    fn read(&mut self, offset: u64) -> u8 {
        let mut data = [0xff];
        self.bar_read(offset, &mut data).map_or(0xff, |()| data[0])
    }

    fn write(&mut self, offset: u64, value: u8) {
        let _nothing_there = self.bar_write(offset, &[value]);
    }
}

#[cfg(test)]
mod tests;
