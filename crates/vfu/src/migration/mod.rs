//! Saving a device, and bringing it back elsewhere (VFIO migration, version 2).
//!
//! A device that can be moved gives a [`Migration`]: how it stops and starts, and its state as
//! bytes. The server keeps the state machine, saves with the device what the library owns
//! (configuration space, MSI-X table, pending interrupts), and checks all of it before it is put
//! back.
//!
//! ```text
//!             ┌──────────► PRE_COPY ─────────┐
//!             ▼                              ▼
//!          RUNNING ◄────► STOP ◄────► STOP_COPY        ERROR ──reset──► RUNNING
//!                          ▲
//!                          └────► RESUMING
//! ```
//!
//! A device whose state is in its fields says which, and has nothing more to do:
//!
//! ```
//! use vfu::migration::{LoadError, Migration, State};
//! use vfu::regmap::{RegisterBank, RegisterDevice};
//! use vfu::wire::Errno;
//! use vfu::{Access, Device, Fault};
//!
//! vfu::registers! {
//!     /// What BAR 0 holds.
//!     pub fn map("counter", 4096);
//!     0x00 COUNT: Ro<u32>, "reads so far";
//!     0x04 SCRATCH: Rw<u32>;
//! }
//!
//! struct Counter { registers: RegisterBank, reads: u64 }
//!
//! vfu::state! { Counter { registers, reads } }
//!
//! impl Migration for Counter {
//!     fn save(&mut self) -> Result<Vec<u8>, Errno> {
//!         Ok(self.to_state())
//!     }
//!
//!     fn load(&mut self, version: u32, state: &[u8]) -> Result<(), LoadError> {
//!         Ok(self.load_state(version, state)?)
//!     }
//! }
//!
//! impl Device for Counter {
//!     fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
//!         self.reads += 1;
//!         self.registers.set(COUNT, self.reads);
//!         self.registers.bar_read(at.offset, data)
//!     }
//!
//!     fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
//!         self.registers.bar_write(at.offset, data)
//!     }
//!
//!     fn migration(&mut self) -> Option<&mut dyn Migration> {
//!         Some(self)
//!     }
//! }
//!
//! let mut here = Counter { registers: RegisterBank::new(map()), reads: 0 };
//! here.region_write(Access { region: 0, offset: SCRATCH }, &[7, 0, 0, 0])?;
//! let saved = here.save().expect("there is no error in it");
//! let mut there = Counter { registers: RegisterBank::new(map()), reads: 0 };
//! there.load(1, &saved).expect("it is of the same device");
//! assert_eq!(there.registers.get(SCRATCH), 7);
//! # Ok::<(), Fault>(())
//! ```
//!
//! A device with threads also implements [`Migration::stop`] and [`Migration::start`]. State that
//! comes from elsewhere is checked before it is used: by [`State`] for what it is made of, by the
//! device for what it means.
//!
//! The other side of it, which moves a device, is [`Migrate`](crate::client::Migrate).

mod image;
mod machine;
mod state;

use vfu_proto::wire::Errno;

pub use image::ImageError;
pub(crate) use image::{Image, Library, OVERHEAD, RECORD, Writer};
pub(crate) use machine::{Hop, Machine};
#[doc(hidden)]
pub use state::Known;
pub use state::{State, StateError, StateReader, StateWriter};

/// How a device is saved and loaded: see [`Device::migration`](crate::Device::migration).
///
/// Called from the thread that runs the handlers.
pub trait Migration {
    /// The version of the device's state, the latest that it knows. [`load`](Self::load) gets to know
    /// which one it is given: this one or an older one. A later one is refused before that.
    fn version(&self) -> u32 {
        1
    }

    /// The longest state that [`load`](Self::load) takes, in bytes. More is refused before it is
    /// stored. Default: 1 MiB.
    fn max_len(&self) -> usize {
        1 << 20
    }

    /// The device stops: when this returns it starts no DMA, raises no interrupt, and its state does
    /// not change until it is started, loaded or reset. DMA that it tries all the same fails with
    /// [`DmaError::Busy`](crate::DmaError::Busy); interrupts are kept until it is started.
    ///
    /// DMA that is under way is ended before this is called: what was written has arrived, or the
    /// call fails with [`DmaError::Canceled`](crate::DmaError::Canceled) or `Busy`, as if nothing had
    /// been asked. It is a part of the state, to be tried again when the device goes on: after
    /// [`start`](Self::start); or if it was not stopped after all, because the client did not
    /// acknowledge what was written, or has gone, after
    /// [`Device::resume`](crate::Device::resume) or
    /// [`Reset::ConnectionLost`](crate::Reset::ConnectionLost).
    ///
    /// # Errors
    /// It goes on running; the client gets the errno.
    fn stop(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    /// The device goes on from where it stopped, or from what was loaded.
    ///
    /// # Errors
    /// It stays stopped; the client gets the errno.
    fn start(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    /// The state of the device, which is stopped.
    ///
    /// # Errors
    /// It can't be saved; the client gets the errno.
    fn save(&mut self) -> Result<Vec<u8>, Errno>;

    /// Takes over a state that [`save`](Self::save) gave on a device of the same kind. The bytes
    /// have come unharmed, but from anywhere: what they say has to be checked. The device is stopped
    /// from then on, also if it has not run yet.
    ///
    /// # Errors
    /// They are no state of this device. It is in error until it is reset.
    fn load(&mut self, version: u32, state: &[u8]) -> Result<(), LoadError>;

    /// A client begins to save the device, as it stands or while it runs: what was
    /// [given early](Self::save_early) until now has been for somebody else. Also called when no more
    /// is sent early: all of the state has to be saved at the end then.
    fn begin_saving(&mut self) {}

    /// Whether the device can be saved in part while it runs (PRE_COPY).
    fn can_pre_copy(&self) -> bool {
        false
    }

    /// What of the state is worth sending while the device runs: asked for again whenever the client
    /// has read the last of it, so it gives what has changed since then. Nothing: no more for now.
    /// [`load`](Self::load) does not get it: [`load_early`](Self::load_early) does, before, once for
    /// each. In all no more than [`max_len`](Self::max_len) is sent: what goes beyond that is thrown
    /// away, and [`begin_saving`](Self::begin_saving) says so.
    fn save_early(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes what [`save_early`](Self::save_early) gave.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    fn load_early(&mut self, version: u32, state: &[u8]) -> Result<(), LoadError> {
        let _ = (version, state);
        Ok(())
    }
}

/// A saved state that a device can't take over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the saved state does not fit the device: {0}")]
pub struct LoadError(pub String);
