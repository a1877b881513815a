//! The server whose device's writes the tests of dirty pages look at.

use std::path::PathBuf;

use tempfile::TempDir;
use vfu::migration::{LoadError, Migration};
use vfu::server::Running;
use vfu::wire::Errno;
use vfu::{Access, Bar, Device, Dma, Fault, Pci, Server};

/// Nothing; the test uses its DMA.
pub(crate) struct Idle {
    /// It can be stopped.
    movable: bool,
}

impl Device for Idle {
    fn region_read(&mut self, _: Access, _: &mut [u8]) -> Result<(), Fault> {
        Err(Fault::Unmodelled)
    }

    fn region_write(&mut self, _: Access, _: &[u8]) -> Result<(), Fault> {
        Err(Fault::Unmodelled)
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        if self.movable { Some(self) } else { None }
    }
}

impl Migration for Idle {
    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }

    fn load(&mut self, _: u32, _: &[u8]) -> Result<(), LoadError> {
        Ok(())
    }
}

/// A server without a client yet.
pub(crate) struct Served {
    pub(crate) dma: Dma,
    pub(crate) path: PathBuf,
    _server: Running<Idle>,
    _folder: TempDir,
}

/// Serves a device that can be stopped, or can't.
pub(crate) fn serve(movable: bool) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dirty.sock");
    let pci = Pci::endpoint(0x1234, 9).bar(0, Bar::mem32(4096));
    let builder = Server::builder(pci).max_dma_bytes(1 << 47);
    let server = builder.listen(&path).unwrap().serve(|_| Idle { movable }).unwrap();
    let dma = server.handle().dma();
    Served { dma, path, _server: server.spawn(), _folder: folder }
}
