//! How many instructions an operation takes, counted by valgrind: the same on a busy machine.
//!
//! What is counted is what a process executes that does it many times, less what one executes that
//! does it few times, divided. The kernel's instructions are not among them.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use vfu::client::Client;

use crate::operations::{self, Operation};
use crate::roles::{self, Process};
use crate::rows::device::REGISTER_BAR;

/// Before what is counted.
const FEW: u32 = 100;
/// The operation that takes two processes: a server that waits.
const RUN: &str = "server-run-read4";
const RUN_TIMES: u32 = 1_000;

/// What can be counted.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = operations::all().iter().map(|operation| operation.name).collect();
    names.insert(1, RUN);
    names
}

/// Whether there is a valgrind, and if not, why.
///
/// # Errors
/// There is none.
pub fn available() -> anyhow::Result<()> {
    let found = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    ensure!(found.context("valgrind is not installed")?.success(), "valgrind does not run");
    Ok(())
}

/// The instructions of one operation.
///
/// # Errors
/// There is no such operation, or valgrind or the operation failed.
pub fn count(name: &str) -> anyhow::Result<u64> {
    let all = operations::all();
    let operation = all.iter().find(|operation| operation.name == name);
    let times = operation.map_or(RUN_TIMES, |operation| operation.times);
    let collect = |times| match operation {
        Some(operation) => alone(operation, times),
        None => run(times),
    };
    let (few, many) = (collect(FEW)?, collect(FEW + times)?);
    Ok(many.saturating_sub(few) / u64::from(times))
}

fn valgrind(folder: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(format!("--log-file={}", folder.join("log").display()));
    command
}

/// What valgrind says that it has collected.
fn collected(folder: &Path) -> anyhow::Result<u64> {
    let log = std::fs::read_to_string(folder.join("log")).context("valgrind's log")?;
    let line = log.lines().find_map(|line| line.split_once("Collected :"));
    let number = line.and_then(|(_, number)| number.trim().parse().ok());
    number.with_context(|| format!("no count in valgrind's log:\n{log}"))
}

/// The instructions of a process that does an operation so many times.
fn alone(operation: &Operation, times: u32) -> anyhow::Result<u64> {
    let folder = tempfile::tempdir()?;
    let mut command = valgrind(folder.path());
    let role = format!("repeat {} {times}", operation.name);
    let status = roles::child(&mut command, &role)?.stdin(Stdio::null()).status();
    let status = status.context("running valgrind")?;
    ensure!(status.success(), "{} under valgrind: {status}", operation.name);
    collected(folder.path())
}

/// The instructions of a server that waits in `run`, while it is asked so many times.
fn run(times: u32) -> anyhow::Result<u64> {
    let folder = tempfile::tempdir()?;
    let (server, socket) = Process::server_by(valgrind(folder.path()))?;
    let client = Client::builder().timeout(None).connect_fd(socket)?;
    for _ in 0..times {
        client.region_read(REGISTER_BAR, 0, &mut [0; 4])?;
    }
    drop(client);
    server.end()?;
    collected(folder.path())
}
