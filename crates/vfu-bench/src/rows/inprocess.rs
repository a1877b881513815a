//! Both ends in this process, for what no message is sent for.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use anyhow::Result;
use rustix::fs::{SealFlags, fcntl_add_seals};
use vfu::client::{Client, Memory, READ_WRITE};
use vfu::{Dma, Handle, Server};
use vfu_testkit::{Interrupts, RawPeer, Served, SharedRam, Vmm, serve_in_process};

use super::bursts::map_pages;
use super::device::{Plain, pci};

/// Where the client's memory lies, as the device sees it.
pub(crate) const RAM: u64 = 0x1_0000_0000;

pub(crate) struct InProcess {
    served: Served<Plain>,
    vmm: Vmm,
}

impl InProcess {
    pub(crate) fn start() -> Result<InProcess> {
        let served = serve()?;
        let vmm = Vmm::connect(served.path())?;
        Ok(InProcess { served, vmm })
    }

    pub(crate) fn client(&self) -> &Client {
        self.vmm.client()
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.served.handle()
    }

    pub(crate) fn dma(&self) -> Dma {
        self.served.handle().dma()
    }

    /// Shares memory, as one mapping.
    pub(crate) fn share(&self, size: u64) -> Result<SharedRam> {
        self.map(ram(size)?)
    }

    /// Shares memory that may become shorter.
    pub(crate) fn share_unsealed(&self, size: u64) -> Result<SharedRam> {
        self.map(SharedRam::new(RAM, size)?)
    }

    fn map(&self, ram: SharedRam) -> Result<SharedRam> {
        self.client().dma_map(RAM, ram.size(), READ_WRITE, Memory::File(ram.as_fd(), 0))?;
        Ok(ram)
    }

    /// MSI-X, enabled.
    pub(crate) fn interrupts(&self) -> Result<Interrupts> {
        let function = self.vmm.enumerate()?;
        Ok(self.vmm.enable_msix(&function, 1)?)
    }
}

/// A device whose client shares pages of one file, each as a mapping of its own, with as much room
/// between them.
pub(crate) struct Shared {
    served: Served<Plain>,
    _client: UnixStream,
    pub(crate) addresses: Vec<u64>,
}

impl Shared {
    pub(crate) fn pages(count: u64) -> Result<Shared> {
        let served = serve()?;
        let ram = ram(count * PAGE)?;
        let peer = RawPeer::connect(served.path())?;
        let (_client, addresses) = map_pages(peer, &ram, usize::try_from(count)?)?;
        Ok(Shared { served, _client, addresses })
    }

    pub(crate) fn dma(&self) -> Dma {
        self.served.handle().dma()
    }
}

fn serve() -> Result<Served<Plain>> {
    let server = Server::builder(pci()).bus_master_gate(false).max_dma_maps(MAPS);
    Ok(serve_in_process(server, |_| Plain::new())?)
}

/// Memory that can't become shorter, as that of QEMU's `memory-backend-memfd`.
fn ram(size: u64) -> Result<SharedRam> {
    let ram = SharedRam::new(RAM, size)?;
    fcntl_add_seals(ram.as_fd(), SealFlags::SHRINK)?;
    Ok(ram)
}

/// The most mappings that a row makes.
const MAPS: u32 = 1_000_000;
/// The bytes of a mapping of [`Shared`].
pub(crate) const PAGE: u64 = 4096;
