//! Direct memory, held on to.

use super::table::Lease as Held;
use super::{Direction, Dma, DmaError, file_error};

/// A piece of the peer's memory that the device may touch as long as it holds this.
///
/// The memory is the peer's, too: it may change at any moment, so it is reached by copies only. An
/// aligned access of 1, 2, 4 or 8 bytes is one load or store.
///
/// When the peer takes the mapping back the device is told first
/// ([`Device::dma_unmapping`](crate::Device::dma_unmapping)); then the peer waits until the last
/// lease has gone, while everything else goes on. A lease never outlives its mapping: the memory
/// stays mapped as long as it is held, even if the peer is gone.
#[derive(Debug)]
pub struct Lease {
    held: Held,
    /// Where it begins, in bytes from the mapping's start.
    offset: u64,
    len: u64,
}

impl Dma {
    /// Takes a lease of `len` bytes at `address`, which have to lie in one mapping that is shared
    /// by file descriptor and mapped.
    ///
    /// # Errors
    /// [`DmaError::NotDirect`] if it is reached by messages, or spans mappings.
    pub fn lease(&self, address: u64, len: u64, direction: Direction) -> Result<Lease, DmaError> {
        let allowed = self.shared.may_dma();
        let held = allowed.and_then(|_| self.shared.table.lease(address, direction));
        let held = held.map_err(|e| self.shared.explain(e))?;
        let offset = address - held.address;
        if !held.mapped || len > held.size - offset {
            return Err(DmaError::NotDirect { address });
        }
        Ok(Lease { held, offset, len })
    }
}

impl Lease {
    /// How many bytes it covers.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it covers none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of its first byte.
    pub fn address(&self) -> u64 {
        self.held.address + self.offset
    }

    /// Whether the peer has taken the mapping back and waits for this lease to end.
    pub fn is_ending(&self) -> bool {
        self.held.region.is_retired()
    }

    /// Copies from `at` bytes behind the start.
    ///
    /// # Errors
    /// Beyond the end, not readable, or past the end of the peer's file.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DmaError> {
        let offset = self.check(at, to.len(), Direction::Read)?;
        if to.is_empty() {
            return Ok(()); // perhaps at the end of all addresses, and of the file
        }
        self.held.region.read_direct(offset, to).map_err(|e| file_error(self.address() + at, e))
    }

    /// Copies to `at` bytes behind the start.
    ///
    /// # Errors
    /// As [`read`](Self::read), for writing.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), DmaError> {
        let offset = self.check(at, from.len(), Direction::Write)?;
        if from.is_empty() {
            return Ok(()); // perhaps at the end of all addresses, and of the file
        }
        self.held.region.write_direct(offset, from).map_err(|e| file_error(self.address() + at, e))
    }

    /// Where in the mapping the bytes are, if they are in the lease and may be moved.
    fn check(&self, at: u64, len: usize, direction: Direction) -> Result<u64, DmaError> {
        let address = self.address().wrapping_add(at);
        if at.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Err(DmaError::NotMapped { address });
        }
        if !self.held.allows(direction) {
            return Err(DmaError::Permission { address, direction });
        }
        Ok(self.offset + at)
    }
}
