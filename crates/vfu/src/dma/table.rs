//! Who backs which address.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, PoisonError};

use vfu_proto::wire::Errno;

use super::file::Files;
use super::{Direction, DmaError, Region};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The mappings of the peer. They never overlap.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// What the mappings are pieces of.
    pub(crate) files: Files,
    /// By first address.
    regions: RwLock<BTreeMap<u64, Arc<Region>>>,
    /// Entries so far.
    entered: AtomicU64,
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
    /// Enters a mapping.
    ///
    /// # Errors
    /// `EEXIST` if it overlaps another, `EINVAL` if there are `limit` already.
    pub(crate) fn insert(&self, mut region: Region, limit: usize) -> Result<Inserted, Errno> {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let before = regions.range(..=region.last()).next_back();
        if let Some((_, other)) = before.filter(|(_, other)| other.last() >= region.address) {
            let same = other.is_same(&region);
            return if same { Ok(Inserted::Same) } else { Err(Errno::EEXIST) };
        }
        if regions.len() >= limit {
            return Err(Errno::EINVAL);
        }
        region.serial = self.entered.fetch_add(1, Ordering::Relaxed) + 1;
        regions.insert(region.address, Arc::new(region));
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
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let Some((&at, other)) = regions.range(..=last).next_back() else { return Ok(None) };
        if other.last() < address {
            return Ok(None);
        }
        if (at, other.last()) != (address, last) {
            return Err(Errno::ENOENT);
        }
        Ok(regions.remove(&at).inspect(|region| region.retire()))
    }

    /// Shows the mapping that `address` lies in. Who enters or takes out a mapping waits meanwhile.
    pub(crate) fn look<T>(&self, address: u64, f: impl FnOnce(&Arc<Region>) -> T) -> Option<T> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let (_, region) = regions.range(..=address).next_back()?;
        (region.last() >= address).then(|| f(region))
    }

    /// All mappings, in the order of their addresses.
    pub(crate) fn all(&self) -> Vec<Arc<Region>> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions.values().cloned().collect()
    }

    /// Takes all mappings out.
    pub(crate) fn remove_all(&self) -> Vec<Arc<Region>> {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let all = std::mem::take(&mut *regions).into_values();
        all.inspect(|region| region.retire()).collect()
    }

    /// The mappings that have bytes of `first..=last`, in the order of their addresses.
    pub(crate) fn overlapping(&self, first: u64, last: u64) -> Vec<Arc<Region>> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let before = regions.range(..first).next_back().filter(|(_, r)| r.last() >= first);
        let from = before.map_or(first, |(&address, _)| address);
        // A range that ends before it begins is a panic of the map's.
        if from > last {
            return Vec::new();
        }
        regions.range(from..=last).map(|(_, region)| region.clone()).collect()
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
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let (mut at, mut left) = (address, len as u64);
        while left > 0 {
            let region = find(&regions, at, direction)?;
            let here = region.last() - at;
            if left - 1 <= here {
                break;
            }
            left -= here + 1;
            at = region.last().checked_add(1).ok_or(DmaError::NotMapped { address: u64::MAX })?;
        }
        Ok(())
    }

    /// Leases the mapping that `address` lies in.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(super) fn lease(&self, address: u64, direction: Direction) -> Result<Lease, DmaError> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let region = find(&regions, address, direction)?.clone();
        // Under the lock: who takes the region out counts us, or we do not find it.
        region.users.fetch_add(1, Ordering::SeqCst);
        Ok(Lease { region })
    }
}

/// The mapping that `address` lies in, if it allows the direction.
fn find(
    regions: &BTreeMap<u64, Arc<Region>>,
    address: u64,
    direction: Direction,
) -> Result<&Arc<Region>, DmaError> {
    let found = regions.range(..=address).next_back().map(|(_, region)| region);
    let region = found.filter(|region| region.last() >= address);
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
