//! What is run under each watch.

use std::process::{Command, Stdio};

use anyhow::Result;

use super::Kind;
use crate::toolchain;

/// One build and run of tests.
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) command: Command,
}

/// Tests of vfu in which several threads meet.
const THREADED: [&str; 23] = [
    "crossing_client",
    "crossing_end",
    "crossing_flow",
    "crossing_gate",
    "crossing_growth",
    "crossing_irqs",
    "crossing_leftovers",
    "crossing_limits",
    "crossing_order",
    "crossing_quiesce",
    "crossing_reset",
    "crossing_stress",
    "crossing_timeout",
    "crossing_twin",
    "crossing_unmap",
    "dirty_threads",
    "dma_map",
    "doorbells",
    "irq_masks",
    "irq_moving",
    "irq_storms",
    "irqs",
    "posted",
];

/// rustix calls the C library, whose functions a sanitizer watches: what is mapped, sent and unmapped.
const SEEN_CALLS: &str = "--cfg rustix_use_libc";

/// Tests that ask for more memory than there is want to be refused, not to be ended.
const REFUSE: &str = "allocator_may_return_null=1";

/// The steps of `kind`, with nightly's `cargo`.
pub(super) fn of(kind: Kind, cargo: &Command) -> Result<Vec<Step>> {
    let new = |args: &[&str]| {
        let mut command = Command::new(cargo.get_program());
        command.args(cargo.get_args()).args(args).current_dir(crate::build::root());
        for (name, value) in cargo.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        // A build of its own, beside the others.
        command.arg("--target-dir").arg(toolchain::target_folder().join(kind.name()));
        command.arg("--no-fail-fast").stdin(Stdio::null()).env_remove("CARGO_ENCODED_RUSTFLAGS");
        command
    };
    let miri = |args: &[&str]| {
        let mut command = new(&["miri", "test"]);
        // It is some hundred times slower, and knows no file system of its own.
        command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "3");
        command.args(args);
        command
    };
    let host = toolchain::host()?;
    let on_host = |args: &[&str], flag: &str| {
        let mut command = new(args);
        command.args(["--target", &host]).env("RUSTFLAGS", format!("{flag} {SEEN_CALLS}"));
        command
    };
    let threaded = |mut command: Command| {
        command.args(["-p", "vfu", "--lib"]);
        command.args(THREADED.iter().flat_map(|test| ["--test", test]));
        // It has one thread, and takes minutes.
        command.args(["--", "--skip", "dma::dirty::tests::reports_agree_with_the_model"]);
        command
    };
    let devices = |mut command: Command| {
        command.args(["-p", "vfu-devices", "--tests"]);
        command
    };
    Ok(match kind {
        Kind::Miri => {
            let mut proto = miri(&["-p", "vfu-proto", "--lib"]);
            // The simulation takes too long: a million steps.
            for test in PURE_TESTS {
                proto.args(["--test", test]);
            }
            let mut pure = miri(&["-p", "vfu", "--lib", "--"]);
            pure.args(PURE_MODULES);
            vec![
                Step { name: "vfu-proto", command: proto },
                Step { name: "pure parts of vfu", command: pure },
            ]
        }
        Kind::Thread => {
            // The standard library too, or its locks are taken for races.
            let watched = || {
                let mut command = on_host(&["test", "-Zbuild-std"], "-Zsanitizer=thread");
                command.env("TSAN_OPTIONS", format!("{REFUSE} history_size=4"));
                command
            };
            vec![
                Step { name: "threads of vfu", command: threaded(watched()) },
                Step { name: "devices", command: devices(watched()) },
            ]
        }
        Kind::Address => {
            let watched = || {
                let mut command = on_host(&["test"], "-Zsanitizer=address");
                command.env("ASAN_OPTIONS", REFUSE);
                command
            };
            vec![
                Step { name: "threads of vfu", command: threaded(watched()) },
                Step { name: "devices", command: devices(watched()) },
            ]
        }
    })
}

/// Tests of vfu-proto that end within minutes.
const PURE_TESTS: [&str; 6] = [
    "session_engine",
    "session_framer",
    "wire_checks",
    "wire_golden",
    "wire_roundtrip",
    "wire_version",
];

/// Modules of vfu that call no system.
const PURE_MODULES: [&str; 5] =
    ["pci::", "regmap::", "migration::state", "dma::index", "dma::guard::slots"];
