//! What the library sees of the device.

use std::sync::{Arc, Mutex};

use vfu::migration::{LoadError, Migration, State};
use vfu::regmap::RegisterDevice;
use vfu::wire::Errno;
use vfu::{Access, Bar, Device, Fault, Handle, Pci, Reset};

use super::engine::Engine;
use super::registers::Registers;

/// The configuration space: 1234:c0b1, 4 KiB of registers, one vector of MSI-X, Function Level Reset.
pub fn pci() -> Pci {
    Pci::endpoint(0x1234, 0xc0b1)
        .class(0x08_80_00) // a system peripheral, of no special kind
        .bar(0, Bar::mem32(4096))
        .msix(1)
        .pcie_endpoint()
}

/// A device that copies memory.
#[derive(Debug)]
pub struct Copier {
    registers: Arc<Mutex<Registers>>,
    engine: Engine,
}

impl Copier {
    /// A device in its state after power-on.
    pub fn new(handle: Handle) -> Copier {
        let registers = Arc::new(Mutex::new(Registers::after_power_on()));
        let engine = Engine::new(handle, registers.clone());
        Copier { registers, engine }
    }
}

impl Device for Copier {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        self.registers.lock().unwrap().bar_read(at.offset, data)
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        let mut registers = self.registers.lock().unwrap();
        registers.bar_write(at.offset, data)?;
        if let Some(job) = registers.job.take() {
            self.engine.start(job);
        }
        Ok(())
    }

    fn reset(&mut self, kind: Reset) {
        self.engine.renew();
        let mut registers = self.registers.lock().unwrap();
        if kind != Reset::ConnectionLost {
            registers.values.reset();
        } else if registers.is_busy() {
            let lost = registers.asked();
            registers.end(&lost, false); // its memory is gone; the rest stays
        }
    }

    fn resume(&mut self) {
        if let Some(job) = self.registers.lock().unwrap().job.take() {
            self.engine.start(job); // it was not stopped after all
        }
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }
}

vfu::state! { Registers { values } }

impl Migration for Copier {
    fn stop(&mut self) -> Result<(), Errno> {
        self.engine.renew(); // what it was at stays BUSY
        Ok(())
    }

    fn start(&mut self) -> Result<(), Errno> {
        let registers = self.registers.lock().unwrap();
        if registers.is_busy() {
            self.engine.start(registers.asked()); // from the beginning
        }
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        Ok(self.registers.lock().unwrap().to_state())
    }

    fn load(&mut self, version: u32, state: &[u8]) -> Result<(), LoadError> {
        Ok(self.registers.lock().unwrap().load_state(version, state)?)
    }
}
