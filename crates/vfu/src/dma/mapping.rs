//! A piece of a file of the peer, mapped into this process.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::fs::{FsWord, fstatfs};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::copy;

/// Memory that the peer shares with us. Reached by copies only.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// The start of the mapping, at a page's border.
    base: NonNull<u8>,
    /// The mapping's length in bytes, from `base`.
    mapped: usize,
    /// Where the piece begins and ends, in bytes from `base`.
    skip: usize,
    end: usize,
    /// The size of its pages.
    page: usize,
}

// SAFETY: the pointer is to a mapping that lives as long as `self` and that is reached by volatile
// copies only, from whatever thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset`, neither of which need be a page's multiple.
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        readable: bool,
        writable: bool,
    ) -> Result<Mapping, Errno> {
        let huge = huge_page_size(fd);
        let page = huge.unwrap_or(rustix::param::page_size() as u64);
        let skip = offset % page;
        let end = len.checked_add(skip).ok_or(Errno::INVAL)?;
        let mapped = end.checked_next_multiple_of(page).ok_or(Errno::INVAL)?;
        let mapped = usize::try_from(mapped).map_err(|_| Errno::NOMEM)?;
        let mut prot = ProtFlags::empty();
        prot.set(ProtFlags::READ, readable);
        prot.set(ProtFlags::WRITE, writable);
        let mut flags = MapFlags::SHARED;
        // Huge pages that are not reserved may be missing when they are touched, which is a SIGBUS.
        flags.set(MapFlags::NORESERVE, huge.is_none());
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let base = unsafe { mmap(std::ptr::null_mut(), mapped, prot, flags, fd, offset - skip) }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        let (skip, end, page) = (skip as usize, end as usize, page as usize);
        Ok(Mapping { base, mapped, skip, end, page })
    }

    /// Copies from the piece; `at` is in bytes from its start. The caller checked the permission.
    pub(crate) fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Errno> {
        let from = self.at(at, to.len())?;
        // SAFETY: `at` checked that `to.len()` bytes from there lie in the mapping.
        unsafe { copy::load(from, to) };
        Ok(())
    }

    /// Copies to the piece; as [`read`](Self::read).
    pub(crate) fn write(&self, at: u64, from: &[u8]) -> Result<(), Errno> {
        let to = self.at(at, from.len())?;
        // SAFETY: `at` checked that `from.len()` bytes from there lie in the mapping.
        unsafe { copy::store(from, to) };
        Ok(())
    }

    /// The piece's first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        // SAFETY: the piece begins in the mapping.
        unsafe { self.base.add(self.skip) }
    }

    /// The whole that is mapped, in whole pages.
    pub(crate) fn pages(&self) -> (NonNull<u8>, usize) {
        (self.base, self.mapped)
    }

    /// The size of its pages in bytes.
    pub(crate) fn page_size(&self) -> usize {
        self.page
    }

    fn at(&self, at: u64, len: usize) -> Result<*mut u8, Errno> {
        let start = usize::try_from(at).ok().and_then(|at| at.checked_add(self.skip));
        let start = start.ok_or(Errno::FAULT)?;
        if start.checked_add(len).is_none_or(|end| end > self.end) {
            return Err(Errno::FAULT);
        }
        // SAFETY: `start` lies in the mapping, or just behind it if `len` is 0.
        Ok(unsafe { self.base.as_ptr().add(start) })
    }
}

/// The page size of the file's mappings in bytes, if it is one of hugetlbfs: that has pages of its own,
/// and maps no parts of them.
fn huge_page_size(fd: BorrowedFd<'_>) -> Option<u64> {
    let stat = fstatfs(fd).ok().filter(|stat| stat.f_type == HUGETLBFS_MAGIC)?;
    let usual = rustix::param::page_size() as u64;
    Some(u64::try_from(stat.f_bsize).unwrap_or(usual).max(usual))
}

/// What `statfs` says of a hugetlbfs (linux/magic.h).
const HUGETLBFS_MAGIC: FsWord = 0x9584_58f6;

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference was ever made; `self` goes now.
        let _never_fails = unsafe { munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn huge_pages_that_are_not_there_are_not_mapped() {
        let Ok(fd) = memfd_create("huge", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB) else {
            return;
        };
        // More than any machine has.
        let size = 1 << 44;
        ftruncate(&fd, size).unwrap();
        assert_eq!(Mapping::new(fd.as_fd(), 0, size, true, true).map(drop), Err(Errno::NOMEM));
    }
}
