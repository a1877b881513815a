//! Memory that is shared with the device by its file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};

use crate::KitError;

/// A memfd, and the address at which the device sees it.
///
/// The test reaches it through the file, not through a mapping, so it needs no `unsafe`.
#[derive(Debug)]
pub struct SharedRam {
    file: OwnedFd,
    address: u64,
    size: u64,
}

impl SharedRam {
    /// Memory of `size` bytes, all 0, for the address `address`. The device does not know of it yet.
    ///
    /// # Errors
    /// The system has no memory or descriptor left.
    pub fn new(address: u64, size: u64) -> Result<SharedRam, KitError> {
        let file = memfd_create("ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(KitError::system("memfd_create"))?;
        ftruncate(&file, size).map_err(KitError::system("ftruncate"))?;
        Ok(SharedRam { file, address, size })
    }

    /// The first address, as the device sees it.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What is in it, from the address `address` on.
    ///
    /// # Errors
    /// The range is not in the memory.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), KitError> {
        let mut at = self.offset(address, to.len())?;
        let mut to = to;
        while !to.is_empty() {
            let n = pread(&self.file, &mut *to, at).map_err(KitError::system("pread"))?;
            if n == 0 {
                return Err(KitError::Missing("memory there: its file is shorter"));
            }
            at += n as u64;
            to = &mut to[n..];
        }
        Ok(())
    }

    /// As [`read`](Self::read), into a new vector.
    ///
    /// # Errors
    /// The range is not in the memory.
    pub fn bytes(&self, address: u64, len: usize) -> Result<Vec<u8>, KitError> {
        let mut bytes = vec![0; len];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Stores bytes, from the address `address` on.
    ///
    /// # Errors
    /// The range is not in the memory.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), KitError> {
        let mut at = self.offset(address, from.len())?;
        let mut from = from;
        while !from.is_empty() {
            let n = pwrite(&self.file, from, at).map_err(KitError::system("pwrite"))?;
            at += n as u64;
            from = &from[n..];
        }
        Ok(())
    }

    /// Changes the length of the file behind it, in bytes; what the device was told stays.
    ///
    /// # Errors
    /// The system refused.
    pub fn truncate(&self, len: u64) -> Result<(), KitError> {
        ftruncate(&self.file, len).map_err(KitError::system("ftruncate"))
    }

    fn offset(&self, address: u64, len: usize) -> Result<u64, KitError> {
        let offset = address.checked_sub(self.address);
        offset
            .filter(|at| at.checked_add(len as u64).is_some_and(|end| end <= self.size))
            .ok_or(KitError::Missing("memory at that address"))
    }
}

impl AsFd for SharedRam {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
