//! `irqtest`: a device that does nothing but interrupt, in every way that there is, 1234:d3a1.
//!
//! It is for testing clients and kernels: whoever drives it says which interrupt to raise, and how often,
//! and finds out how often it was.
//!
//! It has 20 vectors of MSI-X (table and Pending Bit Array in BAR 1, at 0 and 0x1000), 4 of MSI with
//! Mask and Pending Bits, the pin INTA#, ERR and REQ, and Advanced Error Reporting. BAR 0 is 4 KiB of
//! 32-bit memory:
//!
#![doc = include_str!("irqtest/registers.md")]
//!
//! A vector that is masked counts as raised; it is the library that keeps it. One that can't be raised
//! (no driver has enabled MSI-X or MSI, or bus mastering) counts as failed. A storm is over when the
//! write that starts it is.
//!
//! **Reset**, of any kind: all registers go to what the table says, and the pin goes down. A client that
//! goes away leaves the device as it is.

use std::time::Duration;

use vfu::migration::{LoadError, Migration, State as _};
use vfu::pci::Msi;
use vfu::regmap::{RegisterBank, RegisterDevice, RegisterRead, RegisterWrite};
use vfu::wire::Errno;
use vfu::{
    Access, Bar, Coalescing, Device, DeviceError, Fault, Handle, IrqError, IrqIndex, Pci, Pin,
    Reset,
};

/// Vendor id: QEMU's, for experiments.
pub const VENDOR: u16 = 0x1234;
/// Device id.
pub const DEVICE: u16 = 0xd3a1;
/// The length of BAR 0, in bytes.
pub const BAR_SIZE: u64 = 4096;
/// How many vectors MSI-X has.
pub const VECTORS: u16 = 20;
/// How many vectors MSI has.
pub const MSI_VECTORS: u8 = 4;
/// The longest storm, in rounds.
pub const MAX_STORM: u64 = 10_000;

const ALL: u64 = (1 << VECTORS) - 1;

/// The configuration space.
pub fn pci() -> Pci {
    Pci::endpoint(VENDOR, DEVICE)
        .class(0xff_00_00)
        .subsystem(VENDOR, DEVICE)
        .bar(0, Bar::mem32(BAR_SIZE))
        .intx(Pin::A)
        .pm()
        .msi_with(Msi { vectors: MSI_VECTORS, address64: true, per_vector_mask: true })
        .msix(VECTORS)
        .pcie_endpoint()
        .aer()
}

vfu::registers! {
    /// What BAR 0 holds.
    pub fn register_map("irqtest", BAR_SIZE);

    0x00 IDENTIFICATION: Ro<u32> = 0x5152_4951;
    0x04 IN_USE: Ro<u32> {
        0..=15 IN_USE_VECTORS, "how many vectors the driver uses";
        16..=19 IN_USE_TYPE, "of this type" { 0 = "none", 1 = "MSI", 2 = "MSI-X" };
    };
    0x08 RAISE: Wo<u32>, "raises the vector of this number";
    0x0c RAISE_SET: Wo<u32>, "raises the vectors whose bits are set";
    0x10 STORM_SET: Rw<u32> = 0xfffff, "the vectors of a storm, a bit for each";
    0x14 STORM: Wo<u32>, "raises each of them so often, in turn; at most 10000 times";
    0x18 PIN: Rw<u32> { 0 PIN_UP, "the level of INTA#"; };
    0x1c NOTICE: Wo<u32> { 0 NOTICE_ERR, "raises ERR"; 1 NOTICE_REQ, "raises REQ"; };
    0x20 ERROR: Wo<u32>, "reports the uncorrectable error of this bit number by AER";
    0x24 COALESCE: Rw<u32>, "the least time between two signals of a vector, in microseconds";
    0x28 FAILED: Ro<u32>, "how many interrupts could not be raised";
    0x40 RAISED[20; 4]: Ro<u32>, "how often each vector was raised";
}

/// The device.
#[derive(Debug)]
pub struct IrqTest {
    handle: Handle,
    bank: RegisterBank,
}

vfu::state! { IrqTest { bank } }

impl IrqTest {
    /// A device in its state after power-on.
    pub fn new(handle: Handle) -> Self {
        IrqTest { handle, bank: RegisterBank::new(register_map()) }
    }

    fn count(&mut self, register: u64) {
        self.bank.set(register, self.bank.get(register).wrapping_add(1) & 0xffff_ffff);
    }

    fn note_failure(&mut self, result: Result<(), IrqError>) -> bool {
        let failed = result.is_err();
        if failed {
            self.count(FAILED);
        }
        failed
    }

    fn raise(&mut self, vector: u32) {
        let failed = self.note_failure(self.handle.vector(vector).trigger());
        if !failed && vector < VECTORS.into() {
            self.count(self.bank.element(RAISED, vector));
        }
    }

    fn raise_set(&mut self, set: u64) {
        (0..VECTORS.into()).filter(|vector| set >> vector & 1 != 0).for_each(|v| self.raise(v));
    }

    fn coalesce(&self, micros: u64) {
        let rule = (micros > 0).then(|| Coalescing::every(Duration::from_micros(micros)));
        (0..VECTORS.into()).for_each(|vector| self.handle.vector(vector).coalesce(rule));
    }

    fn in_use(&self) -> u64 {
        match self.handle.messages() {
            Some((IrqIndex::Msi, vectors)) => 1 << 16 | u64::from(vectors),
            Some((_, vectors)) => 2 << 16 | u64::from(vectors),
            None => 0,
        }
    }
}

impl RegisterDevice for IrqTest {
    fn bank(&mut self) -> &mut RegisterBank {
        &mut self.bank
    }

    fn on_read(&mut self, read: RegisterRead) -> Result<u64, Fault> {
        Ok(if read.register == IN_USE { self.in_use() } else { read.value })
    }

    fn on_write(&mut self, write: RegisterWrite) -> Result<u64, Fault> {
        let value = write.value;
        match write.register {
            RAISE => self.raise(value as u32),
            RAISE_SET => self.raise_set(value),
            STORM => {
                let set = self.bank.get(STORM_SET) & ALL;
                (0..value.min(MAX_STORM)).for_each(|_| self.raise_set(set));
            }
            PIN => self.handle.intx().set(value & PIN_UP != 0),
            NOTICE => {
                for (bit, notice) in
                    [(NOTICE_ERR, self.handle.err()), (NOTICE_REQ, self.handle.req())]
                {
                    if value & bit != 0 {
                        self.note_failure(notice.trigger());
                    }
                }
            }
            ERROR => {
                let error = DeviceError::Uncorrectable { error: value as u8, header: [0; 4] };
                self.handle.report_error(error);
            }
            COALESCE => self.coalesce(value),
            _ => {}
        }
        Ok(value)
    }
}

impl Device for IrqTest {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        if at.region == 0 { self.bar_read(at.offset, data) } else { Err(Fault::Unmodelled) }
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        if at.region == 0 { self.bar_write(at.offset, data) } else { Err(Fault::Unmodelled) }
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }

    fn reset(&mut self, kind: Reset) {
        if kind != Reset::ConnectionLost {
            self.bank.reset();
            self.coalesce(0);
            self.handle.intx().lower();
        }
    }
}

impl Migration for IrqTest {
    fn max_len(&self) -> usize {
        4096
    }

    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        Ok(self.to_state())
    }

    fn load(&mut self, version: u32, state: &[u8]) -> Result<(), LoadError> {
        self.load_state(version, state)?;
        self.coalesce(self.bank.get(COALESCE));
        Ok(())
    }
}
