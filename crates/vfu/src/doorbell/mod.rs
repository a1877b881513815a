//! Doorbells: places that a driver writes so that the device looks.
//!
//! | how the driver rings | what the device has | what it costs the driver |
//! |---|---|---|
//! | a register, by message | [`Device::region_write`](crate::Device::region_write) | a message, and what it wrote arrives |
//! | an ioeventfd | a [`Doorbell`] | one system call, or none under KVM; only that it rang arrives |
//! | a word of mapped memory | a [`Watch`] over [`SharedMemory`](crate::SharedMemory) | a store; the device has to look |

mod bell;
mod pace;
mod scan;
mod watch;
mod watching;

pub use bell::{Doorbell, IoEventFd};
pub use scan::Ring;
pub use watch::{Watch, WatchBuilder};
pub use watching::Watching;
