//! Files of the peer, and the pieces of them that regions are.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError, Weak};

use rustix::fs::{FileType, OFlags, SealFlags, Stat, fcntl_get_seals, fcntl_getfl, fstat};
use rustix::io::{Errno as SysErrno, pread, pwrite};

use tracing::warn;

use super::MemoryPolicy;
use super::addresses::Addresses;
use super::mapping::{Filesystem, Mapping, Wanted, Window};
use crate::seldom::OF_THE_PROCESS;
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
    policy: Mutex<MemoryPolicy>,
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
    /// How it is mapped.
    wanted: Wanted,
    /// It has a length,
    regular: bool,
    /// which can't become less.
    sealed: bool,
    /// Its pages are there at once, or never.
    prompt: bool,
    /// The file's length when last looked at, in bytes; `u64::MAX` where files have none.
    length: AtomicU64,
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
    pub(crate) fn new(policy: MemoryPolicy) -> Files {
        let policy = Mutex::new(policy);
        Files { policy, known: Mutex::default(), addresses: Arc::default() }
    }

    pub(super) fn policy(&self) -> MemoryPolicy {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of the files to come.
    pub(crate) fn set_policy(&self, policy: MemoryPolicy) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// The file that `fd` is of, which is kept if it is new, and closed otherwise.
    ///
    /// # Errors
    /// `EPERM`: the policy does not allow it. Else what the system says.
    pub(crate) fn open(
        &self,
        fd: OwnedFd,
        readable: bool,
        writable: bool,
    ) -> Result<Arc<Open>, SysErrno> {
        let policy = self.policy();
        admit(&fd, policy)?;
        let new = |fd| Open::new(fd, readable, writable, policy, &self.addresses).map(Arc::new);
        let stat = fstat(&fd)?;
        if !is_regular(&stat) {
            // Devices of one name need not be one thing.
            return new(fd);
        }
        let flags = fcntl_getfl(&fd)?.bits();
        let key = Key { identity: identity(&stat), flags, readable, writable };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = known.files.get(&key).and_then(Weak::upgrade) {
            // It can't be used up by another file: as long as it is open its numbers are its own.
            open.length.store(length(&stat), Ordering::Relaxed);
            return Ok(open);
        }
        let open = new(fd)?;
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
        policy: MemoryPolicy,
        addresses: &Arc<Addresses>,
    ) -> Result<Open, SysErrno> {
        // The seal first: the peer might cut the file off and seal it between the two looks. It does not
        // keep huge pages from being taken out of the middle, and none being left.
        let sealed = is_sealed(&fd);
        let filesystem = Filesystem::of(fd.as_fd());
        let (lasting, prompt) = (sealed && filesystem.huge().is_none(), filesystem.is_prompt());
        let wanted = Wanted { readable, writable, guarded: policy.guards() && !lasting };
        let stat = fstat(&fd)?;
        let (regular, length) = (is_regular(&stat), AtomicU64::new(length(&stat)));
        let (identity, largest) = (identity(&stat), Mutex::new(Weak::new()));
        let addresses = addresses.clone();
        Ok(Open { fd, identity, wanted, regular, sealed, prompt, length, largest, addresses })
    }

    /// Checks that it may be read and written as is wanted; `mmap` does that itself.
    ///
    /// # Errors
    /// `EACCES`.
    pub(super) fn check_mode(&self) -> Result<(), SysErrno> {
        let flags = fcntl_getfl(&self.fd)?;
        let mode = flags & OFlags::RWMODE;
        let denied = flags.contains(OFlags::PATH)
            || self.wanted.readable && mode == OFlags::WRONLY
            || self.wanted.writable && mode == OFlags::RDONLY;
        if denied { Err(SysErrno::ACCESS) } else { Ok(()) }
    }

    /// Maps a piece of it, or finds it mapped.
    pub(crate) fn map(&self, offset: u64, len: u64) -> Result<Mapping, SysErrno> {
        let mut largest = self.largest.lock().unwrap_or_else(PoisonError::into_inner);
        let window = largest.upgrade().filter(|window| !window.is_lost());
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
            let window = Window::of_all(fd, whole, self.wanted);
            if let Some(window) = window.and_then(|window| window.count(&self.addresses).ok()) {
                return Ok(window);
            }
        }
        Window::new(fd, offset, len, self.wanted)?.count(&self.addresses)
    }
}

impl File {
    /// A file that nothing else is a piece of.
    pub(crate) fn new(
        fd: OwnedFd,
        offset: u64,
        writable: bool,
        policy: MemoryPolicy,
    ) -> Result<File, SysErrno> {
        admit(&fd, policy)?;
        Ok(File::of(Arc::new(Open::new(fd, true, writable, policy, &Arc::default())?), offset))
    }

    /// The piece of it from `at` on.
    pub(crate) fn piece(&self, at: u64) -> Option<File> {
        Some(File::of(self.open.clone(), self.offset.checked_add(at)?))
    }

    /// Maps `len` bytes of it.
    pub(crate) fn map(&self, len: u64) -> Result<Mapping, SysErrno> {
        self.open.map(self.offset, len)
    }

    /// The piece from `offset` on.
    pub(crate) fn of(open: Arc<Open>, offset: u64) -> File {
        File { open, offset }
    }

    /// Which piece of which file.
    pub(crate) fn identity(&self) -> ((u64, u64), u64) {
        (self.open.identity, self.offset)
    }

    /// Whether who touches its pages never has to wait for the peer.
    pub(super) fn is_prompt(&self) -> bool {
        self.open.prompt
    }

    /// Whether the bytes lie in the file, as far as is known. It may have grown since the last look,
    /// so that is done again. That it has become shorter is found out by who touches it.
    #[inline]
    pub(crate) fn holds(&self, at: u64, len: usize) -> bool {
        let end = self.offset.checked_add(at).and_then(|p| p.checked_add(len as u64));
        let Some(end) = end else { return false };
        end <= self.open.length.load(Ordering::Relaxed) || self.holds_now(end)
    }

    #[inline(never)]
    fn holds_now(&self, end: u64) -> bool {
        let now = fstat(&self.open.fd).map_or(0, |stat| length(&stat));
        self.open.length.store(now, Ordering::Relaxed);
        end <= now
    }

    /// As [`read`](Self::read), after a mapping of the file has failed with `error`. A device is not
    /// read instead: what it has there need not be what it maps, and may never come.
    #[cold]
    pub(super) fn read_instead(
        &self,
        at: u64,
        to: &mut [u8],
        error: SysErrno,
    ) -> Result<(), SysErrno> {
        if self.open.regular { self.read(at, to) } else { Err(error) }
    }

    /// As [`write`](Self::write); see [`read_instead`](Self::read_instead).
    #[cold]
    pub(super) fn write_instead(
        &self,
        at: u64,
        from: &[u8],
        error: SysErrno,
    ) -> Result<(), SysErrno> {
        if self.open.regular { self.write(at, from) } else { Err(error) }
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
        let mut position = self.offset.checked_add(at).ok_or(SysErrno::FAULT)?;
        let end = position.checked_add(from.len() as u64).ok_or(SysErrno::FAULT)?;
        let known = self.open.sealed && end <= self.open.length.load(Ordering::Relaxed);
        if !known && !self.holds_now(end) {
            return Err(SysErrno::FAULT);
        }
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

/// Refuses what the policy does not take: before anything that a filesystem of the peer's might keep us
/// waiting for.
fn admit(fd: &OwnedFd, policy: MemoryPolicy) -> Result<(), SysErrno> {
    if policy == MemoryPolicy::Sealed && !is_sealed(fd) {
        const NOT_SEALED: &str = "refused a file of the peer's: it is not sealed against shrinking \
                                  (F_SEAL_SHRINK), and the memory policy takes sealed ones only";
        if let Some(kept) = OF_THE_PROCESS.ask(NOT_SEALED) {
            warn!("{NOT_SEALED}{kept}");
        }
        return Err(SysErrno::PERM);
    }
    Ok(())
}

/// Whether it can't become shorter.
fn is_sealed(fd: &OwnedFd) -> bool {
    fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
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
