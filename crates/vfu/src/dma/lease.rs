//! Direct memory, held on to.

use super::span::Span;
use super::table::Lease as Held;
use super::{Direction, Dma, DmaError};

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
pub struct Lease(Span<Held>);

impl Dma {
    /// Takes a lease of `len` bytes at `address`, which have to lie in one mapping that is shared
    /// by file descriptor and mapped.
    ///
    /// # Errors
    /// [`DmaError::NotDirect`] if it is reached by messages, or spans mappings.
    #[inline]
    pub fn lease(&self, address: u64, len: u64, direction: Direction) -> Result<Lease, DmaError> {
        let shared = &self.shared;
        shared.may_dma().map_err(|e| shared.explain(e))?;
        match shared.table.lease_of(address, len, direction) {
            Some((held, offset)) => Ok(Lease(Span { held, offset, len })),
            None => Err(self.why(address, direction)),
        }
    }

    /// Why there is no lease.
    #[cold]
    fn why(&self, address: u64, direction: Direction) -> DmaError {
        match self.shared.table.check(address, 1, direction) {
            Ok(()) => DmaError::NotDirect { address },
            Err(e) => self.shared.explain(e),
        }
    }
}

impl Lease {
    /// How many bytes it covers.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Whether it covers none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The address of its first byte.
    pub fn address(&self) -> u64 {
        self.0.address()
    }

    /// Whether the peer has taken the mapping back and waits for this lease to end.
    pub fn is_ending(&self) -> bool {
        self.0.held.region.is_retired()
    }

    /// Copies from `at` bytes behind the start.
    ///
    /// # Errors
    /// Beyond the end, not readable, or past the end of the peer's file.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.0.read(at, to)
    }

    /// Copies to `at` bytes behind the start.
    ///
    /// # Errors
    /// As [`read`](Self::read), for writing.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), DmaError> {
        self.0.write(at, from)
    }
}
