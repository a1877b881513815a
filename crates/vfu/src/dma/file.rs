//! Files of the peer, and the pieces of them that regions are.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError, Weak};

use rustix::fs::{FileType, SealFlags, Stat, fcntl_get_seals, fcntl_getfl, fstat};
use rustix::io::{Errno as SysErrno, pread, pwrite};

use super::addresses::Addresses;
use super::mapping::{Mapping, Window};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The largest file that is mapped as a whole for a piece of it, in bytes. It costs addresses only, of
/// which a process has 128 TiB.
const WHOLE: u64 = 1 << 40;
/// So many files are known before it is asked which of them are still in use.
const FEW: usize = 16;

/// The files that a peer's mappings are pieces of. Each is held by one descriptor and mapped once,
/// however many pieces of it there are.
#[derive(Debug, Default)]
pub(crate) struct Files {
    known: Mutex<Known>,
    /// What all of them together may take to be mapped.
    pub(crate) addresses: Arc<Addresses>,
}

#[derive(Debug, Default)]
struct Known {
    files: BTreeMap<Key, Weak<Open>>,
    /// How many were in use when that was last asked.
    used: usize,
}

/// What makes two descriptors the same to us.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    identity: (u64, u64),
    /// Those of `open`: one may do what the other may not.
    flags: u32,
    readable: bool,
    writable: bool,
}

/// A file that is open.
#[derive(Debug)]
pub(crate) struct Open {
    fd: OwnedFd,
    identity: (u64, u64),
    /// How it may be mapped.
    readable: bool,
    writable: bool,
    /// The file's length when last looked at, in bytes; `u64::MAX` where files have none.
    length: AtomicU64,
    /// The file can't become shorter: it has no length, or is sealed.
    lasting: bool,
    /// The largest part of it that is mapped.
    largest: Mutex<Weak<Window>>,
    addresses: Arc<Addresses>,
}

/// A file of the peer, and the piece of it that a region is.
#[derive(Debug)]
pub(crate) struct File {
    open: Arc<Open>,
    offset: u64,
}

impl Files {
    /// The file that `fd` is of, which is kept if it is new, and closed otherwise.
    pub(crate) fn open(
        &self,
        fd: OwnedFd,
        readable: bool,
        writable: bool,
    ) -> Result<Arc<Open>, SysErrno> {
        let stat = fstat(&fd)?;
        if !is_regular(&stat) {
            // Devices of one name need not be one thing.
            return Ok(Arc::new(Open::new(fd, readable, writable, &self.addresses)?));
        }
        let flags = fcntl_getfl(&fd)?.bits();
        let key = Key { identity: identity(&stat), flags, readable, writable };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = known.files.get(&key).and_then(Weak::upgrade) {
            // It can't be used up by another file: as long as it is open its numbers are its own.
            open.length.store(length(&stat), Ordering::Relaxed);
            return Ok(open);
        }
        let open = Arc::new(Open::new(fd, readable, writable, &self.addresses)?);
        if known.files.len() >= FEW.max(known.used.saturating_mul(2)) {
            known.files.retain(|_, open| open.strong_count() > 0);
            known.used = known.files.len();
        }
        known.files.insert(key, Arc::downgrade(&open));
        Ok(open)
    }
}

impl Open {
    fn new(
        fd: OwnedFd,
        readable: bool,
        writable: bool,
        addresses: &Arc<Addresses>,
    ) -> Result<Open, SysErrno> {
        // The seal first: the peer might cut the file off and seal it between the two looks.
        let sealed = fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        let stat = fstat(&fd)?;
        let lasting = sealed || length(&stat) == u64::MAX;
        let length = AtomicU64::new(length(&stat));
        let (identity, largest) = (identity(&stat), Mutex::new(Weak::new()));
        let addresses = addresses.clone();
        Ok(Open { fd, identity, readable, writable, length, lasting, largest, addresses })
    }

    /// Maps a piece of it, or finds it mapped.
    pub(crate) fn map(&self, offset: u64, len: u64) -> Result<Mapping, SysErrno> {
        let mut largest = self.largest.lock().unwrap_or_else(PoisonError::into_inner);
        let window = largest.upgrade();
        if let Some(mapping) = window.as_ref().and_then(|w| Mapping::of(w, offset, len)) {
            return Ok(mapping);
        }
        let new = Arc::new(self.window(offset, len)?);
        let mapping = Mapping::of(&new, offset, len).ok_or(SysErrno::INVAL)?;
        if window.is_none_or(|window| window.len() <= new.len()) {
            *largest = Arc::downgrade(&new);
        }
        Ok(mapping)
    }

    /// Maps the whole, if the piece lies in it and there is room; else the piece alone.
    fn window(&self, offset: u64, len: u64) -> Result<Window, SysErrno> {
        let (fd, whole) = (self.fd.as_fd(), self.length.load(Ordering::Relaxed));
        let end = offset.checked_add(len).ok_or(SysErrno::INVAL)?;
        if end <= whole && whole <= WHOLE {
            let window = Window::of_all(fd, whole, self.readable, self.writable);
            if let Some(window) = window.and_then(|window| window.count(&self.addresses).ok()) {
                return Ok(window);
            }
        }
        Window::new(fd, offset, len, self.readable, self.writable)?.count(&self.addresses)
    }
}

impl File {
    /// A file that nothing else is a piece of.
    pub(crate) fn new(fd: OwnedFd, offset: u64) -> Result<File, SysErrno> {
        Ok(File::of(Arc::new(Open::new(fd, true, true, &Arc::default())?), offset))
    }

    /// The piece from `offset` on.
    pub(crate) fn of(open: Arc<Open>, offset: u64) -> File {
        File { open, offset }
    }

    /// Which piece of which file.
    pub(crate) fn identity(&self) -> ((u64, u64), u64) {
        (self.open.identity, self.offset)
    }

    /// Whether the file can't become shorter.
    pub(crate) fn is_lasting(&self) -> bool {
        self.open.lasting
    }

    /// Whether the bytes lie in the file now. It may have grown since the last look, and shrunk
    /// unless it is sealed against that.
    #[inline]
    pub(crate) fn holds(&self, at: u64, len: usize) -> bool {
        let end = self.offset.checked_add(at).and_then(|p| p.checked_add(len as u64));
        let Some(end) = end else { return false };
        if self.open.lasting && end <= self.open.length.load(Ordering::Relaxed) {
            return true;
        }
        self.holds_now(end)
    }

    #[inline(never)]
    fn holds_now(&self, end: u64) -> bool {
        let now = fstat(&self.open.fd).map_or(0, |stat| length(&stat));
        self.open.length.store(now, Ordering::Relaxed);
        end <= now
    }

    pub(crate) fn read(&self, at: u64, mut to: &mut [u8]) -> Result<(), SysErrno> {
        let mut position = self.offset.checked_add(at).ok_or(SysErrno::FAULT)?;
        while !to.is_empty() {
            match pread(&self.open.fd, &mut *to, position) {
                Ok(0) => return Err(SysErrno::FAULT),
                Ok(n) => {
                    position += n as u64;
                    to = &mut to[n..];
                }
                Err(SysErrno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, at: u64, mut from: &[u8]) -> Result<(), SysErrno> {
        // A write past the end would make the peer's file longer.
        if !self.holds(at, from.len()) {
            return Err(SysErrno::FAULT);
        }
        let mut position = self.offset.checked_add(at).ok_or(SysErrno::FAULT)?;
        while !from.is_empty() {
            match pwrite(&self.open.fd, from, position) {
                Ok(0) => return Err(SysErrno::FAULT),
                Ok(n) => {
                    position += n as u64;
                    from = &from[n..];
                }
                Err(SysErrno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn length(stat: &Stat) -> u64 {
    if is_regular(stat) { u64::try_from(stat.st_size).unwrap_or(0) } else { u64::MAX }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests;
