//! Both ends speak at once: the device moves memory while the guest works on its registers, on one
//! socket (QEMU has no second one).
//!
//! QEMU can't answer a DMA message while a request of its own waits for its reply. So a device may
//! move memory on a thread of its own, or in the handler of a posted write; in the handler of
//! anything else its DMA ends with ETIMEDOUT, and all goes on. Those are the `qemu-limit` tests.

use anyhow::Result;
use serde_json::json;

use crate::guest::{Device, Machine, Memory};
use crate::lab::Bench;
use crate::server::Server;
use crate::suite::Test;

/// Short ones.
pub(super) const TESTS: &[Test] = &[
    Test {
        name: "crossing-shm-poll",
        what: "shared memory: copies on the device's thread, polled",
        run: |bench| Plan::shared("crossing=basic:on-thread:4096:200").run(bench),
    },
    Test {
        name: "crossing-shm-hammer-2cpu",
        what: "shared memory: copies while two processors work on registers",
        run: |bench| Plan::shared("crossing=hammer:on-thread:4096:5:1:1").cpus(2).run(bench),
    },
    Test {
        name: "crossing-shm-intx",
        what: "shared memory: copies announced by INTx",
        run: |bench| Plan::shared("crossing=intx:on-thread:64:200").run(bench),
    },
    Test {
        name: "crossing-msg-intx",
        what: "messages: copies announced by INTx",
        run: |bench| Plan::messages("crossing=intx:on-thread:4096:500").run(bench),
    },
    Test {
        name: "crossing-msg-poll",
        what: "messages: copies on the device's thread, polled",
        run: |bench| Plan::messages("crossing=basic:on-thread:64:200").run(bench),
    },
    Test {
        name: "crossing-msg-poll-in-cb",
        what: "messages: copies in the handler of a posted write, polled meanwhile",
        run: |bench| Plan::messages("crossing=basic:in-write:64:50").run(bench),
    },
    Test {
        name: "crossing-msg-hammer-2cpu",
        what: "messages: copies while two processors work on registers",
        run: |bench| Plan::messages("crossing=hammer:on-thread:4096:5:1:1").cpus(2).run(bench),
    },
    Test {
        name: "crossing-msg-hammer-incb",
        what: "messages: the same in the handler of a posted write, with four more threads",
        run: |bench| Plan::messages("crossing=hammer:in-write:64:5:2:2").cpus(2).run(bench),
    },
    Test {
        name: "crossing-flood",
        what: "20000 posted writes in a row, none lost",
        run: |bench| Plan::messages("crossing=flood:20000").run(bench),
    },
    Test {
        name: "crossing-msg-poll-nopost",
        what: "messages: copies on the device's thread, where QEMU waits for every write",
        run: |bench| Plan::messages("crossing=basic:on-thread:64:50").no_posted_writes().run(bench),
    },
    Test {
        name: "crossing-qemu-limit-incb-nopost",
        what: "messages: a copy in a write that QEMU waits for ends in time, and all goes on",
        run: |bench| Plan::messages("crossing=limit:in-write:64").no_posted_writes().run(bench),
    },
    Test {
        name: "crossing-qemu-limit-in-read",
        what: "messages: a copy in a read ends in time, and all goes on",
        run: |bench| Plan::messages("crossing=limit:in-read:64").run(bench),
    },
    Test {
        name: "crossing-reset",
        what: "messages: the device, then the machine, is reset in the midst of the hammer",
        run: reset,
    },
    Test {
        name: "crossing-unplug",
        what: "messages: the device is pulled in the midst of the hammer, and plugged in again",
        run: unplug,
    },
];

/// Only if they are named.
pub(super) const LONG: &[Test] = &[Test {
    name: "crossing-long-hammer",
    what: "messages: the hammer for 30 seconds, on two processors",
    run: |bench| Plan::messages("crossing=hammer:on-thread:4096:30:1:1").cpus(2).run(bench),
}];

/// One device, one machine, and what the program inside is to do.
pub(super) struct Plan {
    memory: Memory,
    cpus: u32,
    /// QEMU posts writes to the device's registers, as a PCI bus does.
    posted_writes: bool,
    /// The word of the kernel's command line that `inside/crossing.sh` looks for.
    word: &'static str,
}

impl Plan {
    pub(super) fn shared(word: &'static str) -> Plan {
        Plan { memory: Memory::Shared, cpus: 1, posted_writes: true, word }
    }

    pub(super) fn messages(word: &'static str) -> Plan {
        Plan { memory: Memory::Private, ..Plan::shared(word) }
    }

    pub(super) fn cpus(self, cpus: u32) -> Plan {
        Plan { cpus, ..self }
    }

    fn no_posted_writes(self) -> Plan {
        Plan { posted_writes: false, ..self }
    }

    fn run(self, bench: &Bench<'_>) -> Result<()> {
        self.run_on(bench, bench.serve("dmatest")?)
    }

    /// The same with another server of such a device.
    pub(super) fn run_on(self, bench: &Bench<'_>, mut server: Server) -> Result<()> {
        let mut device = Device::vfio_user("dma0", server.socket());
        if !self.posted_writes {
            device = device.with("x-no-posted-writes", true.into());
        }
        let script = include_str!("../../inside/crossing.sh");
        let machine = Machine {
            memory: self.memory,
            cpus: self.cpus,
            append: self.word,
            ..Machine::new(script, vec![device])
        };
        bench.boot(&machine)?.finish()?;
        server.is_alive()
    }
}

/// A machine of two processors without shared memory, and a port.
fn with_port(script: &'static str, devices: Vec<Device>) -> Machine {
    let mut all = vec![Device::root_port("port0", 1)];
    all.extend(devices);
    Machine { memory: Memory::Private, cpus: 2, ..Machine::new(script, all) }
}

fn reset(bench: &Bench<'_>) -> Result<()> {
    let mut server = bench.serve("dmatest")?;
    // Behind a port, since the port is what resets it.
    let device = Device::vfio_user("dma0", server.socket()).with("bus", "port0".into());
    let script = include_str!("../../inside/crossing-reset.sh");
    let machine = Machine { reboots: true, ..with_port(script, vec![device]) };
    let mut guest = bench.boot(&machine)?;
    guest.expect("boot")?;
    guest.answer("first")?;
    guest.expect("reset")?;
    guest.qmp().command("system_reset", json!({}))?;
    guest.expect("boot")?;
    guest.answer("second")?;
    guest.finish()?;
    server.is_alive()
}

fn unplug(bench: &Bench<'_>) -> Result<()> {
    let mut server = bench.serve("dmatest")?;
    let device = Device::vfio_user("dma0", server.socket()).with("bus", "port0".into());
    let script = include_str!("../../inside/crossing-unplug.sh");
    let machine = Machine {
        // The port's own hot plug (pciehp), not that of ACPI.
        args: vec!["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"],
        ..with_port(script, vec![device.clone()])
    };
    let mut guest = bench.boot(&machine)?;
    guest.expect("pull")?;
    guest.qmp().command("device_del", json!({ "id": "dma0" }))?;
    guest.qmp().event("DEVICE_DELETED", "device", "dma0")?;
    server.is_alive()?;
    guest.answer("out")?;
    guest.expect("plug")?;
    guest.qmp().command("device_add", device.json())?;
    guest.answer("in")?;
    guest.finish()?;
    server.is_alive()
}
