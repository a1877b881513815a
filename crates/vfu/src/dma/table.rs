//! Who backs which address.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

use vfu_proto::wire::Errno;

use super::{Direction, DmaError, Region};

/// The mappings of the peer. They never overlap.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// By first address.
    regions: RwLock<BTreeMap<u64, Arc<Region>>>,
    /// For an unmap that waits for leases to end.
    drained: (Mutex<()>, Condvar),
}

/// The right to touch a region. While it lives the mapping does.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    region: Arc<Region>,
    table: &'a Table,
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
    pub(crate) fn insert(&self, region: Region, limit: usize) -> Result<Inserted, Errno> {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let before = regions.range(..=region.last()).next_back();
        if let Some((_, other)) = before.filter(|(_, other)| other.last() >= region.address) {
            let same = other.is_same(&region);
            return if same { Ok(Inserted::Same) } else { Err(Errno::EEXIST) };
        }
        if regions.len() >= limit {
            return Err(Errno::EINVAL);
        }
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
        Ok(regions.remove(&at).inspect(|r| r.retired.store(true, Ordering::SeqCst)))
    }

    /// Takes all mappings out.
    pub(crate) fn remove_all(&self) -> Vec<Arc<Region>> {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let all = std::mem::take(&mut *regions).into_values();
        all.inspect(|r| r.retired.store(true, Ordering::SeqCst)).collect()
    }

    /// Waits until nobody touches a region that was taken out.
    pub(crate) fn wait_unused(&self, region: &Region) {
        let mut guard = self.drained.0.lock().unwrap_or_else(PoisonError::into_inner);
        while region.users.load(Ordering::SeqCst) > 0 {
            guard = self.drained.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Leases every region that `len` bytes from `address` lie in, in order.
    ///
    /// # Errors
    /// A byte lies in no region, or in one that may not be moved in this direction.
    pub(super) fn lease(
        &self,
        address: u64,
        len: usize,
        direction: Direction,
    ) -> Result<Leases<'_>, DmaError> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let mut leases = Leases { first: None, more: Vec::new() };
        let (mut at, mut left) = (address, len as u64);
        while left > 0 {
            let unmapped = || DmaError::NotMapped { address: at };
            let (_, region) = regions.range(..=at).next_back().ok_or_else(unmapped)?;
            if region.last() < at {
                return Err(unmapped());
            }
            let allowed = match direction {
                Direction::Read => region.readable,
                Direction::Write => region.writable,
            };
            if !allowed {
                return Err(DmaError::Permission { address: at, direction });
            }
            region.users.fetch_add(1, Ordering::SeqCst);
            leases.push(Lease { region: region.clone(), table: self });
            let here = region.last() - at;
            if left - 1 <= here {
                break;
            }
            left -= here + 1;
            at = region.last().checked_add(1).ok_or(DmaError::NotMapped { address: u64::MAX })?;
        }
        Ok(leases)
    }
}

/// Leases of adjacent regions; mostly one, which then needs no allocation.
#[derive(Debug)]
pub(super) struct Leases<'a> {
    first: Option<Lease<'a>>,
    more: Vec<Lease<'a>>,
}

impl<'a> Leases<'a> {
    fn push(&mut self, lease: Lease<'a>) {
        if self.first.is_none() {
            self.first = Some(lease);
        } else {
            self.more.push(lease);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease<'a>> {
        self.first.iter().chain(&self.more)
    }
}

impl Deref for Lease<'_> {
    type Target = Region;

    fn deref(&self) -> &Region {
        &self.region
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let last = self.region.users.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.region.retired.load(Ordering::SeqCst) {
            let _guard = self.table.drained.0.lock().unwrap_or_else(PoisonError::into_inner);
            self.table.drained.1.notify_all();
        }
    }
}
