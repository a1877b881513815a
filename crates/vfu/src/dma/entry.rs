//! A region as it stands in the table.

use std::sync::Arc;

use super::{Backing, Direction, Region};
use crate::sync::Counted;

/// What the table and leases hold, and nobody else. The last of them tells the region that it is unused.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) region: Arc<Region>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.region.set_unused();
    }
}

/// An entry's place in the table, with what a lookup wants to know of the region: it looks no further.
#[derive(Clone, Debug)]
#[repr(align(32))]
pub(super) struct Slot {
    /// First address, in bytes.
    pub(super) address: u64,
    /// Length in bytes, as the region's.
    pub(super) size: u64,
    pub(super) entry: Counted<Entry>,
    readable: bool,
    writable: bool,
    /// It is mapped into this process.
    pub(super) mapped: bool,
    /// Who touches it does not wait for others; only then it is mapped.
    pub(super) prompt: bool,
}

impl Slot {
    pub(super) fn new(region: Arc<Region>) -> Slot {
        Slot {
            address: region.address,
            size: region.size,
            readable: region.readable,
            writable: region.writable,
            mapped: matches!(region.backing, Backing::Mapped(..)),
            prompt: matches!(&region.backing, Backing::Mapped(_, file) if file.is_prompt()),
            entry: Counted::new(Entry { region }),
        }
    }

    pub(super) fn region(&self) -> &Arc<Region> {
        &self.entry.region
    }

    #[inline]
    pub(super) fn allows(&self, direction: Direction) -> bool {
        match direction {
            Direction::Read => self.readable,
            Direction::Write => self.writable,
        }
    }

    /// Where `address` is, in bytes from the start, if it lies in the region.
    #[inline]
    pub(super) fn offset(&self, address: u64) -> Option<u64> {
        let offset = address.wrapping_sub(self.address);
        (offset < self.size).then_some(offset)
    }

    /// Whether these bytes lie in the region, and may be moved.
    #[inline]
    pub(super) fn holds(&self, address: u64, len: u64, direction: Direction) -> bool {
        let offset = self.offset(address);
        offset.is_some_and(|offset| len <= self.size - offset) && self.allows(direction)
    }

    /// The last address.
    #[inline]
    pub(super) fn last(&self) -> u64 {
        self.address + (self.size - 1)
    }
}
