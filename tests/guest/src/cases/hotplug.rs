//! Devices that come and go while the guest runs.

use anyhow::Result;
use serde_json::json;

use crate::guest::{Device, Guest, Machine};
use crate::suite::Test;

/// In, out, in.
pub(super) const HOTPLUG: Test = Test {
    name: "hotplug",
    what: "edu plugged in, pulled out and plugged in again behind a root port",
    run: |bench| {
        let mut server = bench.serve("edu")?;
        let device = Device::vfio_user("edu0", server.socket()).with("bus", "port0".into());
        let script = include_str!("../../inside/hotplug.sh");
        let machine = Machine {
            // The port's own hot plug (pciehp), not that of ACPI.
            args: vec!["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"],
            ..Machine::new(script, vec![Device::root_port("port0", 1)])
        };
        let mut guest = bench.boot(&machine)?;
        guest.expect("plug")?;
        guest.qmp().command("device_add", device.json())?;
        guest.answer("in")?;

        guest.expect("pull")?;
        pull(&mut guest)?;
        server.is_alive()?;
        guest.answer("out")?;

        guest.expect("plug")?;
        guest.qmp().command("device_add", device.json())?;
        guest.answer("in")?;
        guest.finish()?;
        server.is_alive()
    },
};

/// Asks for the device, and waits until the guest has let go of it.
fn pull(guest: &mut Guest) -> Result<()> {
    guest.qmp().command("device_del", json!({ "id": "edu0" }))?;
    guest.qmp().event("DEVICE_DELETED", "device", "edu0")
}
