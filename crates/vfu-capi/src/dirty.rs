//! Dirty page logging, as the C library reports it: of one mapping at a time, from its start.

use std::ffi::c_int;

use vfu::wire::{Errno, bitmap_len};

use crate::ctx::{Context, MAX_TRANSFER, lock};
use crate::errno::{EINVAL, ENOENT, ENOMEM, ENOTSUP};

impl Context {
    pub(crate) fn start_logging(&self, page_size: u64) -> Result<(), c_int> {
        let mut logging = lock(&self.logging);
        if logging.is_some_and(|size| size != page_size) {
            return Err(EINVAL);
        }
        self.station().start_logging(page_size).map_err(Errno::raw)?;
        *logging = Some(page_size);
        Ok(())
    }

    pub(crate) fn stop_logging(&self) {
        *lock(&self.logging) = None;
        self.station().stop_logging();
    }

    /// Which pages of a range were written, and forgets it. The range begins where a mapping does.
    ///
    /// The last word tells of pages behind the range, too, as clients of the C library expect.
    pub(crate) fn report(&self, iova: u64, length: u64, page_size: u64) -> Result<Vec<u8>, c_int> {
        if !self.station().is_logging() {
            return Err(EINVAL);
        }
        let len = bitmap_len(length, page_size).map_err(Errno::raw)?;
        if len > u64::from(MAX_TRANSFER) {
            return Err(EINVAL);
        }
        let region = self.station().mapping(iova).ok_or(ENOENT)?;
        let view = region.view();
        if view.address() != iova || length > view.size() {
            return Err(ENOTSUP);
        }
        if view.is_remote() {
            return Err(EINVAL);
        }
        let mut bits = Vec::new();
        bits.try_reserve_exact(len as usize).map_err(|_| ENOMEM)?;
        bits.resize(len as usize, 0);
        let shown = len.saturating_mul(8).saturating_mul(page_size).min(view.size());
        self.station().report(&region, shown, page_size, &mut bits).map_err(Errno::raw)?;
        Ok(bits)
    }
}
