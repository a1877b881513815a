//! The side that is the device.
//!
//! ```text
//!   Server::builder(pci) ──► Builder ──listen──► Bound ──serve──► Server ──► run / process
//!                            what it is          where it is      with the device
//! ```

mod access;
mod builder;
mod cleanup;
mod dirty;
mod event_loop;
mod executor;
pub(crate) mod handshake;
mod held;
mod migrate;
mod parked;
mod reentry;
mod regions;
mod run;
mod running;
mod stop;
#[cfg(feature = "tokio")]
mod tokio;

pub use builder::{Bound, BuildError, Builder};
pub(crate) use regions::Regions;
pub use regions::{MmapArea, Region, ShareError, Shareable};
pub use run::Server;
pub use running::Running;
pub use stop::{ServeError, Stopper};
