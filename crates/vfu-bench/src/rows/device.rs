//! The device that is measured: registers that are plain memory, and a BAR of a mebibyte.

use vfu::{Access, Bar, Device, Fault, Pci};

use super::raw::touched;

/// The BAR that has one register.
pub(crate) const REGISTER_BAR: u32 = 0;
/// The BAR that is memory.
pub(crate) const MEMORY_BAR: u32 = 1;
/// Its length in bytes: the most that one message carries.
pub(crate) const MEMORY: usize = 1 << 20;

/// What a device costs that does next to nothing is what the library costs.
pub(crate) struct Plain {
    register: [u8; 8],
    memory: Vec<u8>,
}

/// Its configuration space.
pub(crate) fn pci() -> Pci {
    Pci::endpoint(0x1234, 0xbe5c)
        .bar(REGISTER_BAR as usize, Bar::mem32(4096))
        .bar(MEMORY_BAR as usize, Bar::mem32(MEMORY as u64))
        .msix(2)
}

impl Plain {
    pub(crate) fn new() -> Self {
        Plain { register: [0; 8], memory: touched(MEMORY) }
    }

    /// One whose second BAR has nothing behind it.
    pub(crate) fn small() -> Self {
        Plain { register: [0; 8], memory: Vec::new() }
    }

    fn place(&mut self, at: Access, len: usize) -> Option<&mut [u8]> {
        let start = usize::try_from(at.offset).ok()?;
        match at.region {
            MEMORY_BAR => self.memory.get_mut(start..)?.get_mut(..len),
            _ => self.register.get_mut(..len),
        }
    }
}

impl Device for Plain {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        data.copy_from_slice(self.place(at, data.len()).ok_or(Fault::Unmodelled)?);
        Ok(())
    }

    fn region_bytes(&mut self, at: Access, len: usize) -> Option<&[u8]> {
        self.place(at, len).map(|bytes| &*bytes)
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        self.place(at, data.len()).ok_or(Fault::Unmodelled)?.copy_from_slice(data);
        Ok(())
    }
}
