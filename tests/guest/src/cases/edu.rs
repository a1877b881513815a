//! The edu device under the program in the guest.

use anyhow::Result;

use crate::guest::{Device, Machine, Memory};
use crate::lab::Bench;
use crate::suite::Test;

/// Direct DMA.
pub(super) const SHARED: Test = Test {
    name: "edu-shared",
    what: "edu with shared memory: factorial, DMA both ways, INTx",
    run: |bench| with_uio(bench, Memory::Shared, 1),
};

/// DMA by message.
pub(super) const MESSAGE: Test = Test {
    name: "edu-message",
    what: "edu without shared memory: the same, with DMA by message",
    run: |bench| with_uio(bench, Memory::Private, 1),
};

/// DMA by message, and two processors.
pub(super) const SMP: Test = Test {
    name: "edu-message-smp",
    what: "edu without shared memory, in a guest with two processors",
    run: |bench| with_uio(bench, Memory::Private, 2),
};

/// MSI, behind an IOMMU.
pub(super) const MSI_SHARED: Test = Test {
    name: "msi-shared",
    what: "edu under the guest's VFIO: MSI, and direct DMA by IOVA",
    run: |bench| with_vfio(bench, Memory::Shared),
};

/// MSI, behind an IOMMU, DMA by message.
pub(super) const MSI_MESSAGE: Test = Test {
    name: "msi-message",
    what: "edu under the guest's VFIO: MSI, and DMA by IOVA and message",
    run: |bench| with_vfio(bench, Memory::Private),
};

/// The same checks against QEMU's own edu: a second opinion about the checks.
pub(super) const OF_QEMU: Test = Test {
    name: "qemu-edu",
    what: "the same checks against the edu that QEMU has itself, without vfu",
    run: |bench| {
        let edu = || vec![Device::new("edu", "edu0")];
        bench.boot(&Machine::new(UIO, edu()))?.finish()?;
        bench.boot(&Machine::new(VFIO, edu()).with_iommu())?.finish()
    },
};

const UIO: &str = include_str!("../../inside/edu-uio.sh");
const VFIO: &str = include_str!("../../inside/edu-vfio.sh");

fn with_uio(bench: &Bench<'_>, memory: Memory, cpus: u32) -> Result<()> {
    let mut server = bench.serve("edu")?;
    let device = Device::vfio_user("edu0", server.socket());
    let machine = Machine { memory, cpus, ..Machine::new(UIO, vec![device]) };
    bench.boot(&machine)?.finish()?;
    server.is_alive()
}

fn with_vfio(bench: &Bench<'_>, memory: Memory) -> Result<()> {
    let mut server = bench.serve("edu")?;
    let device = Device::vfio_user("edu0", server.socket());
    let machine = Machine { memory, ..Machine::new(VFIO, vec![device]).with_iommu() };
    bench.boot(&machine)?.finish()?;
    server.is_alive()
}
