//! A device that can be moved, at its socket.
#![allow(dead_code)] // Each test binary uses its part.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use vfu::client::Client;
use vfu::migration::{LoadError, Migration};
use vfu::server::{Builder, Running};
use vfu::wire::Errno;
use vfu::{Access, Bar, Device, Fault, Handle, Limits, Pci, Pin, Reset, Server};

/// 64 bytes of state, some interrupts, and nothing else.
pub(crate) struct Box64 {
    bytes: Vec<u8>,
    early: Arc<Mutex<Vec<Vec<u8>>>>,
    pre_copy: Arc<AtomicBool>,
    /// What is worth sending early, the last first.
    rounds: Vec<Vec<u8>>,
    log: Arc<Mutex<Vec<&'static str>>>,
    fails: Arc<Mutex<&'static str>>,
}

impl Box64 {
    /// Notes a call, and lets it fail if it shall.
    fn call(&self, name: &'static str) -> Result<(), Errno> {
        self.log.lock().unwrap().push(name);
        if *self.fails.lock().unwrap() == name { Err(Errno::EIO) } else { Ok(()) }
    }
}

impl Device for Box64 {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        let bytes = self.bytes.get(at.offset as usize..).ok_or(Fault::Unmodelled)?;
        at.give(data, bytes);
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        let at = at.offset as usize;
        let bytes = self.bytes.get_mut(at..at + data.len()).ok_or(Fault::Unmodelled)?;
        bytes.copy_from_slice(data);
        Ok(())
    }

    fn reset(&mut self, kind: Reset) {
        if kind != Reset::ConnectionLost {
            self.bytes.fill(0);
        }
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }
}

impl Migration for Box64 {
    fn max_len(&self) -> usize {
        4096
    }

    fn stop(&mut self) -> Result<(), Errno> {
        self.call("stop")
    }

    fn start(&mut self) -> Result<(), Errno> {
        self.call("start")
    }

    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        self.call("save")?;
        Ok(self.bytes.clone())
    }

    fn load(&mut self, version: u32, state: &[u8]) -> Result<(), LoadError> {
        self.call("load").map_err(|errno| LoadError(errno.to_string()))?;
        if version != 1 || state.len() != 64 {
            return Err(LoadError("not 64 bytes".into()));
        }
        self.bytes = state.to_vec();
        Ok(())
    }

    fn can_pre_copy(&self) -> bool {
        self.pre_copy.load(Ordering::SeqCst)
    }

    fn save_early(&mut self) -> Vec<u8> {
        self.rounds.pop().unwrap_or_default()
    }

    fn load_early(&mut self, _: u32, state: &[u8]) -> Result<(), LoadError> {
        self.early.lock().unwrap().push(state.to_vec());
        Ok(())
    }
}

pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) handle: Handle,
    pub(crate) log: Arc<Mutex<Vec<&'static str>>>,
    pub(crate) early: Arc<Mutex<Vec<Vec<u8>>>>,
    pub(crate) pre_copy: Arc<AtomicBool>,
    /// The call that fails.
    pub(crate) fails: Arc<Mutex<&'static str>>,
    pub(crate) server: Running<Box64>,
    _folder: TempDir,
}

pub(crate) fn pci(device: u16) -> Pci {
    Pci::endpoint(0x1234, device).bar(0, Bar::mem32(4096)).intx(Pin::A).msix(2)
}

pub(crate) fn place_of(device: u16, limits: Limits) -> Place {
    place_with(device, |builder| builder.limits(limits))
}

pub(crate) fn place_with(device: u16, settings: impl FnOnce(Builder) -> Builder) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("box.sock");
    let bound = settings(Server::builder(pci(device))).listen(&path).unwrap();
    let (log, early): (Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<_>>>) = Default::default();
    let fails = Arc::new(Mutex::new(""));
    let pre_copy = Arc::new(AtomicBool::new(true));
    let box64 = Box64 {
        bytes: vec![0; 64],
        early: early.clone(),
        pre_copy: pre_copy.clone(),
        rounds: vec![b"more".to_vec(), b"early".to_vec()],
        log: log.clone(),
        fails: fails.clone(),
    };
    let server = bound.serve(|_| box64).unwrap();
    let handle = server.handle();
    Place { path, handle, log, early, pre_copy, fails, server: server.spawn(), _folder: folder }
}

pub(crate) fn place() -> Place {
    place_of(7, Limits::default())
}

pub(crate) fn drain(client: &Client) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.read_state(&mut bytes).unwrap() > 0 {}
    bytes
}
