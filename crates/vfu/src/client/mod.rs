//! The side that has the memory and drives the device.

mod builder;
mod calls;
mod dirty;
mod doorbells;
mod error;
mod handshake;
mod logging;
mod mapped;
mod memory;
mod migration;
mod moving;
mod posted;
mod regions;
mod service;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use vfu_proto::session::{Closed, Counters};
use vfu_proto::wire::{Capabilities, DmaMapFlags};

use crate::link::Link;
use crate::poller::Poller;
use crate::sync::Mutex;

pub use builder::ClientBuilder;
pub use dirty::{DirtyPages, DirtyRanges};
pub use doorbells::{Doorbells, Rung};
pub use error::ClientError;
pub use mapped::MappedRegion;
pub use memory::{DmaMemory, Memory};
pub use moving::{Migrate, MigrateError, MigrateStep, Moved, Progress, Side};
pub use posted::Posted;
pub use regions::{RegionDetails, RegionMmap};

use memory::Maps;
use posted::PostedWrites;
use service::ServiceThread;

/// What most memory of a client is: the device may read it and write it.
pub const READ_WRITE: DmaMapFlags = DmaMapFlags::READ.union(DmaMapFlags::WRITE);

/// A connection to a device.
///
/// Clone it to use it from many threads at once: requests are pipelined, and each thread gets its
/// own replies. Whoever waits for a reply reads for all. There is a thread behind it only if memory is
/// served by messages ([`Memory::Messages`]), or if DMA has a socket of its own and many requests
/// are made, and no [event loop](Client::poll_fd) waits: it serves the device, so that those who ask
/// have but one socket to watch.
///
/// The last clone that is dropped ends the session.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    link: Arc<Link>,
    maps: Arc<Maps>,
    service: ServiceThread,
    posted: PostedWrites,
    server: Capabilities,
    /// Both sides understand REGION_WRITE_MULTI.
    write_multiple: bool,
    /// The most data that a message to or from the server may carry, in bytes.
    max_transfer: usize,
    memory: crate::dma::MemoryPolicy,
    version: (u16, u16),
    /// What an event loop waits on, if there is one.
    poller: Mutex<Option<Poller>>,
}

impl Client {
    /// Connects to the device that is served at `path`, with default settings.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Client, ClientError> {
        Client::builder().connect(path)
    }

    /// Settings for a connection.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// What the server said of itself in VERSION.
    pub fn server_capabilities(&self) -> &Capabilities {
        &self.inner.server
    }

    /// The major and minor version of the protocol that were agreed on.
    pub fn version(&self) -> (u16, u16) {
        self.inner.version
    }

    /// Whether DMA messages have a socket of their own.
    pub fn has_twin_socket(&self) -> bool {
        self.inner.link.has_twin()
    }

    /// The most data, in bytes, that one message carries. Longer accesses are split.
    pub fn max_transfer(&self) -> usize {
        self.inner.max_transfer
    }

    /// What happened in the session so far.
    pub fn counters(&self) -> Counters {
        self.inner.link.counters()
    }

    /// Ends the session: requests that wait end with [`ClientError::Closed`].
    pub fn close(&self) {
        self.inner.link.close(Closed::Stopped);
    }

    /// Why the session has ended, if it has.
    pub fn closed(&self) -> Option<Closed> {
        self.inner.link.closed()
    }

    /// The sockets of the session: the main one, and the twin if there is one. For an event loop there
    /// is [`poll_fd`](Self::poll_fd).
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        let link = &self.inner.link;
        [Some(link.main()), link.twin()].into_iter().flatten().map(|s| s.as_fd())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.close(Closed::Stopped);
    }
}
