//! A device, served on a thread of this process.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vfu::server::{Builder, Running, Stopper};
use vfu::{Device, Handle, Server};

use crate::{CallLog, KitError, TestDevice};

/// A running server at a socket in a temporary folder. It stops when this is dropped.
#[derive(Debug)]
pub struct Served<D> {
    running: Option<Running<D>>,
    stopper: Stopper,
    handle: Handle,
    path: PathBuf,
    _folder: TempDir,
}

/// Serves a device on a thread of its own, at a new socket.
///
/// # Errors
/// The server can't be made; see the variants of [`KitError`].
pub fn serve_in_process<D: Device + Send + 'static>(
    builder: Builder,
    device: impl FnOnce(Handle) -> D,
) -> Result<Served<D>, KitError> {
    let folder = tempfile::tempdir()
        .map_err(|source| KitError::System { what: "can't make a folder", source })?;
    let path = folder.path().join("device.sock");
    let server = builder.listen(&path)?.serve(device)?;
    let (handle, stopper) = (server.handle(), server.stopper());
    Ok(Served { running: Some(server.spawn()), stopper, handle, path, _folder: folder })
}

impl<D> Served<D> {
    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A handle like the device's own: its memory and interrupts.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What stops the server.
    pub fn stopper(&self) -> &Stopper {
        &self.stopper
    }

    /// Stops the server and gives it back.
    ///
    /// # Errors
    /// What the server ended with.
    ///
    /// # Panics
    /// If the device did.
    pub fn stop(mut self) -> Result<Server<D>, KitError> {
        let running = self.running.take().ok_or(KitError::Closed)?;
        Ok(running.stop()?)
    }
}

impl<D> Drop for Served<D> {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(running) = self.running.take() {
            if !std::thread::panicking() {
                let _ended_anyhow = running.join();
            }
        }
    }
}

/// A served [`TestDevice`] and its log.
#[derive(Debug)]
pub struct TestServer {
    served: Served<TestDevice>,
    log: CallLog,
}

impl TestServer {
    /// Serves a [`TestDevice`] with default settings.
    ///
    /// # Panics
    /// If it can't be served.
    pub fn start() -> TestServer {
        TestServer::with(|builder| builder)
    }

    /// Serves a [`TestDevice`] with settings of one's own.
    ///
    /// # Panics
    /// If it can't be served.
    pub fn with(settings: impl FnOnce(Builder) -> Builder) -> TestServer {
        let log = CallLog::default();
        let builder = settings(Server::builder(TestDevice::pci()));
        let device_log = log.clone();
        match serve_in_process(builder, |handle| TestDevice::new(handle, device_log)) {
            Ok(served) => TestServer { served, log },
            Err(e) => panic!("the test device can't be served: {e}"),
        }
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        self.served.path()
    }

    /// A handle like the device's own: its memory and interrupts.
    pub fn handle(&self) -> &Handle {
        self.served.handle()
    }

    /// What stops the server.
    pub fn stopper(&self) -> &Stopper {
        self.served.stopper()
    }

    /// What the device was told.
    pub fn log(&self) -> &CallLog {
        &self.log
    }

    /// Stops the server.
    ///
    /// # Errors
    /// What the server ended with.
    ///
    /// # Panics
    /// If the device did.
    pub fn stop(self) -> Result<(), KitError> {
        self.served.stop().map(drop)
    }
}
