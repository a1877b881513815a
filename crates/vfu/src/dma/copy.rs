//! Copies from and to memory that another process may change at the same moment.
//!
//! Such memory is never a `&[u8]`: the compiler may not assume that two reads of it agree. It is
//! touched here only, by atomic accesses, since other threads of ours may do so at the same moment as
//! well, or by one machine instruction.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// From this length on, in bytes, one `rep movsb` is faster than a loop.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const BULK: usize = 128;

/// Copies `to.len()` bytes from shared memory.
///
/// An aligned access of 1, 2, 4 or 8 bytes is one load: it sees no half-written value.
///
/// # Safety
/// `from` must be valid for reads of `to.len()` bytes.
pub(super) unsafe fn load(from: *const u8, to: &mut [u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if to.len() >= BULK {
        // SAFETY: the caller vouches for `from`, the slice for `to`; they can't overlap, since
        // nothing in this process has a reference to shared memory.
        unsafe { rep_movsb(from, to.as_mut_ptr(), to.len()) };
        return;
    }
    let mut at = 0;
    while at < to.len() {
        let left = to.len() - at;
        // SAFETY: `at < to.len()`, within what the caller vouches for.
        let p = unsafe { from.add(at) };
        let width = width(p, left);
        let (p, to) = (p.cast_mut(), &mut to[at..at + width]);
        match width {
            // SAFETY: so many bytes are left, and `p` is aligned to them.
            8 => to.copy_from_slice(
                &unsafe { AtomicU64::from_ptr(p.cast()) }.load(Relaxed).to_ne_bytes(),
            ),
            // SAFETY: as above.
            4 => to.copy_from_slice(
                &unsafe { AtomicU32::from_ptr(p.cast()) }.load(Relaxed).to_ne_bytes(),
            ),
            // SAFETY: as above.
            2 => to.copy_from_slice(
                &unsafe { AtomicU16::from_ptr(p.cast()) }.load(Relaxed).to_ne_bytes(),
            ),
            // SAFETY: a byte is left.
            _ => to[0] = unsafe { AtomicU8::from_ptr(p) }.load(Relaxed),
        }
        at += width;
    }
}

/// Copies `from` to shared memory. As for [`load`], an aligned small access is one store.
///
/// # Safety
/// `to` must be valid for writes of `from.len()` bytes.
pub(super) unsafe fn store(from: &[u8], to: *mut u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if from.len() >= BULK {
        // SAFETY: as in `load`, with the sides exchanged.
        unsafe { rep_movsb(from.as_ptr(), to, from.len()) };
        return;
    }
    let mut at = 0;
    while at < from.len() {
        let left = &from[at..];
        // SAFETY: `at < from.len()`, within what the caller vouches for.
        let p = unsafe { to.add(at) };
        let width = width(p, left.len());
        match width {
            // SAFETY: so many bytes are left, and `p` is aligned to them.
            8 => unsafe { AtomicU64::from_ptr(p.cast()) }
                .store(u64::from_ne_bytes(get(left)), Relaxed),
            // SAFETY: as above.
            4 => unsafe { AtomicU32::from_ptr(p.cast()) }
                .store(u32::from_ne_bytes(get(left)), Relaxed),
            // SAFETY: as above.
            2 => unsafe { AtomicU16::from_ptr(p.cast()) }
                .store(u16::from_ne_bytes(get(left)), Relaxed),
            // SAFETY: a byte is left.
            _ => unsafe { AtomicU8::from_ptr(p) }.store(left[0], Relaxed),
        }
        at += width;
    }
}

/// The widest access that `p` is aligned for and that `left` has room for.
fn width(p: *const u8, left: usize) -> usize {
    let aligned = 1 << (p as usize).trailing_zeros().min(3);
    let fits = 1 << left.ilog2().min(3);
    if aligned < fits { aligned } else { fits }
}

fn get<const N: usize>(from: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&from[..N]);
    bytes
}

/// # Safety
/// `from` valid for reads and `to` for writes of `len` bytes, not overlapping.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn rep_movsb(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the instruction reads and writes what the caller vouches for, and nothing else. The
    // direction flag is clear, as the ABI demands.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rsi") from => _,
            inout("rdi") to => _,
            inout("rcx") len => _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length and alignment around the borders of the ways to copy.
    #[test]
    fn copies_every_length_and_alignment() {
        let pattern: Vec<u8> = (0..600u32).map(|i| (i * 7 + 1) as u8).collect();
        for offset in 0..9 {
            for len in (0..40).chain(120..140).chain([255, 256, 257, 512]) {
                let mut shared = vec![0u8; 600];
                // SAFETY: `offset + len` lies in `shared`, which nobody else touches.
                unsafe { store(&pattern[..len], shared.as_mut_ptr().add(offset)) };
                assert_eq!(shared[offset..offset + len], pattern[..len], "store {offset} {len}");
                assert!(shared[..offset].iter().chain(&shared[offset + len..]).all(|b| *b == 0));
                let mut back = vec![0u8; len];
                // SAFETY: as above.
                unsafe { load(shared.as_ptr().add(offset), &mut back) };
                assert_eq!(back, pattern[..len], "load {offset} {len}");
            }
        }
    }
}
