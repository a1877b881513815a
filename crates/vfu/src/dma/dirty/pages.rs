//! The log of one mapping.

use std::sync::PoisonError;

use vfu_proto::wire::Errno;

use super::bitmap::Bitmap;
use super::log::Log;
use super::picture::Picture;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{RwLock, barrier};

/// Chunks that one holding of the lock is for: markers wait for some 10 µs.
const AT_ONCE: usize = 4;

/// Which pages of a mapping were written since logging started.
#[derive(Debug)]
pub(crate) struct Pages {
    first: u64,
    last: u64,
    on: AtomicBool,
    /// Those who mark only read.
    bitmap: RwLock<Option<Bitmap>>,
}

impl Pages {
    /// For the `size` bytes from `address`, which are not 0 and do not wrap. Nothing is logged yet.
    pub(crate) fn new(address: u64, size: u64) -> Pages {
        let last = address.saturating_add(size.saturating_sub(1));
        Pages { first: address, last, on: AtomicBool::new(false), bitmap: RwLock::new(None) }
    }

    /// From now on what is written is logged; nothing is dirty yet.
    ///
    /// Of writes that are under way some are not logged, but have been done when the caller has
    /// gone through [`barrier::heavy`].
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn start(&self, log: &Log, shift: u32) -> Result<(), Errno> {
        let bitmap = log.reserve(self.first, self.last, shift)?;
        *self.bitmap.write().unwrap_or_else(PoisonError::into_inner) = Some(bitmap);
        self.on.store(true, Ordering::Release);
        Ok(())
    }

    /// Nothing is logged any more.
    pub(super) fn stop(&self) {
        self.on.store(false, Ordering::Release);
        *self.bitmap.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// `len` bytes at `address` were written: they are there by now.
    #[inline]
    pub(crate) fn mark(&self, address: u64, len: usize) {
        barrier::light();
        if self.on.load(Ordering::Relaxed) {
            self.mark_on(address, len as u64);
        }
    }

    #[inline(never)]
    fn mark_on(&self, address: u64, len: u64) {
        let Some(more) = len.checked_sub(1) else { return };
        // Taking the lock orders the data before the bit, and before a bit that is set already.
        let bitmap = self.bitmap.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(bitmap) = &*bitmap {
            bitmap.mark(address, address.saturating_add(more));
        }
    }

    /// Adds to `picture` what of it was written, and forgets that. Each bit is read and cleared as
    /// one; the whole is not.
    pub(crate) fn report(&self, picture: &mut Picture<'_>) {
        let (first, last) = (picture.grid().first(), picture.grid().last());
        let mut done = 0;
        loop {
            let mut bitmap = self.bitmap.write().unwrap_or_else(PoisonError::into_inner);
            let Some(bitmap) = &mut *bitmap else { return };
            let Some((from, to)) = bitmap.chunks_with(first, last) else { return };
            let begin = from + done;
            if begin > to {
                return;
            }
            (begin..=to).take(AT_ONCE).for_each(|chunk| bitmap.take(chunk, picture));
            done += AT_ONCE;
        }
    }
}
