//! The side that is the device.
//!
//! ```text
//!   Server::builder(pci) ──► Builder ──listen──► Bound ──serve──► Server ──► run / process
//!                            what it is          where it is      with the device
//! ```

mod builder;
mod cleanup;
mod executor;
mod handshake;
mod poller;
mod regions;
mod run;
mod stop;

pub use builder::{Bound, BuildError, Builder};
pub use regions::{MmapArea, ShareError, Shareable};
pub use run::{Running, Server};
pub use stop::{ServeError, Stopper};
