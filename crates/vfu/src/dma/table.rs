//! Who backs which address.

use std::ops::Deref;
use std::sync::{Arc, PoisonError};

use vfu_proto::wire::Errno;

use super::file::Files;
use super::index::Index;
use super::{Direction, DmaError, MemoryPolicy, Region};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock, thread_number};

/// Copies of the index. Threads that look something up at the same time use different ones, so that
/// they do not pass the line of a lock from one processor to the other.
const COPIES: usize = if cfg!(any(loom, shuttle)) { 1 } else { 4 };

/// The mappings of the peer. They never overlap.
///
/// A change is made in one copy after the other: who looks up waits for one entry to be moved at most.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// What the mappings are pieces of.
    pub(crate) files: Files,
    copies: [Copy; COPIES],
    /// Held by who changes the copies: they are the same when it is free.
    changing: Mutex<()>,
    /// Entries so far.
    entered: AtomicU64,
}

/// One copy, on lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Copy(RwLock<Index>);

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
        let _changing = self.change();
        let len = self.read(|index| {
            let before = index.floor(region.last());
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
        let region = Arc::new(region);
        self.write_each(|index| index.insert(region.clone()));
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
        let _changing = self.change();
        let other = self.read(|index| index.floor(last).cloned());
        let Some(other) = other.filter(|other| other.last() >= address) else { return Ok(None) };
        if (other.address, other.last()) != (address, last) {
            return Err(Errno::ENOENT);
        }
        self.write_each(|index| drop(index.remove(address)));
        other.retire();
        Ok(Some(other))
    }

    /// Shows the mapping that `address` lies in. Who enters or takes out a mapping waits meanwhile.
    pub(crate) fn look<T>(&self, address: u64, f: impl FnOnce(&Arc<Region>) -> T) -> Option<T> {
        self.read(|index| {
            let region = index.floor(address)?;
            (region.last() >= address).then(|| f(region))
        })
    }

    /// All mappings, in the order of their addresses.
    pub(crate) fn all(&self) -> Vec<Arc<Region>> {
        self.read(|index| index.from(0).cloned().collect())
    }

    /// Takes all mappings out.
    pub(crate) fn remove_all(&self) -> Vec<Arc<Region>> {
        let _changing = self.change();
        let all = self.all();
        self.write_each(|index| *index = Index::default());
        all.iter().for_each(|region| region.retire());
        all
    }

    /// The mappings that have bytes of `first..=last`, in the order of their addresses.
    pub(crate) fn overlapping(&self, first: u64, last: u64) -> Vec<Arc<Region>> {
        self.read(|index| {
            let regions = index.from(first).take_while(|region| region.address <= last);
            regions.cloned().collect()
        })
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks something up in this thread's copy.
    #[inline]
    fn read<T>(&self, f: impl FnOnce(&Index) -> T) -> T {
        let copy = &self.copies[thread_number() % COPIES];
        f(&copy.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes one change in every copy.
    fn write_each(&self, mut f: impl FnMut(&mut Index)) {
        for copy in &self.copies {
            f(&mut copy.0.write().unwrap_or_else(PoisonError::into_inner));
        }
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
        self.read(|index| {
            let (mut at, mut left) = (address, len as u64);
            while left > 0 {
                let region = find(index, at, direction)?;
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
    pub(super) fn lease(&self, address: u64, direction: Direction) -> Result<Lease, DmaError> {
        self.read(|index| {
            let region = find(index, address, direction)?.clone();
            // Under the lock: who takes the region out counts us, or we do not find it.
            region.users.fetch_add(1, Ordering::SeqCst);
            Ok(Lease { region })
        })
    }
}

/// The mapping that `address` lies in, if it allows the direction.
#[inline]
fn find(index: &Index, address: u64, direction: Direction) -> Result<&Arc<Region>, DmaError> {
    let region = index.floor(address).filter(|region| region.last() >= address);
    let region = region.ok_or(DmaError::NotMapped { address })?;
    if region.allows(direction) {
        Ok(region)
    } else {
        Err(DmaError::Permission { address, direction })
    }
}

/// The right to touch a region. While it lives the mapping does.
#[derive(Debug)]
pub(super) struct Lease {
    region: Arc<Region>,
}

impl Lease {
    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

impl Deref for Lease {
    type Target = Region;

    fn deref(&self) -> &Region {
        &self.region
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.region.release();
    }
}
