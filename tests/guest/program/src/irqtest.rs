//! The interrupt test device: every vector of MSI-X, masked and unmasked by the guest's kernel.
//!
//! Nothing in user space reaches the Mask Bits of MSI-X. The kernel sets one when the last user of a
//! vector goes (VFIO: its eventfd is taken away), and clears it when the next one comes.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::OwnedFd;

use crate::Result;
use crate::edu::DEADLINE;
use crate::sys::Mmio;
use crate::vfio;

/// The size of BAR 0, in bytes.
pub(crate) const BAR: usize = 4096;
/// How many vectors there are.
const VECTORS: usize = 20;
const ALL: u32 = (1 << VECTORS) - 1;

const IN_USE: usize = 0x04;
const RAISE: usize = 0x08;
const RAISE_SET: usize = 0x0c;
const STORM: usize = 0x14;
const NOTICE: usize = 0x1c;
const FAILED: usize = 0x28;
const RAISED: usize = 0x40;

/// Where the Pending Bit Array is: BAR and offset.
const PBA: (u32, u64) = (1, 0x1000);

struct Vectors<'a> {
    device: &'a vfio::Device,
    registers: Mmio,
    events: Vec<OwnedFd>,
}

/// Everything about MSI-X, bound to `vfio-pci`.
pub(crate) fn msix(device: &vfio::Device) -> Result<String> {
    let registers = device.registers()?;
    let event = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let events = (0..VECTORS).map(event).collect::<std::result::Result<_, _>>()?;
    let vectors = Vectors { device, registers, events };
    let late = vectors.never_unmasked()?;
    vectors.all()?;
    let masked = vectors.masked()?;
    let failed = vectors.registers.read32(FAILED);
    if failed != 0 {
        return Err(format!("{failed} interrupts could not be raised").into());
    }
    Ok(format!("{VECTORS} vectors, all fire; {late} came late, {masked} were masked, none is lost"))
}

/// The device tells the VMM that it has failed.
pub(crate) fn err(registers: &Mmio) -> String {
    registers.write32(NOTICE, 1);
    "ERR raised".into()
}

impl Vectors<'_> {
    /// Gives vectors an eventfd, or takes it away.
    fn assign(&self, start: usize, count: usize, on: bool) -> Result<()> {
        let events = self.events.iter().skip(start).take(count);
        let events: Vec<_> = events.map(|event| on.then_some(event)).collect();
        self.device.msix(start as u32, &events)
    }

    /// The Pending Bit Array.
    fn pending(&self) -> Result<u32> {
        let mut bytes = [0; 4];
        self.device.read(PBA.0, PBA.1, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Waits for an interrupt; gives how many came.
    fn wait(&self, vector: usize) -> Result<u64> {
        let event = &self.events[vector];
        let mut fds = [PollFd::new(event, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::try_from(DEADLINE)?))? == 0 {
            return Err(format!("no interrupt of vector {vector} within {DEADLINE:?}").into());
        }
        let mut count = [0; 8];
        rustix::io::read(event, &mut count)?;
        Ok(u64::from_le_bytes(count))
    }

    fn expect_one(&self, vector: usize) -> Result<()> {
        match self.wait(vector)? {
            1 => Ok(()),
            n => Err(format!("{n} interrupts of vector {vector} instead of one").into()),
        }
    }

    fn is_quiet(&self, vector: usize) -> Result<()> {
        match rustix::io::read(&self.events[vector], &mut [0; 8]) {
            Err(rustix::io::Errno::AGAIN) => Ok(()),
            _ => Err(format!("an interrupt of vector {vector}, which is masked").into()),
        }
    }

    fn expect_pending(&self, expected: u32) -> Result<()> {
        let pending = self.pending()?;
        if pending == expected {
            return Ok(());
        }
        Err(format!("pending are {pending:#x} instead of {expected:#x}").into())
    }

    /// Vectors that the kernel has enabled MSI-X without, raised before it unmasks them. The VMM has
    /// no eventfd for them, so their Pending Bits are the device's own.
    fn never_unmasked(&self) -> Result<u32> {
        const FIRST: usize = 8;
        self.assign(0, FIRST, true)?;
        if self.registers.read32(IN_USE) != 2 << 16 | VECTORS as u32 {
            return Err("MSI-X is not in use".into());
        }
        self.registers.write32(RAISE_SET, ALL);
        self.registers.read32(RAISED);
        self.expect_pending(ALL & !0 << FIRST)?;
        (0..FIRST).try_for_each(|vector| self.expect_one(vector))?;
        for vector in FIRST..VECTORS {
            self.assign(vector, 1, true)?;
            self.expect_one(vector)?;
            self.expect_pending(ALL & !1 << vector)?;
        }
        Ok((VECTORS - FIRST) as u32)
    }

    /// Singly, all at once, and in storms.
    fn all(&self) -> Result<()> {
        for _ in 0..10 {
            for vector in 0..VECTORS {
                self.registers.write32(RAISE, vector as u32);
                self.expect_one(vector)?;
            }
            self.registers.write32(RAISE_SET, ALL);
            (0..VECTORS).try_for_each(|vector| self.expect_one(vector))?;
        }
        self.registers.write32(STORM, 500);
        for vector in 0..VECTORS {
            let mut seen = self.wait(vector)?;
            // An interrupt more is the last word, and comes after all of the storm.
            self.registers.write32(RAISE, vector as u32);
            seen += self.wait(vector)?;
            if !(2..=501).contains(&seen) {
                return Err(format!("{seen} interrupts of vector {vector} in a storm").into());
            }
        }
        Ok(())
    }

    /// The kernel masks every other vector, they are raised, and the kernel unmasks them. What QEMU
    /// holds back meanwhile it shows nowhere: it asks the device for the Pending Bit Array, and does
    /// not tell it of masks of vectors that have an eventfd.
    fn masked(&self) -> Result<u32> {
        let mut masked = 0;
        for round in 0..10 {
            let chosen: Vec<_> = (0..VECTORS).filter(|v| (v + round) % 2 == 0).collect();
            // What is left of the storm.
            for vector in 0..VECTORS {
                let _none = rustix::io::read(&self.events[vector], &mut [0; 8]);
            }
            chosen.iter().try_for_each(|vector| self.assign(*vector, 1, false))?;
            self.registers.write32(RAISE_SET, ALL);
            for vector in (0..VECTORS).filter(|vector| !chosen.contains(vector)) {
                self.expect_one(vector)?;
            }
            for vector in &chosen {
                self.is_quiet(*vector)?;
                self.assign(*vector, 1, true)?;
                self.expect_one(*vector)?;
                masked += 1;
            }
            self.expect_pending(0)?;
        }
        Ok(masked)
    }
}
