//! What can go wrong when a device is driven.

use vfu::client::ClientError;
use vfu::server::{BuildError, ServeError};

/// Why the kit could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// The session failed, or the device refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The device in this process could not be set up.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The device in this process could not be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something did not happen in time.
    #[error("{0} did not happen in time")]
    TimedOut(&'static str),
    /// The device's configuration space breaks a rule of PCI.
    #[error("configuration space: {0}")]
    Config(String),
    /// The device lacks something that was asked of it.
    #[error("the device has no {0}")]
    Missing(&'static str),
    /// The peer closed the connection in the middle of something.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer sent something else than was expected.
    #[error("unexpected: {0}")]
    Unexpected(String),
}

impl KitError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> KitError {
        move |e| KitError::System { what, source: e.into() }
    }
}
