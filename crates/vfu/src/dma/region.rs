//! One DMA mapping of the peer, and who backs it.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::task::Waker;

use rustix::io::Errno as SysErrno;
use vfu_proto::wire::{AccessMode, DmaMap, DmaMapFlags, Errno};

use super::Direction;
use super::dirty::Pages;
use super::file::{File, Files};
use super::mapping::Mapping;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// A range of addresses that the peer has announced.
#[derive(Debug)]
pub(crate) struct Region {
    /// First address, in bytes.
    pub(crate) address: u64,
    /// Length in bytes; `address + size` is at most 2^64.
    pub(crate) size: u64,
    /// The device may read it.
    pub(crate) readable: bool,
    /// The device may write it.
    pub(crate) writable: bool,
    /// How it is reached.
    pub(crate) backing: Backing,
    /// Which of the table's entries, from 1 up, none twice; 0 before it has been entered.
    pub(crate) serial: u64,
    /// What of it was written.
    dirty: Pages,
    /// No longer in the table.
    retired: AtomicBool,
    usage: Mutex<Usage>,
}

/// Whether somebody may touch a region.
#[derive(Debug)]
enum Usage {
    /// It is in the table, or leased. Who waits for the end of that is woken.
    Used(Option<Waker>),
    /// It will never be again.
    Unused,
}

/// How a region is reached.
#[derive(Debug)]
pub(crate) enum Backing {
    /// A file of the peer, mapped.
    Mapped(Mapping, File),
    /// A file of the peer, by `pread` and `pwrite`.
    FileIo(File),
    /// DMA_READ and DMA_WRITE.
    Message,
}

impl Region {
    /// Makes the region that `map` asks for, with the file that came with it.
    ///
    /// # Errors
    /// What DMA_MAP answers: a mode that does not fit, or a file that can't be mapped.
    pub(crate) fn new(map: &DmaMap, fd: Option<OwnedFd>, files: &Files) -> Result<Region, Errno> {
        let mode = files.policy().mode(map.access_mode(fd.is_some())?);
        let readable = map.flags.contains(DmaMapFlags::READ);
        let writable = map.flags.contains(DmaMapFlags::WRITE);
        let system = |e: SysErrno| match e {
            SysErrno::OVERFLOW => Errno::EINVAL, // no file reaches so far
            e => Errno::from_raw(e.raw_os_error()),
        };
        let backing = match (mode, fd) {
            (AccessMode::Mmap, Some(fd)) => {
                let open = files.open(fd, readable, writable).map_err(system)?;
                let mapping = open.map(map.offset, map.size).map_err(system)?;
                Backing::Mapped(mapping, File::of(open, map.offset))
            }
            (AccessMode::FileIo, Some(fd)) => {
                let open = files.open(fd, readable, writable).map_err(system)?;
                open.check_mode().map_err(system)?;
                Backing::FileIo(File::of(open, map.offset))
            }
            _ => Backing::Message,
        };
        Ok(Region {
            address: map.address,
            size: map.size,
            readable,
            writable,
            backing,
            serial: 0,
            dirty: Pages::new(map.address, map.size),
            retired: AtomicBool::new(false),
            usage: Mutex::new(Usage::Used(None)),
        })
    }

    /// It has left the table: no lease will be added.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// It is not in the table, and the last lease has ended.
    pub(super) fn set_unused(&self) {
        let usage = std::mem::replace(&mut *self.usage(), Usage::Unused);
        if let Usage::Used(Some(waker)) = usage {
            waker.wake();
        }
    }

    /// Whether nobody holds the retired region; if somebody does, `waker` is woken when that ends.
    pub(crate) fn is_unused_or_wakes(&self, waker: &Waker) -> bool {
        let mut usage = self.usage();
        if let Usage::Used(slot) = &mut *usage {
            *slot = Some(waker.clone());
        }
        matches!(*usage, Usage::Unused)
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last address. `size` is never 0.
    pub(crate) fn last(&self) -> u64 {
        self.address + (self.size - 1)
    }

    /// Whether who touches it never has to wait for the peer.
    pub(super) fn is_prompt(&self) -> bool {
        match &self.backing {
            Backing::Mapped(_, file) | Backing::FileIo(file) => file.is_prompt(),
            Backing::Message => false,
        }
    }

    /// Whether `address` lies in it.
    pub(super) fn has(&self, address: u64) -> bool {
        address.wrapping_sub(self.address) < self.size
    }

    pub(super) fn allows(&self, direction: Direction) -> bool {
        match direction {
            Direction::Read => self.readable,
            Direction::Write => self.writable,
        }
    }

    /// Whether mapping `other` again would change nothing.
    pub(super) fn is_same(&self, other: &Region) -> bool {
        let file = |region: &Region| match &region.backing {
            Backing::Mapped(_, file) => Some((true, file.identity())),
            Backing::FileIo(file) => Some((false, file.identity())),
            Backing::Message => None,
        };
        (self.address, self.size) == (other.address, other.size)
            && (self.readable, self.writable) == (other.readable, other.writable)
            && file(self) == file(other)
    }

    /// Copies from direct memory; `at` is in bytes from the region's start.
    pub(super) fn read_direct(&self, at: u64, to: &mut [u8]) -> Result<(), SysErrno> {
        match &self.backing {
            Backing::Mapped(mapping, file) if file.holds(at, to.len()) => {
                mapping.read(at, to).or_else(|e| file.read_instead(at, to, e))
            }
            Backing::FileIo(file) => file.read(at, to),
            Backing::Mapped(..) | Backing::Message => Err(SysErrno::FAULT),
        }
    }

    /// Copies to direct memory, and logs it; as [`read_direct`](Self::read_direct).
    pub(super) fn write_direct(&self, at: u64, from: &[u8]) -> Result<(), SysErrno> {
        let result = match &self.backing {
            Backing::Mapped(mapping, file) if file.holds(at, from.len()) => {
                mapping.write(at, from).or_else(|e| file.write_instead(at, from, e))
            }
            Backing::FileIo(file) => file.write(at, from),
            Backing::Mapped(..) | Backing::Message => return Err(SysErrno::FAULT),
        };
        // Also after an error, which a part may have gone before.
        self.dirty.mark(self.address.wrapping_add(at), from.len());
        result
    }

    /// What of it was written; `None` if this side does not write to it. What goes by messages the
    /// peer writes itself, and knows.
    pub(crate) fn logged(&self) -> Option<&Pages> {
        (self.writable && !matches!(self.backing, Backing::Message)).then_some(&self.dirty)
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
