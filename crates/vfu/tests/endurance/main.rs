//! What a server lives through: clients that come and go at every stage, that are killed, that take
//! all descriptors or all memory.
//!
//! A few rounds of each by default; as many as the project promises with `VFU_ENDURANCE=full`, which
//! `cargo xtask endurance` sets. Each test has a process of its own, and leaves it as it found it.

#[path = "../hostile_client/alone.rs"]
mod alone;
mod clocks;
mod connects;
mod exhausted;
mod killed;

use vfu::Limits;
use vfu::device::{Access, Device, Fault};
use vfu::{Bar, Dma, Handle, Pci, Server, Vector};
use vfu_testkit::{RawPeer, Served, serve_in_process};

/// As many rounds as this test run makes.
pub(crate) fn rounds(short: u32, full: u32) -> u32 {
    let is_full = std::env::var("VFU_ENDURANCE").is_ok_and(|value| value == "full");
    if is_full { full } else { short }
}

/// Copies a page for each write to its doorbell, on whatever thread comes to know of the data, and
/// raises a vector.
pub(crate) struct Copier {
    dma: Dma,
    done: Vector,
    registers: [u64; 3],
}

pub(crate) const SOURCE: u64 = 0;
pub(crate) const DESTINATION: u64 = 8;
pub(crate) const DOORBELL: u64 = 16;

impl Copier {
    pub(crate) fn serve() -> Served<Copier> {
        Copier::serve_with(Limits::default())
    }

    pub(crate) fn serve_with(limits: Limits) -> Served<Copier> {
        let pci = Pci::endpoint(0x1234, 2).bar(0, Bar::mem32(4096)).bar(2, Bar::mem64(2 << 20));
        let builder = Server::builder(pci.msix(4).pcie_endpoint()).limits(limits);
        serve_in_process(builder, Copier::new).unwrap()
    }

    pub(crate) fn new(handle: Handle) -> Copier {
        Copier { dma: handle.dma(), done: handle.vector(0), registers: [0; 3] }
    }

    fn register(&mut self, at: Access) -> Result<&mut u64, Fault> {
        let index = usize::try_from(at.offset / 8).map_err(|_| Fault::Unmodelled)?;
        self.registers.get_mut(index).filter(|_| at.region == 0).ok_or(Fault::Unmodelled)
    }
}

impl Device for Copier {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        if at.region == 2 {
            data.fill(0x22);
            return Ok(());
        }
        let value = self.register(at)?.to_le_bytes();
        at.give(data, &value);
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        if at.region == 2 {
            return Ok(());
        }
        *self.register(at)? = at.u64(data)?;
        let ([source, destination, _], done) = (self.registers, self.done.clone());
        if at.offset == DOORBELL {
            let dma = self.dma.clone();
            self.dma.read_then(source, 4096, move |page| {
                let Ok(page) = page else { return };
                dma.write_then(destination, page, move |_| {
                    let _nobody_listens = done.trigger();
                });
            });
        }
        Ok(())
    }
}

/// Waits until the server is done with those before.
pub(crate) fn settle<D: Device>(server: &Served<D>) {
    drop(RawPeer::begin(server.path()).unwrap());
}
