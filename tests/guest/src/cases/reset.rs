//! Resets that the guest asks for.

use anyhow::ensure;

use crate::guest::{Device, Machine};
use crate::suite::Test;

/// The device's, and the machine's.
pub(super) const RESET: Test = Test {
    name: "guest-reset",
    what: "the guest resets the device through sysfs, then itself, and the device works again",
    run: |bench| {
        let mut server = bench.serve("edu")?;
        // Alone on the bus behind a port, since the port is what resets it.
        let port = Device::root_port("port0", 1);
        let device = Device::vfio_user("edu0", server.socket()).with("bus", "port0".into());
        let script = include_str!("../../inside/reset.sh");
        let machine = Machine { reboots: true, ..Machine::new(script, vec![port, device]) };
        let mut guest = bench.boot(&machine)?;
        guest.expect("boot")?;
        guest.answer("first")?;
        guest.expect("boot")?;
        guest.answer("second")?;
        guest.finish()?;
        server.is_alive()
    },
};

/// The function's, by the kernel.
pub(super) const FUNCTION: Test = Test {
    name: "function-reset",
    what: "FLR, and D3hot to D0, through sysfs: the device forgets, and works again",
    run: |bench| {
        let mut server = bench.serve("dmatest")?;
        let port = Device::root_port("port0", 1);
        let device = Device::vfio_user("dma0", server.socket()).with("bus", "port0".into());
        let script = include_str!("../../inside/function-reset.sh");
        bench.boot(&Machine::new(script, vec![port, device]))?.finish()?;
        // Twice each, then one more each.
        for kind in ["reset kind=FunctionLevel", "reset kind=D3HotToD0"] {
            let said = server.said(kind)?;
            ensure!(said == 3, "the server logged {kind:?} {said} times instead of 3");
        }
        server.is_alive()
    },
};
