//! Doorbells between processes: `vfu serve bartest`, rung by our client and by a program that knows
//! nothing of us.

use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;
use vfu::client::{Client, Rung};
use vfu_devices::bartest::register;
use vfu_testkit::{DEADLINE, Vmm};

/// A server in a process of its own, which listens.
struct Serving {
    child: Child,
    path: PathBuf,
    _folder: TempDir,
}

impl Serving {
    fn start() -> Serving {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
        command.env_remove("RUST_LOG").args(["serve", "bartest", "--socket-path"]).arg(&path);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{line}");
        Serving { child, path, _folder: folder }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}

#[test]
fn our_client_rings_in_another_process() {
    let serving = Serving::start();
    let vmm = Vmm::over(Client::connect(&serving.path).unwrap());
    let doorbells = vmm.client().doorbells(0).unwrap();
    for round in 1..=100 {
        assert_eq!(doorbells.write(register::EVENT, &[1, 0, 0, 0]).unwrap(), Rung::ByEventFd);
        assert_eq!(vmm.read64(0, register::EVENTS).unwrap(), round);
    }
    // The doorbell page, with not a message but those that look at the counter.
    let mapped = vmm.client().map_region(0).unwrap();
    for round in 1..=20u32 {
        mapped.write(register::PAGE, &round.to_le_bytes()).unwrap();
        let begun = Instant::now();
        while vmm.read64(0, register::SEEN).unwrap() != u64::from(round) {
            assert!(begun.elapsed() < DEADLINE, "ring {round} was lost");
        }
    }
}

/// An independent reader of the wire gets the eventfds and rings them.
#[test]
fn a_program_in_python_rings() {
    let serving = Serving::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ioeventfd.py");
    let output = match Command::new("python3").arg(script).arg(&serving.path).output() {
        Ok(output) => output,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            eprintln!("SKIPPED: no python3 here, so nobody but our own client rings");
            return;
        }
        Err(e) => panic!("python3: {e}"),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    assert_eq!(said.trim(), "every ring was counted");
}
