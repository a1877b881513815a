//! INTx through `uio_pci_generic`: the kernel counts and masks, we acknowledge and unmask.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Result;
use crate::edu::DEADLINE;

const COMMAND: u64 = 4;
const STATUS: u64 = 6;
const COMMAND_MEMORY_AND_MASTER: u16 = 0x6;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_INTERRUPT: u16 = 1 << 3;

/// The INTx line of one device.
pub(crate) struct Intx {
    uio: File,
    config: File,
    count: u32,
}

impl Intx {
    /// Opens the UIO device of the PCI device in the sysfs folder `dir`, and unmasks the line.
    pub(crate) fn open(dir: &Path) -> Result<Intx> {
        let entry = fs::read_dir(dir.join("uio"))?.next().ok_or("no uio device")??;
        let uio = File::open(Path::new("/dev").join(entry.file_name()))?;
        let config = File::options().read(true).write(true).open(dir.join("config"))?;
        let mut intx = Intx { uio, config, count: 0 };
        let command = intx.register(COMMAND)? | COMMAND_MEMORY_AND_MASTER;
        intx.config.write_all_at(&command.to_le_bytes(), COMMAND)?;
        intx.unmask()?;
        // The count goes on from earlier users of the device.
        if intx.is_ready(std::time::Duration::ZERO)? {
            intx.count = intx.read()?;
        }
        Ok(intx)
    }

    /// Waits for one interrupt, and checks that it was one, and that the config space shows it.
    pub(crate) fn wait(&mut self) -> Result<()> {
        if !self.is_ready(DEADLINE)? {
            return Err(format!("no INTx within {DEADLINE:?}").into());
        }
        let count = self.read()?;
        let before = std::mem::replace(&mut self.count, count);
        if before != 0 && count != before.wrapping_add(1) {
            return Err(format!("{} interrupts instead of one", count.wrapping_sub(before)).into());
        }
        if self.register(STATUS)? & STATUS_INTERRUPT == 0 {
            return Err("the Interrupt Status bit is not set while the line is".into());
        }
        if self.register(COMMAND)? & COMMAND_INTX_DISABLE == 0 {
            return Err("the kernel's Interrupt Disable bit did not stick".into());
        }
        Ok(())
    }

    /// Lets the line through again; the device must have been acknowledged.
    pub(crate) fn unmask(&mut self) -> Result<()> {
        if self.register(STATUS)? & STATUS_INTERRUPT != 0 {
            return Err("the Interrupt Status bit is still set".into());
        }
        let command = self.register(COMMAND)? & !COMMAND_INTX_DISABLE;
        self.config.write_all_at(&command.to_le_bytes(), COMMAND)?;
        Ok(())
    }

    /// Checks that no interrupt is there.
    pub(crate) fn is_quiet(&self) -> Result<()> {
        if self.is_ready(std::time::Duration::ZERO)? {
            return Err("an interrupt that nothing asked for".into());
        }
        Ok(())
    }

    fn register(&self, at: u64) -> Result<u16> {
        let mut value = [0; 2];
        self.config.read_exact_at(&mut value, at)?;
        Ok(u16::from_le_bytes(value))
    }

    fn read(&mut self) -> Result<u32> {
        let mut count = [0; 4];
        self.uio.read_exact(&mut count)?;
        Ok(u32::from_le_bytes(count))
    }

    fn is_ready(&self, within: std::time::Duration) -> Result<bool> {
        let timeout = Timespec::try_from(within)?;
        let mut fds = [PollFd::new(&self.uio, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&timeout))? > 0)
    }
}
