//! Warnings that a client can cause as often as it likes fill nobody's disk, and none is lost without a word.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use vfu::wire::DeviceState;
use vfu_testkit::Vmm;

/// Has edu copy from where its buffer is not, and load what is no state of it.
fn provoke(path: &Path, copies: usize, states: usize) {
    let vmm = Vmm::connect(path).unwrap();
    let client = vmm.client();
    vmm.enumerate().unwrap();
    for _ in 0..copies {
        vmm.write32(0, 0x98, 1).unwrap();
    }
    for _ in 0..states {
        client.reset().unwrap();
        client.set_device_state(DeviceState::Resuming).unwrap();
        client.write_state(b"no state").unwrap();
        client.set_device_state(DeviceState::Stop).unwrap_err();
    }
    client.reset().unwrap();
}

/// How many lines there are of a kind, and how many of it they tell of.
fn count(log: &str, kind: &str) -> (usize, usize) {
    let lines: Vec<_> = log.lines().filter(|line| line.contains(kind)).collect();
    let told = |line: &&str| {
        let kept = line.split(" more ").next().unwrap_or_default();
        let kept = kept.rsplit(['(', ' ']).next().and_then(|count| count.parse::<usize>().ok());
        kept.unwrap_or(0) + usize::from(!line.contains(" s: "))
    };
    (lines.len(), lines.iter().map(told).sum())
}

#[test]
fn a_flood_of_warnings_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
    command.env_remove("RUST_LOG").stdin(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut server = command.args(["serve", "edu", "-s"]).arg(&path).spawn().unwrap();
    let mut stderr = BufReader::new(server.stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    // A client that comes again gets no more of them.
    for _ in 0..20 {
        provoke(&path, 100, 20);
    }
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    let mut log = String::new();
    stderr.read_to_string(&mut log).unwrap();
    assert!(server.wait().unwrap().success());
    // Five each, and one for the rest; again after each 10 s, if this takes as long.
    let most = 6 * (start.elapsed().as_secs() as usize / 10 + 1);
    for (kind, caused) in [("DMA leaves the buffer", 2000), ("a saved state was refused", 400)] {
        let (lines, told) = count(&log, kind);
        assert!((6..=most).contains(&lines), "{lines} lines:\n{log}");
        assert_eq!(told, caused, "{log}");
    }
}
