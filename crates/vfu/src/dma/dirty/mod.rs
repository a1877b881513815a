//! Which pages the device has written (specification, "VFIO_USER_DEVICE_FEATURE", DMA_LOGGING).
//!
//! ```text
//!   Log       on or off, and how much memory all the bitmaps may take; one for a session
//!    └ Pages  of one mapping: what every write calls
//!       └ Bitmap  its bits, in chunks that exist once something in them was written
//!            └──► Picture   the bits of a reply, with a page size of its own
//! ```
//!
//! A bit is set after the data is there, and read under a lock that keeps markers out: no write is
//! lost between two reports. With logging off a write costs one relaxed load more.

mod bitmap;
mod log;
mod pages;
mod picture;

pub(crate) use log::Log;
pub(crate) use pages::Pages;
pub(crate) use picture::{Grid, Picture};

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
