//! Settings of a connection.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vfu_proto::session::{Limits, Role};
use vfu_proto::wire::Capabilities;

use super::memory::Maps;
use super::posted::PostedWrites;
use super::service::ServiceThread;
use super::{Client, ClientError, Inner, handshake};
use crate::dma::MemoryPolicy;
use crate::link::{Link, Spin};
use crate::sync::Mutex;
use crate::transport::connect_to;

/// Settings of a connection; made by [`Client::builder`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    pub(super) limits: Limits,
    pub(super) twin_socket: bool,
    pub(super) max_transfer: u64,
    pub(super) spin: Spin,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) memory: MemoryPolicy,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        ClientBuilder {
            limits: Limits {
                outstanding: 1024,
                reply_timeout: Some(Duration::from_secs(5)),
                ..Limits::default()
            },
            twin_socket: true,
            max_transfer: 1 << 20,
            spin: Spin::Off,
            capabilities: None,
            memory: MemoryPolicy::default(),
        }
    }
}

impl ClientBuilder {
    /// Limits and timeouts of the session.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long the server may take to answer a request. `None`: for ever. Default: 5 s, as QEMU.
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.reply_timeout = timeout;
        self
    }

    /// Whether to offer a second socket for DMA messages. Default: yes.
    pub fn twin_socket(mut self, offer: bool) -> Self {
        self.twin_socket = offer;
        self
    }

    /// The most data that a message may carry, in bytes. Default: 1 MiB.
    pub fn max_transfer(mut self, bytes: u64) -> Self {
        self.max_transfer = bytes;
        self
    }

    /// What is done about a server that shares a region's memory and takes its pages away, for
    /// [`Client::map_region`]. Default: [`MemoryPolicy::Guarded`].
    pub fn memory_policy(mut self, policy: MemoryPolicy) -> Self {
        self.memory = policy;
        self
    }

    /// Whether a thread that waits for the server looks for its reply for a short time before it
    /// sleeps. Default: no.
    pub fn spin(mut self, spin: Spin) -> Self {
        self.spin = spin;
        self
    }

    /// What to propose in VERSION, in place of what the settings above make.
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// Connects to the device that is served at `path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect(self, path: impl AsRef<Path>) -> Result<Client, ClientError> {
        let socket = connect_to(path.as_ref(), self.limits.handshake_timeout)?;
        self.connect_fd(socket)
    }

    /// Begins a session on a socket that is connected to the server.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect_fd(self, socket: OwnedFd) -> Result<Client, ClientError> {
        let link = Link::new(socket, Role::Client, self.limits.clone());
        let link = Arc::new(link.spinning(self.spin));
        let agreed = handshake::propose(&link, &self)?;
        let inner = Inner {
            service: ServiceThread::new(&link),
            link,
            maps: Arc::new(Maps::default()),
            posted: PostedWrites::default(),
            server: agreed.server,
            write_multiple: agreed.write_multiple,
            max_transfer: agreed.max_transfer,
            memory: self.memory,
            version: agreed.version,
            poller: Mutex::default(),
        };
        Ok(Client { inner: Arc::new(inner) })
    }
}
