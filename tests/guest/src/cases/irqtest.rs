//! The interrupt test device.

use anyhow::{Result, bail};
use serde_json::json;

use crate::guest::{Device, Machine, Memory};
use crate::lab::Bench;
use crate::suite::Test;

/// All vectors, and masks that the guest's kernel sets.
pub(super) const MSIX: Test = Test {
    name: "msix",
    what: "20 vectors of MSI-X under the guest's VFIO: all fire, masked or not; the PBA of unused ones",
    run: |bench| msix(bench, 1),
};

/// The same with two processors.
pub(super) const MSIX_SMP: Test = Test {
    name: "msix-smp",
    what: "20 vectors of MSI-X in a guest with two processors",
    run: |bench| msix(bench, 2),
};

fn msix(bench: &Bench<'_>, cpus: u32) -> Result<()> {
    let mut server = bench.serve("irqtest")?;
    let device = Device::vfio_user("irqtest0", server.socket());
    let script = include_str!("../../inside/irqtest-msix.sh");
    let machine = Machine::new(script, vec![device]).with_iommu();
    bench.boot(&Machine { cpus, memory: Memory::Private, ..machine })?.finish()?;
    server.is_alive()
}

/// ERR, which is for QEMU and not for the guest.
pub(super) const ERR: Test = Test {
    name: "err",
    what: "the device says that it has failed, and QEMU stops the machine",
    run: |bench| {
        let mut server = bench.serve("irqtest")?;
        let device = Device::vfio_user("irqtest0", server.socket());
        let script = include_str!("../../inside/irqtest-err.sh");
        let mut guest = bench.boot(&Machine::new(script, vec![device]))?;
        guest.expect("err")?;
        guest.answer("go")?;
        guest.qmp().stopped()?;
        let status = guest.qmp().command("query-status", json!({}))?;
        if status["status"] != "internal-error" {
            bail!("QEMU's state is {status}");
        }
        drop(guest);
        server.is_alive()
    },
};
