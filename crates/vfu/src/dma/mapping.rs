//! Pieces of files of the peer, mapped into this process.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{FsWord, fstatfs};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tracing::warn;

use super::addresses::{Addresses, Taken};
use super::copy;
use super::guard::{Guard, Slot};
use crate::seldom::OF_THE_PROCESS;

/// Memory that the peer shares with us: a piece of a window. Reached by copies only.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// The piece's first byte.
    start: NonNull<u8>,
    /// How many bytes.
    len: usize,
    /// The window's.
    guard: Option<&'static Slot>,
    window: Arc<Window>,
}

/// What is wanted of a mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Its pages may go away, and that shall be an error.
    pub(crate) guarded: bool,
}

// SAFETY: the pointer is into a window, which lives as long as `self` and is reached through
// `super::copy` only, from whatever thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset`, neither of which need be a page's multiple.
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        wanted: Wanted,
    ) -> Result<Mapping, Errno> {
        let window = Arc::new(Window::new(fd, offset, len, wanted)?);
        Mapping::of(&window, offset, len).ok_or(Errno::INVAL)
    }

    /// The `len` bytes of the file from `offset`, if they lie in the window.
    pub(super) fn of(window: &Arc<Window>, offset: u64, len: u64) -> Option<Mapping> {
        let skip = usize::try_from(offset.checked_sub(window.offset)?).ok()?;
        let len = usize::try_from(len).ok()?;
        if skip.checked_add(len)? > window.mapped {
            return None;
        }
        // SAFETY: the piece lies in the window.
        let start = unsafe { window.base.add(skip) };
        let guard = window.guard.as_ref().map(Guard::slot);
        Some(Mapping { start, len, guard, window: window.clone() })
    }

    /// Copies from the piece; `at` is in bytes from its start. The caller checked the permission.
    ///
    /// # Errors
    /// `EFAULT`: beyond its end, or the mapping [is lost](Self::is_lost).
    #[inline]
    pub(crate) fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Errno> {
        let from = self.at(at, to.len())?;
        // SAFETY: `at` checked that `to.len()` bytes from there lie in the piece.
        self.touch(|| unsafe { copy::load(from, to) })
    }

    /// Copies to the piece; as [`read`](Self::read).
    #[inline]
    pub(crate) fn write(&self, at: u64, from: &[u8]) -> Result<(), Errno> {
        let to = self.at(at, from.len())?;
        // SAFETY: `at` checked that `from.len()` bytes from there lie in the piece.
        self.touch(|| unsafe { copy::store(from, to) })
    }

    #[inline]
    fn touch(&self, touch: impl FnOnce()) -> Result<(), Errno> {
        match self.guard {
            None => touch(),
            Some(guard) => guard.guard(touch).inspect_err(|_| tell(guard))?,
        }
        Ok(())
    }

    /// Whether the file has lost pages that were touched. The mapping is no good any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.guard.is_some_and(Slot::is_lost)
    }

    /// The piece's first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The pages that the piece lies in.
    pub(crate) fn pages(&self) -> (NonNull<u8>, usize) {
        let (base, page) = (self.window.base, self.window.page);
        let skip = self.start.as_ptr() as usize - base.as_ptr() as usize;
        let first = skip - skip % page;
        // The window is whole pages, so this does not go beyond it.
        let len = (skip + self.len).next_multiple_of(page) - first;
        // SAFETY: `first` is not behind `start`, which lies in the window.
        (unsafe { base.add(first) }, len)
    }

    /// The size of its pages in bytes.
    pub(crate) fn page_size(&self) -> usize {
        self.window.page
    }

    #[inline]
    fn at(&self, at: u64, len: usize) -> Result<*mut u8, Errno> {
        let at = usize::try_from(at).map_err(|_| Errno::FAULT)?;
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Errno::FAULT);
        }
        // SAFETY: `at` lies in the piece, or just behind it if `len` is 0.
        Ok(unsafe { self.start.as_ptr().add(at) })
    }
}

#[cold]
fn tell(guard: &Slot) {
    const LOST: &str =
        "the peer's file has lost pages under its mapping; it is read and written from now on";
    if guard.is_news() {
        if let Some(kept) = OF_THE_PROCESS.ask(LOST) {
            warn!("{LOST}{kept}");
        }
    }
}

/// What one call of `mmap` has mapped.
#[derive(Debug)]
pub(super) struct Window {
    guard: Option<Guard>,
    /// The start, at a page's border.
    base: NonNull<u8>,
    /// The length in bytes, whole pages.
    mapped: usize,
    /// Where in the file it begins.
    offset: u64,
    /// The size of its pages.
    page: usize,
    /// What it counts for; held until it is gone.
    taken: Option<Taken>,
}

// SAFETY: the pointer is to a mapping that lives as long as `self`; see `Mapping` for who uses it.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Maps the pages that `len` bytes of `fd` from `offset` lie in.
    pub(super) fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        wanted: Wanted,
    ) -> Result<Window, Errno> {
        Window::map(fd, (offset, len), wanted, Filesystem::of(fd).huge())
    }

    /// Maps the whole of `fd`, which has `len` bytes. `None` if that can't be, or is not free: huge
    /// pages are reserved when they are mapped.
    pub(super) fn of_all(fd: BorrowedFd<'_>, len: u64, wanted: Wanted) -> Option<Window> {
        if Filesystem::of(fd).huge().is_some() {
            return None;
        }
        Window::map(fd, (0, len), wanted, None).ok()
    }

    fn map(
        fd: BorrowedFd<'_>,
        (offset, len): (u64, u64),
        wanted: Wanted,
        huge: Option<u64>,
    ) -> Result<Window, Errno> {
        let page = huge.unwrap_or(rustix::param::page_size() as u64);
        let skip = offset % page;
        let end = len.checked_add(skip).ok_or(Errno::INVAL)?;
        let mapped = end.checked_next_multiple_of(page).ok_or(Errno::INVAL)?;
        let mapped = usize::try_from(mapped).map_err(|_| Errno::NOMEM)?;
        let mut prot = ProtFlags::empty();
        prot.set(ProtFlags::READ, wanted.readable);
        prot.set(ProtFlags::WRITE, wanted.writable);
        let mut flags = MapFlags::SHARED;
        // Huge pages that are not reserved may be missing when they are touched, which is a SIGBUS.
        flags.set(MapFlags::NORESERVE, huge.is_none());
        let offset = offset - skip;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let base = unsafe { mmap(std::ptr::null_mut(), mapped, prot, flags, fd, offset) }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        let page = page as usize;
        let guard =
            if wanted.guarded { Guard::new(base.as_ptr() as usize, mapped, page) } else { None };
        Ok(Window { guard, base, mapped, offset, page, taken: None })
    }

    /// Counts it as a part of what may be taken; it is gone if there is not so much left.
    pub(super) fn count(mut self, addresses: &Arc<Addresses>) -> Result<Window, Errno> {
        self.taken = Some(addresses.take(self.mapped as u64)?);
        Ok(self)
    }

    /// Whether the file has lost pages under it.
    pub(super) fn is_lost(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.slot().is_lost())
    }

    /// How many bytes are mapped.
    pub(super) fn len(&self) -> usize {
        self.mapped
    }
}

/// What a file lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filesystem {
    /// tmpfs: a page is there at once, or after a look at the swap of this machine.
    Memory,
    /// hugetlbfs: it has pages of its own, of so many bytes, and maps no parts of them.
    Huge(u64),
    /// One that may take as long as it likes: FUSE is a process of the peer's.
    Other,
}

impl Filesystem {
    pub(super) fn of(fd: BorrowedFd<'_>) -> Filesystem {
        let usual = rustix::param::page_size() as u64;
        match fstatfs(fd) {
            Ok(stat) if stat.f_type == TMPFS_MAGIC => Filesystem::Memory,
            Ok(stat) if stat.f_type == HUGETLBFS_MAGIC => {
                Filesystem::Huge(u64::try_from(stat.f_bsize).unwrap_or(usual).max(usual))
            }
            _ => Filesystem::Other,
        }
    }

    /// The size of its pages in bytes, if it has pages of its own.
    pub(super) fn huge(self) -> Option<u64> {
        match self {
            Filesystem::Huge(page) => Some(page),
            Filesystem::Memory | Filesystem::Other => None,
        }
    }

    /// Whether who touches a page has it in bounded time, or is told that there is none.
    pub(super) fn is_prompt(self) -> bool {
        self != Filesystem::Other
    }
}

/// What `statfs` says of a tmpfs, which memfds lie in, and of a hugetlbfs (linux/magic.h).
const TMPFS_MAGIC: FsWord = 0x0102_1994;
const HUGETLBFS_MAGIC: FsWord = 0x9584_58f6;

impl Drop for Window {
    fn drop(&mut self) {
        // First: from here on the addresses may be anybody's.
        self.guard = None;
        // SAFETY: our own mapping, to which no reference was ever made. No piece of it is left.
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
        let wanted = Wanted { readable: true, writable: true, guarded: false };
        assert_eq!(Mapping::new(fd.as_fd(), 0, size, wanted).map(drop), Err(Errno::NOMEM));
    }
}
