//! Ways to reach a BAR: far beyond 4 GiB, through mapped memory, and many writes in one message.
//!
//! QEMU 11.1 never asks for a device's ioeventfds (DEVICE_GET_REGION_IO_FDS): here those doorbells
//! are rung by messages, which has to come to the same. `ioeventfd_process.rs` of `vfu-cli` rings
//! them from another process.

use std::fs;

use anyhow::{Result, bail};

use crate::guest::{Device, Machine, Memory};
use crate::lab::Bench;
use crate::suite::Test;

/// A BAR of 8 GiB.
pub(super) const BAR: Test = Test {
    name: "bartest",
    what: "a 64-bit BAR of 8 GiB, its mapped memory, and doorbells rung without a message",
    run: |bench| {
        let mut server = bench.serve("bartest")?;
        let device = Device::vfio_user("bar0", server.socket());
        let script = include_str!("../../inside/bartest.sh");
        let mut guest = bench.boot(&Machine::new(script, vec![device]))?;
        guest.expect("stop")?;
        server.stand_still(true)?;
        guest.answer("stopped")?;
        // The guest has written and read mapped memory when it asks for this.
        guest.expect("go")?;
        server.stand_still(false)?;
        guest.answer("gone on")?;
        guest.finish()?;
        server.is_alive()
    },
};

/// REGION_WRITE_MULTI, as QEMU sends it.
pub(super) const WRITE_MULTI: Test = Test {
    name: "write-multi",
    what: "8000 posted writes that pile up in QEMU come in a few messages, none lost",
    run: write_multi,
};

fn write_multi(bench: &Bench<'_>) -> Result<()> {
    let mut server = bench.serve("dmatest")?;
    let device = Device::vfio_user("dma0", server.socket()).with("x-send-queued", true.into());
    let script = include_str!("../../inside/write-multi.sh");
    let machine = Machine {
        memory: Memory::Private,
        args: vec!["-trace", "vfio_user_wrmulti"],
        ..Machine::new(script, vec![device])
    };
    bench.expect_complaint("vfio_user_wrmulti"); // a trace, no complaint
    let mut guest = bench.boot(&machine)?;
    guest.expect("stop")?;
    server.stand_still(true)?;
    guest.answer("stopped")?;
    guest.expect("go")?;
    server.stand_still(false)?;
    guest.answer("gone on")?;
    guest.finish()?;
    // `vfio_user_wrmulti NAME flush count 0xc8` for each message.
    let log = fs::read_to_string(bench.logs().join("qemu-1.log"))?;
    let count = |line: &str| u64::from_str_radix(line.split_once("flush count 0x")?.1, 16).ok();
    let counts: Vec<u64> = log.lines().filter_map(count).collect();
    let (messages, writes) = (counts.len(), counts.iter().sum::<u64>());
    if counts.iter().max() != Some(&200) {
        bail!("QEMU sent {writes} writes in {messages} messages, none of them full");
    }
    crate::say(format!("QEMU sent {writes} writes in {messages} messages"));
    server.is_alive()
}
