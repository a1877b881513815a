//! A device in a sandbox that tries what it should not.

#[path = "tries/table.rs"]
mod table;

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use table::{ALLOWED, DENIED};
use vfu::Client;

/// Ends with what started it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The example, which `cargo test` builds.
fn intruder() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let intruder = tests.parent().unwrap().parent().unwrap().join("examples/intruder");
    assert!(intruder.exists(), "{} is built by: cargo test -p vfu-sandbox", intruder.display());
    intruder
}

#[test]
fn a_device_can_open_nothing_and_call_little() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "secret").unwrap();
    let _outside = UnixListener::bind(folder.path().join("outside")).unwrap();
    let mut child = Command::new(intruder())
        .arg(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map(Killed)
        .unwrap();
    let mut stderr = BufReader::new(child.0.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("listening; missing "), "{line}");
    assert!(
        !line.contains("Seccomp"),
        "a kernel without seccomp filters can't run this test: {line}"
    );

    let client = Client::connect(folder.path().join("socket")).unwrap();
    let attempt = |number: usize| {
        client.region_write(0, 0, &u32::try_from(number).unwrap().to_le_bytes()).unwrap();
        let mut came = [0; 4];
        client.region_read(0, 0, &mut came).unwrap();
        io::Error::from_raw_os_error(i32::from_le_bytes(came))
    };
    for (number, (what, _)) in DENIED.iter().enumerate() {
        let came = attempt(number);
        assert_eq!(came.kind(), io::ErrorKind::PermissionDenied, "{what}: {came}");
    }
    for (number, (what, _)) in ALLOWED.iter().enumerate() {
        let came = attempt(DENIED.len() + number);
        assert_eq!(came.raw_os_error(), Some(0), "{what}: {came}");
    }
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"secret");
    assert!(!folder.path().join("new").exists());
}
