//! Devices written in C against `libvfio-user.so.0`: the samples of `crates/vfu-capi`.

use crate::cases::crossing::Plan;
use crate::guest::{Device, Machine};
use crate::suite::Test;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "capi-gpio",
        what: "the sample gpio in C under gpio-pci-idio-16",
        run: |bench| {
            let mut server = bench.serve_sample("gpio")?;
            let device = Device::vfio_user("gpio0", server.socket());
            let script = include_str!("../../inside/idio16.sh");
            bench.boot(&Machine::new(script, vec![device]))?.finish()?;
            server.is_alive()
        },
    },
    Test {
        name: "capi-dma-shm",
        what: "the sample dma in C: shared memory, polled",
        run: |bench| {
            let server = bench.serve_sample("dma")?;
            Plan::shared("crossing=basic:on-thread:4096:200").run_on(bench, server)
        },
    },
    Test {
        name: "capi-dma-msg-intx",
        what: "the sample dma in C: messages, announced by INTx",
        run: |bench| {
            let server = bench.serve_sample("dma")?;
            Plan::messages("crossing=intx:on-thread:4096:200").run_on(bench, server)
        },
    },
    Test {
        name: "capi-dma-msg-hammer",
        what: "the sample dma in C: messages while two processors work on registers",
        run: |bench| {
            let server = bench.serve_sample("dma")?;
            Plan::messages("crossing=hammer:on-thread:4096:5:1:1").cpus(2).run_on(bench, server)
        },
    },
    Test {
        name: "capi-dma-msg-incb",
        what: "the sample dma in C: messages inside a callback that is called again meanwhile",
        run: |bench| {
            let server = bench.serve_sample("dma")?;
            Plan::messages("crossing=hammer:in-write:64:5:2:2").cpus(2).run_on(bench, server)
        },
    },
    Test {
        name: "capi-dma-limit",
        what: "the sample dma in C: a copy in a read, which QEMU can't answer, ends in time",
        run: |bench| {
            let server = bench.serve_sample("dma")?;
            Plan::messages("crossing=limit:in-read:64").run_on(bench, server)
        },
    },
];
