//! A region as it stands in the table.

use std::sync::Arc;

use super::{Backing, Direction, Region};

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

/// What a look for direct memory wants to know of a region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// First address, in bytes.
    pub(super) address: u64,
    pub(super) direct: Direct,
}

/// The length in bytes, behind what may be done; 0 if it is not mapped into this process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Direct(u64);

/// What may be done with direct memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need(u64);

/// Bits that a length stands behind.
const BITS: u32 = 3;

impl Need {
    /// To touch it, in a direction, as long as that may take.
    #[inline]
    pub(super) fn direct(direction: Direction) -> Need {
        match direction {
            Direction::Read => Need(1),
            Direction::Write => Need(2),
        }
    }

    /// To touch it, and wait for nobody else.
    #[inline]
    pub(super) fn prompt(direction: Direction) -> Need {
        Need(Need::direct(direction).0 | 4)
    }
}

impl Key {
    pub(super) fn new(region: &Region) -> Key {
        let bit = |is: bool, need: Need| if is { need.0 } else { 0 };
        let direct = match &region.backing {
            // Longer than all of this process' addresses it can't be.
            Backing::Mapped(..) if region.size <= u64::MAX >> BITS => {
                region.size << BITS
                    | bit(region.readable, Need::direct(Direction::Read))
                    | bit(region.writable, Need::direct(Direction::Write))
                    | bit(region.is_prompt(), Need(4))
            }
            _ => 0,
        };
        Key { address: region.address, direct: Direct(direct) }
    }

    /// Whether these bytes lie in the region, and all that may be done with them directly.
    #[inline]
    pub(super) fn holds(&self, address: u64, len: u64, need: Need) -> bool {
        let (offset, size) = (address.wrapping_sub(self.address), self.size(need));
        offset < size && len <= size - offset
    }

    /// The length in bytes, if all that may be done with it directly; else 0.
    #[inline]
    pub(super) fn size(&self, Need(need): Need) -> u64 {
        let Direct(direct) = self.direct;
        if direct & need == need { direct >> BITS } else { 0 }
    }
}
