//! Whether dirty pages are logged, and for how much memory.

use std::sync::{Arc, PoisonError};

use vfu_proto::wire::Errno;

use super::bitmap::{Bitmap, MIN_SHIFT, chunks_of};
use super::pages::Pages;
use crate::sync::{Mutex, barrier};

/// Chunks that all bitmaps of a session have together: 1 GiB if all of them exist, for 32 TiB of
/// mappings in pages of 4 KiB. Each mapping may have one more.
const CHUNKS: u64 = 1 << 15;

/// The dirty page logging of a session. It starts, stops and asks, from one thread at a time; every
/// [`Pages`] marks.
#[derive(Debug)]
pub(crate) struct Log {
    /// Bytes of a page, as a power of two, while it is on.
    shift: Mutex<Option<u32>>,
    left: Arc<Mutex<u64>>,
}

impl Default for Log {
    fn default() -> Self {
        Log { shift: Mutex::new(None), left: Arc::new(Mutex::new(CHUNKS)) }
    }
}

/// Chunks that a bitmap may have. They are given back with it.
#[derive(Debug)]
pub(super) struct Room {
    chunks: u64,
    left: Arc<Mutex<u64>>,
}

impl Drop for Room {
    fn drop(&mut self) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) += self.chunks;
    }
}

impl Log {
    /// The page size while logging is on, in bytes.
    pub(crate) fn page_size(&self) -> Option<u64> {
        let shift = *self.shift.lock().unwrap_or_else(PoisonError::into_inner);
        shift.map(|shift| 1 << shift)
    }

    /// Starts to log, everywhere. Gives the page size: what was asked for, or 4 KiB if that is more.
    /// Again with the same page size it changes nothing.
    ///
    /// # Errors
    /// `EINVAL` if it is on with another page size, or the page size is no power of two; `ENOMEM`.
    pub(crate) fn start<'a>(
        &self,
        page_size: u64,
        pages: impl IntoIterator<Item = &'a Pages> + Clone,
    ) -> Result<u64, Errno> {
        if !page_size.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        let shift = page_size.trailing_zeros().max(MIN_SHIFT);
        match &mut *self.shift.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(other) if *other != shift => return Err(Errno::EINVAL),
            Some(_) => return Ok(1 << shift),
            off => *off = Some(shift),
        }
        let started = pages.clone().into_iter().try_for_each(|pages| pages.start(self, shift));
        if let Err(errno) = started {
            self.stop(pages);
            return Err(errno);
        }
        // A write that found logging off is in memory before the peer knows that it is on.
        barrier::heavy();
        Ok(1 << shift)
    }

    /// Stops to log, and forgets all.
    pub(crate) fn stop<'a>(&self, pages: impl IntoIterator<Item = &'a Pages>) {
        *self.shift.lock().unwrap_or_else(PoisonError::into_inner) = None;
        pages.into_iter().for_each(Pages::stop);
    }

    /// A mapping is new; nobody writes there yet. It is logged, too, if logging is on.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn admit(&self, pages: &Pages) -> Result<(), Errno> {
        let shift = *self.shift.lock().unwrap_or_else(PoisonError::into_inner);
        shift.map_or(Ok(()), |shift| pages.start(self, shift))
    }

    /// A bitmap with pages of this size; with larger ones, which say more than is true, if there is
    /// not room enough.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn reserve(&self, first: u64, last: u64, mut shift: u32) -> Result<Bitmap, Errno> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let mut needed = chunks_of(first, last, shift);
        while needed > 1 && needed > *left {
            shift += 1;
            needed = chunks_of(first, last, shift);
        }
        let chunks = needed.min(*left);
        *left -= chunks;
        drop(left);
        Bitmap::new(first, last, shift, Room { chunks, left: self.left.clone() })
    }
}
