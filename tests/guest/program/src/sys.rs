//! Everything of this program that the compiler cannot check: mappings, device registers, ioctls.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, mmap_anonymous, munmap};

/// The size of a page of the guest, in bytes.
pub(crate) const PAGE: usize = 4096;

/// Registers of a device, mapped.
pub(crate) struct Mmio {
    base: *mut u8,
    len: usize,
}

// SAFETY: an access is one instruction on a register; the device, which several processors may use
// at once, puts them in order.
unsafe impl Send for Mmio {}
// SAFETY: as above.
unsafe impl Sync for Mmio {}

impl Mmio {
    /// Maps `len` bytes of `file` from `offset`, which must be registers of a device.
    pub(crate) fn map(file: &impl AsFd, offset: u64, len: usize) -> io::Result<Mmio> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so no memory of ours is replaced.
        let base = unsafe { mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, file, offset)? };
        Ok(Mmio { base: base.cast(), len })
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset % size_of::<T>() == 0 && offset + size_of::<T>() <= self.len);
        // SAFETY: the line above keeps the result inside the mapping.
        unsafe { self.base.add(offset).cast() }
    }

    /// One 32-bit read of the device.
    pub(crate) fn read32(&self, offset: usize) -> u32 {
        // SAFETY: `at` gives an aligned address inside a mapping that lives as long as `self`.
        unsafe { ptr::read_volatile(self.at::<u32>(offset)) }
    }

    /// One 32-bit write to the device.
    pub(crate) fn write32(&self, offset: usize, value: u32) {
        // SAFETY: as for `read32`.
        unsafe { ptr::write_volatile(self.at::<u32>(offset), value) }
    }

    /// One 64-bit write to the device.
    pub(crate) fn write64(&self, offset: usize, value: u64) {
        // SAFETY: as for `read32`.
        unsafe { ptr::write_volatile(self.at::<u64>(offset), value) }
    }
}

impl Drop for Mmio {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it exists.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// One page of memory that stays where it is, which a device may read and write behind our back.
pub(crate) struct Page {
    base: *mut u8,
}

impl Page {
    /// A page of zeros, locked.
    pub(crate) fn new() -> io::Result<Page> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: the kernel chooses the address, so no memory of ours is replaced.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), PAGE, prot, flags)? };
        // SAFETY: the range was mapped a line ago.
        unsafe { mlock(base, PAGE)? };
        Ok(Page { base: base.cast() })
    }

    /// Its virtual address.
    pub(crate) fn address(&self) -> usize {
        self.base as usize
    }

    /// Replaces all of it.
    pub(crate) fn fill(&mut self, bytes: &[u8; PAGE]) {
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: `i` is below the length of the page. Volatile: the device reads it.
            unsafe { ptr::write_volatile(self.base.add(i), *byte) }
        }
    }

    /// A copy of all of it.
    pub(crate) fn bytes(&self) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        for (i, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: `i` is below the length of the page. Volatile: the device writes it.
            *byte = unsafe { ptr::read_volatile(self.base.add(i)) };
        }
        bytes
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it exists.
        let _ = unsafe { munmap(self.base.cast(), PAGE) };
    }
}

/// An ioctl whose argument is a number or a pointer, and whose result is the return value.
struct Raw {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: what the kernel does with the argument is up to the callers below, who know the call;
// the output is the plain return value.
unsafe impl Ioctl for Raw {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(out)
    }
}

/// The number of a VFIO ioctl: `_IO(';', 100 + n)`.
const fn vfio(n: u32) -> Opcode {
    ((b';' as u32) << 8 | (100 + n)) as Opcode
}

/// What may be handed to the kernel as a structure of `u32`s that it fills in.
pub(crate) type Words<const N: usize> = [u32; N];

/// A VFIO ioctl that takes a number.
pub(crate) fn vfio_number(fd: &impl AsFd, n: u32, number: usize) -> io::Result<i32> {
    let call = Raw { opcode: vfio(n), argument: ptr::without_provenance_mut(number) };
    // SAFETY: used for the calls that take a number (SET_IOMMU); the kernel follows no pointer.
    Ok(unsafe { ioctl(fd, call)? })
}

/// A VFIO ioctl that takes a structure, whose first word is its size where the call wants that.
pub(crate) fn vfio_words<const N: usize>(
    fd: &impl AsFd,
    n: u32,
    words: &mut Words<N>,
) -> io::Result<i32> {
    // The structures hold 64-bit fields: keep them aligned.
    #[repr(C, align(8))]
    struct Aligned<const N: usize>([u32; N]);
    let mut aligned = Aligned(*words);
    let call = Raw { opcode: vfio(n), argument: (&raw mut aligned).cast() };
    // SAFETY: the kernel touches no more than the size in the first word, which the callers set to
    // the size of `words`, or the one word that the call is about.
    let result = unsafe { ioctl(fd, call)? };
    *words = aligned.0;
    Ok(result)
}

/// VFIO_GROUP_GET_DEVICE_FD.
pub(crate) fn vfio_device(group: &File, address: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let call = Raw { opcode: vfio(6), argument: address.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads a string that ends in NUL.
    let fd = unsafe { ioctl(group, call)? };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// VFIO_DEVICE_SET_IRQS that ties the first vector of `index` to an eventfd.
pub(crate) fn vfio_eventfd(device: &OwnedFd, index: u32, event: &OwnedFd) -> io::Result<()> {
    const DATA_EVENTFD_ACTION_TRIGGER: u32 = 1 << 2 | 1 << 5;
    let fd = event.as_raw_fd() as u32;
    let mut words = [24, DATA_EVENTFD_ACTION_TRIGGER, index, 0, 1, fd];
    vfio_words(device, 10, &mut words)?;
    Ok(())
}
