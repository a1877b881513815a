//! Both ends in this process, for what no message is sent for.

use std::os::fd::AsFd;

use anyhow::Result;
use rustix::fs::{SealFlags, fcntl_add_seals};
use vfu::client::{Client, Memory, READ_WRITE};
use vfu::{Dma, Handle, Server};
use vfu_testkit::{Interrupts, Served, SharedRam, Vmm, serve_in_process};

use super::device::{Plain, pci};

/// Where the client's memory lies, as the device sees it.
pub(super) const RAM: u64 = 0x1_0000_0000;

pub(super) struct InProcess {
    served: Served<Plain>,
    vmm: Vmm,
}

impl InProcess {
    pub(super) fn start() -> Result<InProcess> {
        let server = Server::builder(pci()).bus_master_gate(false).max_dma_maps(MAPS);
        let served = serve_in_process(server, |_| Plain::new())?;
        let vmm = Vmm::connect(served.path())?;
        Ok(InProcess { served, vmm })
    }

    pub(super) fn client(&self) -> &Client {
        self.vmm.client()
    }

    pub(super) fn handle(&self) -> &Handle {
        self.served.handle()
    }

    pub(super) fn dma(&self) -> Dma {
        self.served.handle().dma()
    }

    /// Shares memory, as one mapping.
    pub(super) fn share(&self, size: u64) -> Result<SharedRam> {
        let ram = ram(size)?;
        self.client().dma_map(RAM, size, READ_WRITE, Memory::File(ram.as_fd(), 0))?;
        Ok(ram)
    }

    /// Shares `count` pages of one file, each as a mapping of its own, with as much room between them.
    pub(super) fn share_pages(&self, count: u64) -> Result<Vec<u64>> {
        let ram = ram(count * PAGE)?;
        let mut addresses = Vec::new();
        for page in 0..count {
            let address = RAM + page * 2 * PAGE;
            let memory = Memory::File(ram.as_fd(), page * PAGE);
            self.client().dma_map(address, PAGE, READ_WRITE, memory)?;
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// MSI-X, enabled.
    pub(super) fn interrupts(&self) -> Result<Interrupts> {
        let function = self.vmm.enumerate()?;
        Ok(self.vmm.enable_msix(&function, 1)?)
    }
}

/// Memory that can't become shorter, as that of QEMU's `memory-backend-memfd`.
fn ram(size: u64) -> Result<SharedRam> {
    let ram = SharedRam::new(RAM, size)?;
    fcntl_add_seals(ram.as_fd(), SealFlags::SHRINK)?;
    Ok(ram)
}

/// The most mappings that a row makes.
const MAPS: u32 = 1_000_000;
/// The bytes of a mapping of [`InProcess::share_pages`].
pub(super) const PAGE: u64 = 4096;
