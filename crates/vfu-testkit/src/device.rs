//! A device to test with.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use vfu::device::{DmaRange, Reset};
use vfu::pci::PowerState;
use vfu::{Access, Bar, Device, DmaError, Fault, Handle, Pci, Pin};

use crate::{Call, CallLog};

/// A small device that logs every call.
///
/// BAR 0, 4 KiB:
///
/// | offset | register |
/// |---|---|
/// | 0x000..0x100 | scratch, any width |
/// | 0x100, 64 bits | DMA source |
/// | 0x108, 64 bits | DMA destination |
/// | 0x110, 32 bits | DMA length in bytes |
/// | 0x114, 32 bits | doorbell: copies on a worker thread, then raises the vector written |
/// | 0x118, 32 bits | raises the vector written |
/// | 0x11c, 32 bits | the level of the interrupt pin |
/// | 0x120, 32 bits | read only: how the last copy went: 0 well, 1 badly, all ones not yet |
/// | from 0x200 | nothing: reads give all ones |
///
/// BAR 2, 2 MiB of memory, 64-bit and prefetchable.
#[derive(Debug)]
pub struct TestDevice {
    handle: Handle,
    log: CallLog,
    scratch: [u8; 256],
    memory: Vec<u8>,
    source: u64,
    destination: u64,
    length: u32,
    done: Arc<Mutex<u32>>,
    worker: Sender<Copy>,
}

#[derive(Debug)]
struct Copy {
    source: u64,
    destination: u64,
    length: u32,
    vector: u32,
}

impl TestDevice {
    /// Where the DMA source is.
    pub const SOURCE: u64 = 0x100;
    /// Where the DMA destination is.
    pub const DESTINATION: u64 = 0x108;
    /// Where the DMA length is.
    pub const LENGTH: u64 = 0x110;
    /// Where the doorbell is.
    pub const DOORBELL: u64 = 0x114;
    /// Raises a vector.
    pub const TRIGGER: u64 = 0x118;
    /// Sets the level of the interrupt pin.
    pub const PIN: u64 = 0x11c;
    /// How the last copy went.
    pub const DONE: u64 = 0x120;
    /// No register is there.
    pub const NOTHING: u64 = 0x200;
    /// Size of BAR 0 in bytes.
    pub const BAR0_SIZE: u64 = 4096;
    /// Size of BAR 2 in bytes.
    pub const BAR2_SIZE: u64 = 2 << 20;

    /// Its configuration space: 1234:0001, BARs 0 and 2, an I/O BAR 4, pin A, Power Management,
    /// 4 MSI vectors, 4 MSI-X vectors in a BAR 1 of their own, PCI Express.
    pub fn pci() -> Pci {
        Pci::endpoint(0x1234, 0x0001)
            .revision(2)
            .class(0x05_80_00)
            .subsystem(0x1af4, 0x1100)
            .bar(0, Bar::mem32(Self::BAR0_SIZE))
            .bar(2, Bar::mem64(Self::BAR2_SIZE).prefetchable())
            .bar(4, Bar::io(32))
            .intx(Pin::A)
            .pm()
            .msi(4)
            .msix(4)
            .pcie_endpoint()
    }

    /// The device, in its state at power-on. Its worker thread ends with it.
    pub fn new(handle: Handle, log: CallLog) -> TestDevice {
        let done = Arc::new(Mutex::new(u32::MAX));
        let (worker, jobs) = channel::<Copy>();
        let (at_work, result) = (handle.clone(), done.clone());
        thread::spawn(move || {
            for job in jobs {
                let copied = copy(&at_work, &job);
                *result.lock().unwrap_or_else(PoisonError::into_inner) = copied.is_err().into();
                let _nobody_listens = at_work.vector(job.vector).trigger();
            }
        });
        TestDevice {
            handle,
            log,
            scratch: [0; 256],
            memory: vec![0; Self::BAR2_SIZE as usize],
            source: 0,
            destination: 0,
            length: 0,
            done,
            worker,
        }
    }

    fn set_done(&self, value: u32) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn ring(&mut self, vector: u32) {
        self.set_done(u32::MAX);
        let (source, destination, length) = (self.source, self.destination, self.length);
        let _never_ends_before_us = self.worker.send(Copy { source, destination, length, vector });
    }
}

fn copy(handle: &Handle, job: &Copy) -> Result<(), DmaError> {
    let mut bytes = vec![0; job.length as usize];
    handle.dma().read(job.source, &mut bytes)?;
    handle.dma().write(job.destination, &bytes)
}

/// The `len` bytes at `offset`, if they are there.
fn range(offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(len)?)
}

impl Device for TestDevice {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        let Access { region, offset } = at;
        self.log.push(Call::Read { region, offset, len: data.len() });
        let place = range(offset, data.len()).ok_or(Fault::Unmodelled)?;
        match (region, offset) {
            (0, Self::SOURCE) => at.give(data, &self.source.to_le_bytes()),
            (0, Self::DESTINATION) => at.give(data, &self.destination.to_le_bytes()),
            (0, Self::LENGTH) => at.give(data, &self.length.to_le_bytes()),
            (0, Self::DONE) => {
                let done = *self.done.lock().unwrap_or_else(PoisonError::into_inner);
                at.give(data, &done.to_le_bytes());
            }
            (0, _) => data.copy_from_slice(self.scratch.get(place).ok_or(Fault::Unmodelled)?),
            (2, _) => data.copy_from_slice(self.memory.get(place).ok_or(Fault::Unmodelled)?),
            _ => return Err(Fault::Unmodelled),
        }
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        let Access { region, offset } = at;
        self.log.push(Call::Write { region, offset, data: data.to_vec() });
        let place = range(offset, data.len()).ok_or(Fault::Unmodelled)?;
        match (region, offset) {
            (0, Self::SOURCE) => self.source = at.u64(data)?,
            (0, Self::DESTINATION) => self.destination = at.u64(data)?,
            (0, Self::LENGTH) => self.length = at.u32(data)?,
            (0, Self::DOORBELL) => self.ring(at.u32(data)?),
            (0, Self::TRIGGER) => {
                let _not_enabled = self.handle.vector(at.u32(data)?).trigger();
            }
            (0, Self::PIN) => self.handle.intx().set(at.u32(data)? != 0),
            (0, _) => {
                let scratch = self.scratch.get_mut(place).ok_or(Fault::Unmodelled)?;
                scratch.copy_from_slice(data);
            }
            (2, _) => {
                self.memory.get_mut(place).ok_or(Fault::Unmodelled)?.copy_from_slice(data);
            }
            _ => return Err(Fault::Unmodelled),
        }
        Ok(())
    }

    fn reset(&mut self, kind: Reset) {
        self.log.push(Call::Reset(kind));
        if kind != Reset::ConnectionLost {
            self.scratch = [0; 256];
            (self.source, self.destination, self.length) = (0, 0, 0);
            self.set_done(u32::MAX);
        }
    }

    fn connected(&mut self) {
        self.log.push(Call::Connected);
    }

    fn power_changed(&mut self, from: PowerState, to: PowerState) {
        self.log.push(Call::Power(from, to));
    }

    fn dma_mapped(&mut self, range: DmaRange) {
        self.log.push(Call::Mapped(range));
    }

    fn dma_unmapped(&mut self, range: DmaRange) {
        self.log.push(Call::Unmapped(range));
    }
}
