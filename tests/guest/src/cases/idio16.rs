//! The idio16 device under Debian's own driver.

use crate::guest::{Device, Machine};
use crate::suite::Test;

/// Alone.
pub(super) const DRIVER: Test = Test {
    name: "idio16-driver",
    what: "idio16 under gpio-pci-idio-16: outputs, inputs, change of state interrupts",
    run: |bench| {
        let mut server = bench.serve("idio16")?;
        let device = Device::vfio_user("gpio0", server.socket());
        let script = include_str!("../../inside/idio16.sh");
        bench.boot(&Machine::new(script, vec![device]))?.finish()?;
        server.is_alive()
    },
};

/// With an edu beside it.
pub(super) const TWO_DEVICES: Test = Test {
    name: "two-devices",
    what: "edu and idio16 in one guest, working at the same time",
    run: |bench| {
        let (mut edu, mut idio16) = (bench.serve("edu")?, bench.serve("idio16")?);
        let devices = vec![
            Device::vfio_user("edu0", edu.socket()),
            Device::vfio_user("gpio0", idio16.socket()),
        ];
        let script = include_str!("../../inside/two-devices.sh");
        let machine = Machine { cpus: 2, ..Machine::new(script, devices) };
        bench.boot(&machine)?.finish()?;
        edu.is_alive()?;
        idio16.is_alive()
    },
};
