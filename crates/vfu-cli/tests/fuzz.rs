//! `vfu fuzz` as a user or a script sees it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vfu_testkit::{RawListener, message};

fn vfu() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Long enough for any machine: nothing here waits for it.
const PATIENT: &str = "--timeout=60";

fn fuzz(args: &[&str]) -> Output {
    vfu().arg("fuzz").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn ends(output: &Output, code: i32, needles: &[&str]) {
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{all}");
    for needle in needles {
        assert!(all.contains(needle), "no '{needle}' in: {all}");
    }
}

/// `vfu serve`, killed at the end.
struct Serving(Child);

impl Serving {
    fn start(model: &str, path: &Path) -> Serving {
        let mut command = vfu();
        command.args(["serve", model, "--socket-path"]).arg(path).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{line}");
        Serving(child)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that answers a reset with one byte too many. All else is an error.
fn broken_server() -> RawListener {
    let listener = RawListener::new().unwrap();
    let server = RawListener::at(listener.path().with_extension("2")).unwrap();
    thread::spawn(move || {
        loop {
            let Ok(client) = server.accept() else { continue };
            while let Ok(got) = client.recv() {
                let header = got.header;
                let payload: &[u8] = match header.command {
                    1 => b"\0\0\0\0{\"capabilities\":{}}\0",
                    4 => b"\x10\0\0\0\x03\0\0\0\x09\0\0\0\x05\0\0\0",
                    13 => &[7],
                    _ => &[],
                };
                let good = matches!(header.command, 1 | 4 | 13);
                let mut bytes =
                    message(header.id, header.command, if good { 1 } else { 0x21 }, payload);
                bytes[12] = if good { 0 } else { 22 };
                if header.flags & 0xf > 1
                    || (header.flags & 0x1f == 0 && client.send(&bytes).is_err())
                {
                    break;
                }
            }
        }
    });
    listener
}

#[test]
fn a_good_server_withstands_and_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _server = Serving::start("edu", &path);
    let path = path.to_str().unwrap();
    let output = fuzz(&[path, "--seed=5", "--cases=200", PATIENT, "--json"]);
    ends(&output, 0, &["seed 5"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["format"], &report["seed"]), (&1.into(), &5.into()));
    assert_eq!((&report["cases"], &report["ended"]), (&200.into(), &"done".into()));
    assert_eq!(report["found"], Value::Array(Vec::new()));
    assert!(report["errors"]["EINVAL"].as_u64().unwrap() > 10, "{report}");
    assert!(report["first"]["descriptors"].as_u64().unwrap() > 3, "{report}");
    assert_eq!(report["process"]["name"], "vfu");
    let output = fuzz(&[path, "--seed=6", "--cases=50", "--only=framing,life", PATIENT]);
    ends(&output, 0, &["seed 6: 50 cases in", " connections closed", "(vfu): ", "nothing found"]);
    assert!(vfu().args(["probe", path]).output().unwrap().status.success());
}

#[test]
fn what_is_found_is_saved_and_played_again() {
    let folder = tempfile::tempdir().unwrap();
    let save = format!("--save={}", folder.path().join("new").display());
    let server = broken_server();
    let path = server.path().with_extension("2");
    let path = path.to_str().unwrap();
    let output = fuzz(&[path, "--seed=1", "--cases=300", "--only=life", PATIENT, &save]);
    let needles = ["found too-long: 1 bytes in a reply to DEVICE_RESET", "minimised to 1 step"];
    ends(&output, 5, &needles);
    let file = folder.path().join("new/vfu-fuzz-1-too-long-13.txt");
    let script = fs::read_to_string(&file).unwrap();
    assert!(script.starts_with("# too-long: 1 bytes in a reply to DEVICE_RESET"), "{script}");
    assert!(script.contains("# seed 1, case "), "{script}");
    assert!(script.ends_with("\n  send DEVICE_RESET id=0\n"), "{script}");
    let replay = format!("--replay={}", file.display());
    ends(&fuzz(&[path, &replay, PATIENT]), 5, &["too-long: 1 bytes", "1 case in"]);
    let output = fuzz(&[path, &replay, "--ignore=too-long", PATIENT]);
    ends(&output, 0, &["nothing found"]);
}

#[test]
fn a_signal_ends_it_with_the_summary() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _server = Serving::start("idio16", &path);
    let mut child = vfu()
        .arg("fuzz")
        .arg(&path)
        .args(["--seconds=0", PATIENT])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("seed "), "{line}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    ends(&output, 0, &["stopped by a signal", "nothing found"]);
}

#[test]
fn a_client_withstands_a_hostile_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad");
    let client = format!("{} probe --timeout 0.5 {{}}", env!("CARGO_BIN_EXE_vfu"));
    let listen = ["--listen", path.to_str().unwrap(), "--client", &client, PATIENT];
    let output = fuzz(&[&listen[..], &["--cases=25", "--seed=2", "--json"]].concat());
    ends(&output, 0, &["listening on ", "seed 2"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["cases"], 25);
    assert!(report["answered"].as_u64() > Some(25) && report["attacked"].as_u64() > Some(5));
    assert!(!path.exists(), "the socket is removed");
    let plan = folder.path().join("plan");
    fs::write(&plan, "server\n  at 1 close\n").unwrap();
    let replay = format!("--replay={}", plan.display());
    let probes = [&listen[..], &[&replay]].concat();
    ends(&fuzz(&probes), 0, &["1 case in", "1 messages answered well, 1 clients attacked"]);
}

#[test]
fn a_client_that_breaks_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (path, save) = (folder.path().join("bad"), format!("--save={}", folder.path().display()));
    let listen = ["--listen", path.to_str().unwrap(), "--cases=2", "--seed=2", &save];
    let output = fuzz(&[&listen[..], &["--client", "echo {}; kill -SEGV $$"]].concat());
    let needles = ["crashed (2 times): the client ended with signal 11 (SIGSEGV)", "/bad"];
    ends(&output, 5, &needles);
    assert!(folder.path().join("vfu-fuzz-2-crashed.txt").exists());
    let output = fuzz(&[&listen[..], &["--client", "sleep 1000", "--timeout=0.05"]].concat());
    ends(&output, 5, &["ran-on (2 times): the client runs for 0.05 s"]);
    let patient = ["--client", "sleep 1000", "--timeout=0.05", "--ignore=ran-on"];
    ends(&fuzz(&[&listen[..], &patient].concat()), 0, &["nothing found"]);
}

#[test]
fn what_is_wrong_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    ends(&fuzz(&[&at("none"), "--wait=0"]), 4, &["no such socket"]);
    ends(&fuzz(&[]), 2, &["SOCKET", "--listen"]);
    ends(&fuzz(&[&at("none"), "--only=pci"]), 2, &["it can be framing, fds"]);
    ends(&fuzz(&[&at("none"), "--ignore=pci"]), 2, &["it can be dead, hung"]);
    ends(&fuzz(&[&at("none"), "--client=x"]), 2, &["--listen"]);
    ends(&fuzz(&[&at("none"), "--listen=x"]), 2, &["cannot be used with"]);
    fs::write(at("script"), "connection\nfly").unwrap();
    let replay = format!("--replay={}", at("script"));
    ends(&fuzz(&[&at("none"), &replay]), 2, &["script: line 2: 'fly' is no step"]);
    ends(&fuzz(&["--listen", &at("script")]), 3, &["can't listen at"]);
    assert!(Path::new(&at("script")).exists(), "what is no socket is left alone");
    let output = fuzz(&[&at("s"), "--restart=echo no such device; exit 3", PATIENT]);
    ends(&output, 1, &["it ended with exit code 3: no such device"]);
}

#[test]
fn help_names_what_is_looked_for() {
    let output = fuzz(&["--help"]);
    let needles = ["--restart", "descriptor-leak", "somebody's memory", "--replay", "Exit codes:"];
    ends(&output, 0, &needles);
}
