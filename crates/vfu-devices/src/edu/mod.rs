//! `edu`: the teaching device of QEMU, 1234:11e8.
//!
//! It has the registers that QEMU documents in `docs/specs/edu.rst`, so drivers written for a
//! course about it work unchanged. BAR 0 is 1 MiB of 32-bit memory; below 0x80 accesses are 4
//! bytes wide, from 0x80 on 4 or 8 bytes. Any other access, or place, reads all ones and ignores
//! writes.
//!
#![doc = include_str!("registers.md")]
//!
//! The factorial raises 0x001, DMA raises 0x100. A 4-byte write to a DMA register clears its upper
//! half. DMA registers ignore writes while DMA runs, and the command ignores writes without bit 0.
//!
//! **Interrupts.** With MSI enabled each one sends the message. Without it the pin INTA# is up
//! while the interrupt status is not 0.
//!
//! **DMA.** The device has a buffer of 4096 bytes at its own address 0x40000. Addresses in RAM are
//! ANDed with a mask, of 28 bits by default ([`Edu::dma_mask`]). The copy is done by a thread of the
//! device, never by the handler, since a client like QEMU can't serve DMA while it waits for the
//! answer to its access.
//!
//! Where it differs from QEMU's:
//!
//! * DMA starts at once, not after 100 ms.
//! * DMA that leaves the buffer, or that fails (no such memory, bus mastering off, ...), changes
//!   nothing in the buffer, is logged as a warning, and ends like any other: bit 0 of the command
//!   is cleared, and the interrupt comes if it was asked for. When a write to RAM fails midway,
//!   its first part may have arrived. QEMU logs it and goes on outside of the buffer.
//! * A reset of any kind clears all registers and the buffer, and drops what runs. A client that
//!   goes away is none: the next one finds the device as it was left.
//!
//! **Moving.** The device can be moved while it works: DMA that was under way is begun anew where it
//! goes on. The buffer is sent ahead (PRE_COPY), and again if it has changed.

mod buffer;
mod moving;
mod registers;
mod state;
mod worker;

use std::sync::Arc;

use tracing::warn;
use vfu::migration::Migration;
use vfu::regmap::{RegisterDevice, RegisterMap};
use vfu::{Access, Bar, Device, Fault, Handle, Pci, Pin, Reset};

use registers::Action;
use state::Shared;

/// Vendor id: QEMU's, for experiments.
pub const VENDOR: u16 = 0x1234;
/// Device id.
pub const DEVICE: u16 = 0x11e8;
/// The length of BAR 0, in bytes.
pub const BAR_SIZE: u64 = 1 << 20;
/// Where the device's buffer is, as its DMA engine sees it.
pub const BUFFER_ADDRESS: u64 = 0x4_0000;
/// The length of the device's buffer, in bytes.
pub const BUFFER_SIZE: usize = 4096;
/// The mask of addresses in RAM, unless another is set: 28 bits, 256 MiB.
pub const DEFAULT_DMA_MASK: u64 = (1 << 28) - 1;
/// The bit of the interrupt status that the end of a factorial sets.
pub const IRQ_FACTORIAL: u32 = 0x001;
/// The bit of the interrupt status that the end of DMA sets.
pub const IRQ_DMA: u32 = 0x100;

const OUT_OF_BOUNDS: &str = "edu: DMA leaves the buffer of 4096 bytes at 0x40000; nothing is moved";
const CUT: &str = "edu: the DMA mask has cut an address";

/// The configuration space: 1234:11e8 revision 0x10, one BAR, INTA#, MSI with one vector.
pub fn pci() -> Pci {
    Pci::endpoint(VENDOR, DEVICE)
        .revision(0x10)
        .class(0x00_ff_00)
        .subsystem(0x1af4, 0x1100)
        .bar(0, Bar::mem32(BAR_SIZE))
        .intx(Pin::A)
        .msi(1)
}

/// What BAR 0 holds.
pub fn register_map() -> RegisterMap {
    registers::map()
}

/// The device. It has no thread until the driver first gives it something to do.
#[derive(Debug)]
pub struct Edu {
    shared: Arc<Shared>,
}

impl Edu {
    /// A device in its state after power-on.
    pub fn new(handle: Handle) -> Self {
        Edu { shared: Arc::new(Shared::new(handle)) }
    }

    /// Sets the mask of addresses in RAM, as QEMU's `dma_mask` does.
    pub fn dma_mask(self, mask: u64) -> Self {
        self.shared.lock().registers.dma_mask = mask;
        self
    }
}

impl Device for Edu {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        self.shared.lock().registers.bar_read(at.offset, data)
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        let mut state = self.shared.lock();
        state.registers.bar_write(at.offset, data)?;
        match state.registers.action.take() {
            None => return Ok(()),
            Some(Action::Interrupt) => self.shared.interrupt(&mut state),
            Some(Action::Acknowledge) => self.shared.update_pin(&mut state),
            Some(Action::OutOfBounds) => {
                if let Some(kept) = self.shared.handle.seldom(OUT_OF_BOUNDS) {
                    warn!("{OUT_OF_BOUNDS}{kept}");
                }
                if state.registers.copied() {
                    self.shared.interrupt(&mut state);
                }
            }
            Some(Action::Compute(n)) => {
                state.compute = Some(n);
                worker::wake(&self.shared, &mut state);
            }
            Some(Action::Copy(transfer)) => {
                if transfer.masked {
                    if let Some(kept) = self.shared.handle.seldom(CUT) {
                        warn!(address = format_args!("{:#x}", transfer.ram), "{CUT}{kept}");
                    }
                }
                state.copy = Some(transfer);
                worker::wake(&self.shared, &mut state);
            }
        }
        Ok(())
    }

    fn resume(&mut self) {
        let mut state = self.shared.lock();
        state.pause.try_again();
        worker::wake_if_due(&self.shared, &mut state);
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }

    fn reset(&mut self, kind: Reset) {
        match kind {
            Reset::ConnectionLost => self.shared.lock().registers.bank().report_uncovered(),
            _ => self.shared.reset(),
        }
    }
}

impl Drop for Edu {
    /// The thread ends as soon as it has finished what it does; nobody waits for it.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.drop_work();
        state.stop = true;
        self.shared.work.notify_one();
    }
}

#[cfg(test)]
mod tests;
