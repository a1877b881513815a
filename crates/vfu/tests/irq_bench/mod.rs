//! A device that has every kind of interrupt, and a VMM that uses them.
#![allow(dead_code)] // Each test binary uses its part.

use vfu::migration::{LoadError, Migration};
use vfu::pci::{Msi, regs};
use vfu::server::Builder;
use vfu::wire::{Errno, IrqAction, IrqData, SetIrqs};
use vfu::{Access, Bar, Device, Fault, Handle, IrqIndex, Pci, Pin, Server};
use vfu_testkit::{Function, Interrupts, Served, Vmm, serve_in_process};

pub(crate) const MSIX_ENABLE: u16 = 1 << 15;
pub(crate) const MSIX_FUNCTION_MASK: u16 = 1 << 14;
/// Vectors of MSI-X.
pub(crate) const VECTORS: u16 = 70;
/// The BAR of the table, and where the Pending Bit Array is in it.
const TABLE: u32 = 1;
const PBA: u64 = 4096;

pub(crate) struct Silent;

impl Device for Silent {
    fn region_read(&mut self, _: Access, _: &mut [u8]) -> Result<(), Fault> {
        Err(Fault::Unmodelled)
    }

    fn region_write(&mut self, _: Access, _: &[u8]) -> Result<(), Fault> {
        Err(Fault::Unmodelled)
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }
}

/// There is nothing to it but its interrupts.
impl Migration for Silent {
    fn max_len(&self) -> usize {
        0
    }

    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }

    fn load(&mut self, _: u32, _: &[u8]) -> Result<(), LoadError> {
        Ok(())
    }
}

pub(crate) fn pci() -> Pci {
    Pci::endpoint(0x1234, 9)
        .bar(0, Bar::mem32(4096))
        .intx(Pin::A)
        .pm()
        .msi_with(Msi { vectors: 4, address64: true, per_vector_mask: true })
        .msix(VECTORS)
        .pcie_endpoint()
        .aer()
}

/// The VMM goes first.
pub(crate) struct Bench {
    pub(crate) vmm: Vmm,
    pub(crate) function: Function,
    served: Served<Silent>,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(|builder| builder)
    }

    pub(crate) fn with(settings: impl FnOnce(Builder) -> Builder) -> Bench {
        let builder = settings(Server::builder(pci()));
        let served = serve_in_process(builder, |_: Handle| Silent).unwrap();
        Bench::over(served)
    }

    fn over(served: Served<Silent>) -> Bench {
        let vmm = Vmm::connect(served.path()).unwrap();
        let function = vmm.enumerate().unwrap();
        Bench { vmm, function, served }
    }

    /// Another client, once this one has gone.
    pub(crate) fn next_client(self) -> Bench {
        let Bench { vmm, served, .. } = self;
        drop(vmm);
        Bench::over(served)
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.served.handle()
    }

    pub(crate) fn raise(&self, vector: u32) {
        self.handle().vector(vector).trigger().unwrap();
    }

    fn capability(&self, id: u8) -> usize {
        self.function.capability(id).unwrap().offset.into()
    }

    /// Enables MSI-X as a guest does whose table is the device's, and unmasks the first `vectors`.
    pub(crate) fn enable_msix(&self, vectors: u16) -> Interrupts {
        self.vmm.set_bus_master(true).unwrap();
        let interrupts = Interrupts::new(VECTORS.into()).unwrap();
        self.vmm.client().assign_irqs(IrqIndex::Msix, 0, &interrupts.fds()).unwrap();
        (0..VECTORS).for_each(|vector| self.mask_entry(vector.into(), vector >= vectors));
        self.msix_control(MSIX_ENABLE);
        interrupts
    }

    pub(crate) fn msix_control(&self, bits: u16) {
        let at = self.capability(regs::CAP_MSIX) + regs::MESSAGE_CONTROL;
        self.vmm.config_write16(at, bits).unwrap();
    }

    /// The Mask Bit of a table entry.
    pub(crate) fn mask_entry(&self, vector: u64, masked: bool) {
        let control = u32::from(masked).to_le_bytes();
        self.vmm.client().region_write(TABLE, vector * 16 + 12, &control).unwrap();
    }

    pub(crate) fn take_eventfds(&self, start: u32, count: u32) {
        let (action, data) = (IrqAction::Trigger, IrqData::EventFd);
        let request = SetIrqs { index: IrqIndex::Msix as u32, start, count, action, data };
        self.vmm.client().set_irqs(request, &[]).unwrap();
    }

    pub(crate) fn pba(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        self.vmm.client().region_read(TABLE, PBA + at as u64, &mut bytes).unwrap();
        bytes
    }

    pub(crate) fn write_pba(&self, at: u64, bytes: &[u8]) {
        self.vmm.client().region_write(TABLE, PBA + at, bytes).unwrap();
    }

    /// The vectors whose Pending Bits are set.
    pub(crate) fn pending(&self) -> Vec<usize> {
        let bytes = self.pba(0, 16);
        (0..128).filter(|vector| bytes[vector / 8] >> (vector % 8) & 1 != 0).collect()
    }

    pub(crate) fn msi_at(&self) -> usize {
        self.capability(regs::CAP_MSI)
    }

    pub(crate) fn enable_msi(&self, vectors: u8) -> Interrupts {
        self.vmm.enable_msi(&self.function, vectors).unwrap()
    }

    pub(crate) fn disable_msi(&self) {
        self.vmm.config_write16(self.msi_at() + regs::MESSAGE_CONTROL, 0).unwrap();
        self.vmm.client().disable_irqs(IrqIndex::Msi).unwrap();
    }

    pub(crate) fn msi_mask(&self, bits: u32) {
        self.vmm.config_write32(self.msi_at() + 16, bits).unwrap();
    }

    pub(crate) fn msi_pending(&self) -> u32 {
        self.vmm.config_read32(self.msi_at() + 20).unwrap()
    }
}

/// How often each was raised since the last look.
pub(crate) fn counts(interrupts: &Interrupts) -> Vec<u64> {
    (0..interrupts.len()).map(|vector| interrupts.count_now(vector).unwrap()).collect()
}
