//! A region as it stands in the table.

use std::sync::Arc;

use super::{Backing, Direction, Region};

/// What the table and leases hold, and nobody else. The last of them tells the region that it is unused.
///
/// What a lookup wants to know of the region lies here beside the count, so that it touches one line.
#[derive(Debug)]
pub(super) struct Entry {
    /// First address, in bytes.
    pub(super) address: u64,
    /// Length in bytes, as the region's.
    pub(super) size: u64,
    readable: bool,
    writable: bool,
    /// It is mapped into this process.
    pub(super) mapped: bool,
    pub(super) region: Arc<Region>,
}

impl Entry {
    pub(super) fn new(region: Arc<Region>) -> Entry {
        Entry {
            address: region.address,
            size: region.size,
            readable: region.readable,
            writable: region.writable,
            mapped: matches!(region.backing, Backing::Mapped(..)),
            region,
        }
    }

    pub(super) fn allows(&self, direction: Direction) -> bool {
        match direction {
            Direction::Read => self.readable,
            Direction::Write => self.writable,
        }
    }

    /// The last address.
    pub(super) fn last(&self) -> u64 {
        self.address + (self.size - 1)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.region.set_unused();
    }
}
