//! Who backs which address.

use std::sync::Arc;

use vfu_proto::wire::Errno;

use super::entry::{Entry, Need};
use super::file::Files;
use super::index::Index;
use super::{Direction, DmaError, MemoryPolicy, Region};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Counted, LeftRight};

/// The mappings of the peer. They never overlap.
///
/// Who looks something up never waits for who enters a mapping or takes one out.
#[derive(Debug)]
pub(crate) struct Table {
    /// What the mappings are pieces of.
    pub(crate) files: Files,
    index: LeftRight<Index>,
    /// Entries so far.
    entered: AtomicU64,
}

impl Default for Table {
    fn default() -> Self {
        let index = LeftRight::new(Index::default(), Index::default());
        Table { files: Files::default(), index, entered: AtomicU64::new(0) }
    }
}

/// What became of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// It is new.
    New,
    /// The same mapping was there already.
    Same,
}

impl Table {
    pub(crate) fn new(policy: MemoryPolicy) -> Table {
        Table { files: Files::new(policy), ..Table::default() }
    }

    /// Enters a mapping.
    ///
    /// # Errors
    /// `EEXIST` if it overlaps another, `EINVAL` if there are `limit` already.
    pub(crate) fn insert(&self, mut region: Region, limit: usize) -> Result<Inserted, Errno> {
        let mut change = self.index.change();
        let len = change.look(|index| {
            let before = index.floor(region.last());
            let before = before.map(|before| &before.entry.region);
            if let Some(other) = before.filter(|other| other.last() >= region.address) {
                return if other.is_same(&region) { Ok(None) } else { Err(Errno::EEXIST) };
            }
            Ok(Some(index.len()))
        })?;
        let Some(len) = len else { return Ok(Inserted::Same) };
        if len >= limit {
            return Err(Errno::EINVAL);
        }
        region.serial = self.entered.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Counted::new(Entry { region: Arc::new(region) });
        change.make(|index| index.insert(entry.clone()));
        Ok(Inserted::New)
    }

    /// Takes the mapping of just these bytes out. No new lease will find it.
    ///
    /// `None` if the bytes touch no mapping at all.
    ///
    /// # Errors
    /// `ENOENT` if they are a part of a mapping, or more than one.
    pub(crate) fn remove(&self, address: u64, size: u64) -> Result<Option<Arc<Region>>, Errno> {
        let last = size.checked_sub(1).and_then(|s| address.checked_add(s)).ok_or(Errno::EINVAL)?;
        let mut change = self.index.change();
        let other = change.look(|index| {
            let other = index.floor(last).map(|found| &found.entry.region);
            other.filter(|other| other.last() >= address).cloned()
        });
        let Some(other) = other else { return Ok(None) };
        if (other.address, other.last()) != (address, last) {
            return Err(Errno::ENOENT);
        }
        change.make(|index| drop(index.remove(address)));
        other.retire();
        Ok(Some(other))
    }

    /// Shows the mapping that `address` lies in. Who enters or takes out a mapping waits meanwhile.
    pub(crate) fn look<T>(&self, address: u64, f: impl FnOnce(&Arc<Region>) -> T) -> Option<T> {
        self.index.read(|index| {
            let region = &index.floor(address)?.entry.region;
            region.has(address).then(|| f(region))
        })
    }

    /// All mappings, in the order of their addresses.
    pub(crate) fn all(&self) -> Vec<Arc<Region>> {
        self.index.read(all)
    }

    /// Takes all mappings out.
    pub(crate) fn remove_all(&self) -> Vec<Arc<Region>> {
        let mut change = self.index.change();
        let all = change.look(all);
        change.make(|index| *index = Index::default());
        all.iter().for_each(|region| region.retire());
        all
    }

    /// The mappings that have bytes of `first..=last`, in the order of their addresses.
    pub(crate) fn overlapping(&self, first: u64, last: u64) -> Vec<Arc<Region>> {
        self.index.read(|index| {
            let entries = index.from(first).take_while(|entry| entry.region.address <= last);
            entries.map(|entry| entry.region.clone()).collect()
        })
    }

    /// Checks that `len` bytes from `address` may all be moved in this direction.
    ///
    /// # Errors
    /// A byte lies in no mapping, or in one that does not allow it.
    pub(super) fn check(
        &self,
        address: u64,
        len: usize,
        direction: Direction,
    ) -> Result<(), DmaError> {
        self.index.read(|index| {
            let (mut at, mut left) = (address, len as u64);
            while left > 0 {
                let region = &find(index, at, direction)?.region;
                let here = region.last() - at;
                if left - 1 <= here {
                    break;
                }
                left -= here + 1;
                let next = region.last().checked_add(1);
                at = next.ok_or(DmaError::NotMapped { address: u64::MAX })?;
            }
            Ok(())
        })
    }

    /// Leases the mapping that `address` lies in.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    #[inline]
    pub(super) fn lease(&self, address: u64, direction: Direction) -> Result<Lease, DmaError> {
        // Who takes the mapping out waits until we have counted ourselves.
        self.index.read(|index| find(index, address, direction).cloned())
    }

    /// Leases `len` bytes at `address`, and says how far behind the mapping's start they are: if they lie in
    /// one that is mapped, and may be moved.
    pub(super) fn lease_of(
        &self,
        address: u64,
        len: u64,
        direction: Direction,
    ) -> Option<(Lease, u64)> {
        self.index.read(|index| {
            let found = index.floor(address)?;
            let is_there = found.key.holds(address, len, Need::direct(direction));
            is_there.then(|| (found.entry.clone(), address - found.key.address))
        })
    }

    /// Shows all mappings, for as long as `f` likes: who enters one or takes one out waits meanwhile.
    #[inline]
    pub(super) fn pin<T>(&self, f: impl FnOnce(&Index) -> T) -> T {
        self.index.read(f)
    }
}

/// The right to touch a region. While it lives the mapping does.
pub(super) type Lease = Counted<Entry>;

fn all(index: &Index) -> Vec<Arc<Region>> {
    index.from(0).map(|entry| entry.region.clone()).collect()
}

/// The mapping that `address` lies in, if it allows the direction.
#[inline]
pub(super) fn find(
    index: &Index,
    address: u64,
    direction: Direction,
) -> Result<&Counted<Entry>, DmaError> {
    let entry = index.floor(address).map(|found| found.entry);
    let entry = entry.filter(|entry| entry.region.has(address));
    let entry = entry.ok_or(DmaError::NotMapped { address })?;
    if entry.region.allows(direction) {
        Ok(entry)
    } else {
        Err(DmaError::Permission { address, direction })
    }
}
