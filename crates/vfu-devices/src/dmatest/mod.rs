//! `dmatest`: a device that does nothing but DMA, in every place where a device can do it, 1234:d3a0.
//!
//! It is for testing clients: whoever drives it writes two addresses and a length, and has the
//! device copy from one to the other, with every bit inverted. The copy is done by a thread of the
//! device, inside the handler of a write, or inside the handler of a read. Those are the three cases
//! that a client has to keep apart when memory is reached by messages.
//!
//! BAR 0 is 4 KiB of 32-bit memory. Accesses have any width; a write to a part of a register leaves
//! the rest.
//!
#![doc = include_str!("registers.md")]
//!
//! The lowest byte of a command says where to copy:
//!
//! * 1: here, inside the handler of this write.
//! * 2: on a thread of the device, after the write has been answered. Up to 64 copies wait.
//!
//! Bit 8 has INTA# raised when the copy has ended. Other commands, and other places of the BAR, do
//! nothing; such places read all ones.
//!
//! **Errno.** What [`DmaError::errno`](vfu::DmaError::errno) says; EINVAL for a length of more than
//! 1 MiB; EAGAIN for a copy that would be the 65th to wait. A client that can't answer a message while
//! it waits for the handler (QEMU, unless the write is posted) leads to ETIMEDOUT, after the timeout
//! of the session.
//!
//! **Reset**, of any kind: all registers go to 0, the pin goes down, and copies that wait or run no
//! longer count. A client that goes away resets nothing.
//!
//! **Moving.** The device can be moved while it copies. What is not written yet is written by its
//! thread where it goes on, also for a copy inside a handler: the access has been answered by then,
//! and a read of the register at 0x30 has got the errno of the copy before.
//!
//! It is a [`SharedDevice`]: registers answer while a copy waits inside a handler. As a plain
//! [`Device`] it works too; commands wait in line then.

mod copy;
mod moving;
mod registers;
mod state;

use std::sync::Arc;

use vfu::migration::Migration;
use vfu::pci::Pm;
use vfu::regmap::RegisterDevice;
use vfu::{Access, Bar, Device, Fault, Handle, Pci, Pin, Reset, SharedDevice};

use moving::Mover;
use registers::Effect;
use state::Inner;

/// Vendor id: QEMU's, for experiments.
pub const VENDOR: u16 = 0x1234;
/// Device id.
pub const DEVICE: u16 = 0xd3a0;
/// The length of BAR 0, in bytes.
pub const BAR_SIZE: u64 = 4096;
/// What the register at 0 holds.
pub const IDENTIFICATION: u32 = 0x5646_5544;
/// The longest copy, in bytes.
pub const MAX_LENGTH: u32 = 1 << 20;
/// How many copies wait for the device's thread at most.
pub const MAX_WAITING: usize = 64;

/// The registers in BAR 0, by their offsets.
pub mod register {
    vfu::registers! {
        /// What BAR 0 holds. Drivers may poll as long as they like.
        pub fn map("dmatest", super::BAR_SIZE).spin_limit(0);

        0x00 IDENTIFICATION: Ro<u32> = 0x5646_5544, "that it is this device";
        0x08 SOURCE: Rw<u64>, "address to read from";
        0x10 DESTINATION: Rw<u64>, "address to write to";
        0x18 LENGTH: Rw<u32>, "in bytes, at most 1 MiB";
        0x20 COMMAND: Wo<u32>, "starts a copy" {
            0..=7 PLACE, "where" { 1 = "inside the handler of this write", 2 = "on a thread" };
            8 INTERRUPT, "INTA# is raised when it has ended";
        };
        0x28 COUNT: Ro<u32>, "copies that have ended, well or not" .on_read("takes the pin down");
        0x2c ERRNO: Ro<u32>, "how the last one ended: 0, or an errno of Linux";
        0x30 COPY: Ro<u32>, "the errno of that copy" .on_read("copies before it answers");
        0x40 SCRATCH[48; 4]: Rw<u32>, "scratch";
    }

    /// The end of scratch.
    pub const END: u64 = 0x100;
}

/// Values of the command register.
pub mod command {
    /// Copies inside the handler of the write.
    pub const IN_HANDLER: u32 = 1;
    /// Copies on the device's thread.
    pub const ON_THREAD: u32 = 2;
    /// Added to one of the others: raises INTA# at the end.
    pub const INTERRUPT: u32 = 1 << 8;
}

/// The configuration space: one BAR, INTA#, Power Management without No_Soft_Reset, and a PCI Express
/// endpoint with Function Level Reset.
pub fn pci() -> Pci {
    Pci::endpoint(VENDOR, DEVICE)
        .class(0xff_00_00)
        .subsystem(VENDOR, DEVICE)
        .bar(0, Bar::mem32(BAR_SIZE))
        .intx(Pin::A)
        .pm_with(Pm { no_soft_reset: false, ..Pm::default() })
        .pcie_endpoint()
}

/// The device. It has no thread until a driver first asks for a copy on it.
#[derive(Debug)]
pub struct DmaTest {
    inner: Arc<Inner>,
    mover: Mover,
}

impl DmaTest {
    /// A device in its state after power-on.
    pub fn new(handle: Handle) -> Self {
        let inner = Arc::new(Inner::new(handle));
        DmaTest { mover: Mover(inner.clone()), inner }
    }
}

impl SharedDevice for DmaTest {
    fn region_read(&self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        let mut state = self.inner.lock();
        if let Some(job) = state.registers.before_read(at.offset) {
            copy::run(&self.inner, state, job);
            state = self.inner.lock();
        }
        if let Some(Effect::Acknowledge) = state.registers.read(at.offset, data)? {
            self.inner.set_pin(&mut state, false);
        }
        Ok(())
    }

    fn region_write(&self, at: Access, data: &[u8]) -> Result<(), Fault> {
        let mut state = self.inner.lock();
        match state.registers.write(at.offset, data)? {
            Some(Effect::Copy(job)) => {
                copy::run(&self.inner, state, job);
            }
            Some(Effect::Queue(job)) => copy::queue(&self.inner, &mut state, job),
            Some(Effect::Acknowledge) | None => {}
        }
        Ok(())
    }

    fn resume(&self) {
        let mut state = self.inner.lock();
        state.pause.try_again();
        copy::wake_if_due(&self.inner, &mut state);
    }

    fn migration(&self) -> Option<Box<dyn Migration + Send + Sync>> {
        Some(Box::new(Mover(self.inner.clone())))
    }

    fn reset(&self, kind: Reset) {
        match kind {
            Reset::ConnectionLost => {
                self.inner.lock().registers.bank().report_uncovered();
                SharedDevice::resume(self); // DMA fails now
            }
            _ => self.inner.reset(),
        }
    }
}

/// The same, with one handler at a time.
impl Device for DmaTest {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        SharedDevice::region_read(self, at, data)
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        SharedDevice::region_write(self, at, data)
    }

    fn resume(&mut self) {
        SharedDevice::resume(self);
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(&mut self.mover)
    }

    fn reset(&mut self, kind: Reset) {
        SharedDevice::reset(self, kind);
    }
}

impl Drop for DmaTest {
    /// The thread ends as soon as it has finished what it does; nobody waits for it.
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.drop_work();
        state.stop = true;
        self.inner.work.notify_one();
    }
}
