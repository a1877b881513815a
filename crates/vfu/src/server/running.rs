//! A server on a thread of its own.

use std::thread::{self, JoinHandle};

use super::run::Server;
use super::stop::{ServeError, Stopper};
use crate::device::Device;

impl<D: Device + Send + 'static> Server<D> {
    /// Gives the server a thread of its own.
    pub fn spawn(mut self) -> Running<D> {
        let stopper = self.stopper();
        let thread = thread::spawn(move || {
            let result = self.run();
            (self, result)
        });
        Running { stopper, thread: Some(thread) }
    }
}

/// How the thread ends.
type Ended<D> = (Server<D>, Result<(), ServeError>);

/// A server on a thread of its own. Dropping it stops the server, and waits for that.
#[derive(Debug)]
pub struct Running<D> {
    stopper: Stopper,
    thread: Option<JoinHandle<Ended<D>>>,
}

impl<D> Running<D> {
    /// What stops it from elsewhere.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Stops it and gives the server back.
    ///
    /// # Errors
    /// What [`Server::run`] ended with.
    ///
    /// # Panics
    /// If the device did.
    pub fn stop(self) -> Result<Server<D>, ServeError> {
        self.stopper.stop();
        self.join()
    }

    /// Waits until it ends by itself, or by its [`Stopper`].
    ///
    /// # Errors
    /// What [`Server::run`] ended with.
    ///
    /// # Panics
    /// If the device did.
    pub fn join(mut self) -> Result<Server<D>, ServeError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok((server, result))) => result.map(|()| server),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => unreachable!("only joining and dropping take the thread"),
        }
    }
}

impl<D> Drop for Running<D> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stopper.stop();
            let _its_panic_was_shown = thread.join();
        }
    }
}
