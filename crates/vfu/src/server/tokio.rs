//! A server at work under tokio.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::run::Server;
use super::stop::ServeError;
use crate::device::Device;

impl<D: Device> Server<D> {
    /// As [`run`](Self::run), for a task of a tokio runtime whose I/O driver is enabled. The device's
    /// handlers run in the task: they should not wait, but use the `async` forms and deferred
    /// answers. Dropping the future between two messages loses nothing: it can be called again.
    ///
    /// # Errors
    /// No client can be accepted any more, or the runtime has no I/O driver.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn run_async(&mut self) -> Result<(), ServeError> {
        let fd = self.poll_fd()?.try_clone_to_owned().map_err(ServeError::Setup)?;
        #[allow(deprecated)] // sound for an OwnedFd; what replaces it is unsafe for every type
        let ready = AsyncFd::with_interest(fd, Interest::READABLE).map_err(ServeError::Setup)?;
        loop {
            self.process()?;
            if self.is_finished() {
                return Ok(());
            }
            let mut guard = ready.readable().await.map_err(ServeError::Accept)?;
            // tokio hears of changes only: what is readable still is not to be waited for.
            let _not_yet = guard.try_io(|fd| look(fd.get_ref()));
        }
    }
}

fn look(fd: &OwnedFd) -> io::Result<()> {
    let mut set = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    match poll(&mut set, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}
