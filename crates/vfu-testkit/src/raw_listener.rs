//! A scripted server's listening socket.

use std::path::{Path, PathBuf};

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use rustix::event::PollFlags;
use tempfile::TempDir;

use crate::deadline::ready;
use crate::{DEADLINE, KitError, RawPeer};

/// Listens for a client to be played with.
#[derive(Debug)]
pub struct RawListener {
    listener: UnixListener,
    path: PathBuf,
    _folder: Option<TempDir>,
}

impl RawListener {
    /// Listens at a new path.
    ///
    /// # Errors
    /// The system refused.
    pub fn new() -> Result<RawListener, KitError> {
        let failed = |source| KitError::System { what: "can't listen", source };
        let folder = tempfile::tempdir().map_err(failed)?;
        let listener = RawListener::at(folder.path().join("raw.sock"))?;
        Ok(RawListener { _folder: Some(folder), ..listener })
    }

    /// Listens at this path. The socket stays there.
    ///
    /// # Errors
    /// The system refused.
    pub fn at(path: impl Into<PathBuf>) -> Result<RawListener, KitError> {
        let failed = |source| KitError::System { what: "can't listen", source };
        let path = path.into();
        let listener = UnixListener::bind(&path).map_err(failed)?;
        Ok(RawListener { listener, path, _folder: None })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next client.
    ///
    /// # Errors
    /// [`KitError::TimedOut`] after [`DEADLINE`].
    pub fn accept(&self) -> Result<RawPeer, KitError> {
        let deadline = Instant::now() + DEADLINE;
        let is_ready = ready(self.listener.as_fd(), PollFlags::IN, deadline);
        if !is_ready.map_err(KitError::system("poll"))? {
            return Err(KitError::TimedOut("a connection"));
        }
        let accepted = self.listener.accept();
        let (socket, _) = accepted.map_err(|source| KitError::System { what: "accept", source })?;
        Ok(RawPeer::over(OwnedFd::from(socket)))
    }
}
