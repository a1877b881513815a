//! Stopping a server from elsewhere.

use std::sync::{Arc, PoisonError, Weak};

use vfu_proto::session::Closed;

use crate::link::{Link, Wake};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Why a server can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No client can be accepted any more.
    #[error("can't accept clients: {0}")]
    Accept(std::io::Error),
    /// The system refused a descriptor.
    #[error("can't set the server up: {0}")]
    Setup(std::io::Error),
    /// It was to wait for the state of another device.
    #[error("the device can't be moved, so it can't wait for the state of another")]
    NotMovable,
}

/// Stops a server, from any thread. The client is disconnected, the run loop returns.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Stop>);

#[derive(Debug)]
pub(super) struct Stop {
    stopped: AtomicBool,
    /// Wakes whoever waits for a client, or for commands in an event loop.
    wake: Arc<Wake>,
    link: Mutex<Weak<Link>>,
}

impl Stop {
    pub(super) fn new() -> Result<Arc<Stop>, ServeError> {
        let wake = Wake::new().map_err(|e| ServeError::Setup(e.into()))?;
        Ok(Arc::new(Stop {
            stopped: AtomicBool::new(false),
            wake: Arc::new(wake),
            link: Mutex::default(),
        }))
    }

    pub(super) fn stopper(self: &Arc<Self>) -> Stopper {
        Stopper(self.clone())
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub(super) fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }

    /// The session that a stop has to end. False if the stop came first.
    pub(super) fn attach(&self, link: &Arc<Link>) -> bool {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(link);
        !self.is_stopped()
    }
}

impl Stopper {
    /// Stops the server; it need not have noticed when this returns.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.0.wake.wake();
        let link = self.0.link.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(link) = link {
            link.close(Closed::Stopped);
        }
    }
}
