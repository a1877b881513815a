//! A piece of direct memory, whatever it is that keeps the mapping.

use std::borrow::Borrow;

use super::entry::Entry;
use super::{Direction, DmaError, Region, file_error};
use crate::sync::Counted;

/// Bytes of one mapping, which stays as long as `held` does.
#[derive(Debug)]
pub(super) struct Span<H> {
    pub(super) held: H,
    /// Where it begins, in bytes from the mapping's start.
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl<H: Borrow<Counted<Entry>>> Span<H> {
    fn region(&self) -> &Region {
        &self.held.borrow().region
    }

    pub(super) fn address(&self) -> u64 {
        self.region().address + self.offset
    }

    /// Copies from `at` bytes behind the start.
    pub(super) fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DmaError> {
        let offset = self.check(at, to.len(), Direction::Read)?;
        if to.is_empty() {
            return Ok(()); // perhaps at the end of all addresses, and of the file
        }
        self.region().read_direct(offset, to).map_err(|e| file_error(self.address() + at, e))
    }

    /// Copies to `at` bytes behind the start.
    pub(super) fn write(&self, at: u64, from: &[u8]) -> Result<(), DmaError> {
        let offset = self.check(at, from.len(), Direction::Write)?;
        if from.is_empty() {
            return Ok(());
        }
        self.region().write_direct(offset, from).map_err(|e| file_error(self.address() + at, e))
    }

    /// Where in the mapping the bytes are, if they are in the piece and may be moved.
    fn check(&self, at: u64, len: usize, direction: Direction) -> Result<u64, DmaError> {
        let address = self.address().wrapping_add(at);
        if at.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Err(DmaError::NotMapped { address });
        }
        if !self.region().allows(direction) {
            return Err(DmaError::Permission { address, direction });
        }
        Ok(self.offset + at)
    }
}
