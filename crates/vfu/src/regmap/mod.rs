//! Register maps: what a BAR holds, said once.
//!
//! A [`RegisterMap`] describes the registers: where they are, what reading and writing does to
//! their bits, what they hold after a reset, and what the fields and their values are called. A
//! [`RegisterBank`] holds their values. The device adds what is special about it, by implementing
//! [`RegisterDevice`]: its hooks are told of every register that is read or written, by the offset
//! that the register is declared at.
//!
//! The description is written with [`registers!`](crate::registers), or with
//! [`RegisterMap::builder`] where it is known at run time only.
//!
//! ```
//! use vfu::regmap::{RegisterBank, RegisterDevice, RegisterWrite};
//! use vfu::{Access, Device, Fault, Reset};
//!
//! vfu::registers! {
//!     /// What BAR 0 holds.
//!     pub fn map("sampler", 4096);
//!
//!     0x00 CONTROL: Rw<u32> { 0 START, "takes four samples"; };
//!     0x04 STATUS: W1c<u32> { 0 DONE, "they are taken"; };
//!     0x10 SAMPLE[4; 2]: Ro<u16> = 0xffff, "the last samples";
//! }
//!
//! struct Sampler(RegisterBank);
//!
//! impl RegisterDevice for Sampler {
//!     fn bank(&mut self) -> &mut RegisterBank {
//!         &mut self.0
//!     }
//!
//!     fn on_write(&mut self, write: RegisterWrite) -> Result<u64, Fault> {
//!         if write.register == CONTROL && write.value & START != 0 {
//!             for n in 0..4 {
//!                 self.0.set(self.0.element(SAMPLE, n), 0x100 + u64::from(n));
//!             }
//!             self.0.set_bits(STATUS, DONE);
//!             return Ok(write.value & !START); // it has been started
//!         }
//!         Ok(write.value)
//!     }
//! }
//!
//! impl Device for Sampler {
//!     fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
//!         self.bar_read(at.offset, data)
//!     }
//!
//!     fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
//!         self.bar_write(at.offset, data)
//!     }
//!
//!     fn reset(&mut self, _: Reset) {
//!         self.0.reset();
//!     }
//! }
//!
//! let mut sampler = Sampler(RegisterBank::new(map()));
//! sampler.bar_write(CONTROL, &[1])?; // one byte of the register
//! let mut two = [0; 4];
//! sampler.bar_read(SAMPLE + 2, &mut two)?; // two elements of the array
//! assert_eq!(two, [0x01, 0x01, 0x02, 0x01]);
//! assert!(sampler.0.has(STATUS, DONE));
//! sampler.bar_write(STATUS, &1_u32.to_le_bytes())?;
//! assert!(!sampler.0.has(STATUS, DONE), "1 clears");
//! assert_eq!(sampler.bar_read(0x20, &mut two), Err(Fault::Unmodelled));
//! assert_eq!(sampler.0.uncovered().len(), 1);
//! # Ok::<(), Fault>(())
//! ```
//!
//! # Accesses
//!
//! Registers are little-endian. An access may have any length and alignment, unless the map
//! [demands certain widths](RegisterMapBuilder::widths): a part of a register is accessed by the
//! rules of its bits, the rest of it stays as it is, and an access that spans several registers is
//! as many accesses, the lowest first. It is a [`Fault`] when all of its parts are; otherwise parts
//! that no register answers for read ones.
//!
//! # What it tells
//!
//! * [`RegisterMap::to_markdown`] and [`RegisterMap::to_json`] describe the map.
//! * Every access is an event of `tracing` at the level `TRACE`, with the target `vfu::regmap`, in
//!   the names of registers, fields and values.
//! * An access that the map does not cover is an event at `DEBUG` the first time, and counted in
//!   [`RegisterBank::uncovered`]. [`RegisterBank::report_uncovered`] logs the list at `INFO`: a device
//!   that calls it when its client leaves tells what that driver wanted of it.
//! * A driver that reads a register [very often](RegisterMapBuilder::spin_limit), and nothing else,
//!   and always gets the same, is an event at `WARN`, once a register.
//!
//! An access allocates nothing unless it is one of these events and somebody listens.

mod bank;
mod coverage;
mod decode;
mod describe;
mod error;
mod macros;
mod map;
mod register;
mod rules;
mod spin;
mod state;
mod trace;

pub use bank::RegisterBank;
pub use coverage::{Direction, Uncovered};
pub use error::RegisterMapError;
#[doc(hidden)]
pub use macros::mask;
pub use map::{DEFAULT_SPIN_LIMIT, MAX_REGISTERS, RegisterMap, RegisterMapBuilder};
pub use register::{BitAccess, Field, Register};

use crate::device::Fault;

/// The driver reads a register, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterRead {
    /// The offset that the register, or its array, is declared at.
    pub register: u64,
    /// Which element of the array; 0 if it is none.
    pub index: u32,
    /// What the whole register reads, unless the device says otherwise. Bits that reading clears
    /// are still in it, and gone from the bank.
    pub value: u64,
}

/// The driver writes a register, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterWrite {
    /// The offset that the register, or its array, is declared at.
    pub register: u64,
    /// Which element of the array; 0 if it is none.
    pub index: u32,
    /// What the register holds by the rules of its bits, unless the device says otherwise.
    pub value: u64,
    /// What it has held until now, and the bank still has.
    pub old: u64,
    /// The bits as the driver wrote them, whatever the register makes of it; 0 where it wrote
    /// nothing.
    pub written: u64,
    /// The bits that it wrote.
    pub mask: u64,
}

/// A device, or the part of one, that has registers in a bank.
///
/// A device with registers in several BARs has a part for each.
pub trait RegisterDevice {
    /// The registers.
    fn bank(&mut self) -> &mut RegisterBank;

    /// The driver reads a register. Returns the value that it gets; it is not kept.
    ///
    /// # Errors
    /// A [`Fault`]: the driver gets all ones, and nothing is cleared.
    fn on_read(&mut self, read: RegisterRead) -> Result<u64, Fault> {
        Ok(read.value)
    }

    /// The driver writes a register, be it a read-only one. Returns the value that the register
    /// takes: [`RegisterWrite::value`] as a rule, [`RegisterWrite::old`] to ignore the write.
    ///
    /// # Errors
    /// A [`Fault`]: the register stays as it is.
    fn on_write(&mut self, write: RegisterWrite) -> Result<u64, Fault> {
        Ok(write.value)
    }

    /// An access is over, with all of its parts, whatever came of it: the place to bring in line what
    /// follows from the registers, such as the level of the pin.
    fn settle(&mut self) {}

    /// The driver reads `data.len()` bytes from `offset`: for
    /// [`Device::region_read`](crate::Device::region_read).
    ///
    /// # Errors
    /// [`Fault::Unmodelled`] if no register is there, [`Fault::Width`] if it can't be accessed in
    /// this way, or what [`on_read`](Self::on_read) says.
    fn bar_read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), Fault> {
        let result = decode::read(self, offset, data);
        self.settle();
        result
    }

    /// The driver writes `data` to `offset`: for
    /// [`Device::region_write`](crate::Device::region_write).
    ///
    /// # Errors
    /// As for `bar_read`, with [`on_write`](Self::on_write).
    fn bar_write(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let result = decode::write(self, offset, data);
        self.settle();
        result
    }
}

/// A bank alone: registers without side effects.
impl RegisterDevice for RegisterBank {
    fn bank(&mut self) -> &mut RegisterBank {
        self
    }
}
