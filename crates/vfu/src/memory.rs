//! Memory that a device has in common with its client: what the client maps of a region.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError, Weak};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use crate::dma::{Mapping, Wanted};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering, fence};

/// Memory of the device that the client may map; for [`Builder::mmap`](crate::server::Builder::mmap).
///
/// It can be as large as a BAR, for example terabytes: pages that nobody touches take no memory. The
/// client can't make it shorter or longer. Cheap to clone, usable from any thread; it begins as
/// zeros.
///
/// The client changes it at any moment and without a word. So it is reached by copies only: an
/// aligned access of 1, 2, 4 or 8 bytes is one load or one store, all others are pieced together.
/// What was read once may read differently the next time: check the copy, and use the copy.
#[derive(Clone, Debug)]
pub struct SharedMemory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    mapping: Mapping,
    size: u64,
    /// There is somebody in `watchers`.
    watched: AtomicBool,
    watchers: Mutex<Vec<Weak<dyn Watcher>>>,
}

/// Who wants to hear of writes that come by message.
pub(crate) trait Watcher: Send + Sync + std::fmt::Debug {
    /// The bytes were written.
    fn written(&self, at: u64, len: u64);
}

/// An access to [`SharedMemory`] that is not inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {at:#x} are not inside the {size:#x} bytes of the memory")]
pub struct OutOfBounds {
    /// Where the access begins.
    pub at: u64,
    /// How many bytes.
    pub len: usize,
    /// How many bytes there are.
    pub size: u64,
}

impl SharedMemory {
    /// Makes memory of `size` bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// What the system says; `InvalidInput` for a size of 0.
    pub fn new(size: u64) -> io::Result<Self> {
        let page = rustix::param::page_size() as u64;
        let size = size.checked_next_multiple_of(page).ok_or(io::ErrorKind::InvalidInput)?;
        let fd = memfd_create("vfu", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, size)?;
        // Or the client could cut it off under our mapping.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let wanted = Wanted { readable: true, writable: true, guarded: false };
        let mapping = Mapping::new(fd.as_fd(), 0, size, wanted)?;
        let (watched, watchers) = (AtomicBool::new(false), Mutex::default());
        Ok(SharedMemory(Arc::new(Inner { fd, mapping, size, watched, watchers })))
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Copies `to.len()` bytes out.
    ///
    /// # Errors
    /// [`OutOfBounds`]; nothing was copied.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<(), OutOfBounds> {
        let len = to.len();
        self.0.mapping.read(at, to).map_err(|_| self.out_of_bounds(at, len))
    }

    /// Copies `from` in.
    ///
    /// # Errors
    /// [`OutOfBounds`]; nothing was copied.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        self.0.mapping.write(at, from).map_err(|_| self.out_of_bounds(at, from.len()))
    }

    /// A 32-bit number, in little-endian order as on a PCI bus. What the client wrote before it is
    /// seen by reads after this.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    pub fn read_u32(&self, at: u64) -> Result<u32, OutOfBounds> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        fence(Ordering::Acquire);
        Ok(u32::from_le_bytes(bytes))
    }

    /// A 64-bit number; as [`read_u32`](Self::read_u32).
    ///
    /// # Errors
    /// [`OutOfBounds`].
    pub fn read_u64(&self, at: u64) -> Result<u64, OutOfBounds> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        fence(Ordering::Acquire);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Stores a 32-bit number in little-endian order. Who sees it sees what was written before.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    pub fn write_u32(&self, at: u64, value: u32) -> Result<(), OutOfBounds> {
        fence(Ordering::Release);
        self.write(at, &value.to_le_bytes())
    }

    /// Stores a 64-bit number; as [`write_u32`](Self::write_u32).
    ///
    /// # Errors
    /// [`OutOfBounds`].
    pub fn write_u64(&self, at: u64, value: u64) -> Result<(), OutOfBounds> {
        fence(Ordering::Release);
        self.write(at, &value.to_le_bytes())
    }

    /// A write of the client that came by message.
    pub(crate) fn write_by_message(&self, at: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        self.write(at, from)?;
        if self.0.watched.load(Ordering::SeqCst) {
            let watchers = self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for watcher in watchers.iter().filter_map(Weak::upgrade) {
                watcher.written(at, from.len() as u64);
            }
        }
        Ok(())
    }

    /// Tells `watcher` of writes by message, until it is dropped.
    pub(crate) fn watch(&self, watcher: Weak<dyn Watcher>) {
        let mut watchers = self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(watcher);
        self.0.watched.store(true, Ordering::SeqCst);
    }

    fn out_of_bounds(&self, at: u64, len: usize) -> OutOfBounds {
        OutOfBounds { at, len, size: self.0.size }
    }
}

/// The file, to be shared.
impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_numbers_come_back() {
        let memory = SharedMemory::new(1).unwrap();
        let size = memory.size();
        assert_eq!(size, rustix::param::page_size() as u64, "whole pages");
        memory.write_u64(8, 0x0102_0304_0506_0708).unwrap();
        assert_eq!(memory.read_u32(8), Ok(0x0506_0708));
        let mut bytes = [0; 3];
        memory.read(9, &mut bytes).unwrap();
        assert_eq!(bytes, [7, 6, 5]);
        for (at, len) in [(size, 1), (size - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 8), (size + 1, 0)]
        {
            let error = OutOfBounds { at, len, size };
            assert_eq!(memory.read(at, &mut vec![0; len]), Err(error));
            assert_eq!(memory.write(at, &vec![0; len]), Err(error));
        }
        assert_eq!(memory.read(size, &mut []), Ok(()));
        assert!(SharedMemory::new(0).is_err());
        assert!(SharedMemory::new(u64::MAX).is_err());
    }

    #[test]
    fn a_terabyte_costs_what_is_used() {
        let memory = SharedMemory::new(1 << 40).unwrap();
        memory.write_u32((1 << 40) - 4, 7).unwrap();
        assert_eq!(memory.read_u32((1 << 40) - 4), Ok(7));
        let blocks = rustix::fs::fstat(&memory).unwrap().st_blocks;
        assert!(blocks * 512 < 1 << 22, "{blocks} blocks");
    }

    #[test]
    fn nobody_can_cut_it_off() {
        let memory = SharedMemory::new(8192).unwrap();
        assert!(ftruncate(&memory, 0).is_err());
        assert!(ftruncate(&memory, 1 << 20).is_err());
    }
}
