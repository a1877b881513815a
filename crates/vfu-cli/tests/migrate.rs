//! `vfu migrate`, and `vfu serve --incoming`, as a user or a script sees them.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use vfu::migration::{LoadError, Migration};
use vfu::server::Stopper;
use vfu::wire::{DeviceState, Errno};
use vfu::{Access, Bar, Client, Device, Fault, Pci, Server};
use vfu_testkit::{Served, TestServer, Vmm, serve_in_process};

const LIVENESS: u64 = 0x04;

fn vfu(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn migrate(source: &Path, destination: &Path, args: &[&str]) -> Output {
    vfu(&["migrate"]).args([source, destination]).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn good(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn fails(output: &Output, code: i32, needles: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for needle in needles {
        assert!(stderr.contains(needle), "no '{needle}' in: {stderr}");
    }
    assert!(output.stdout.is_empty());
}

/// `vfu serve`, killed at the end.
struct Serving {
    child: Child,
    line: String,
    stderr: BufReader<ChildStderr>,
}

impl Serving {
    fn start(model: &str, path: &Path, args: &[&str]) -> Serving {
        let mut command = vfu(&["serve", model, "--socket-path"]);
        let mut child = command.arg(path).args(args).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{line}");
        Serving { child, line, stderr }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two servers, of which the second waits.
struct Pair {
    a: PathBuf,
    b: PathBuf,
    servers: [Serving; 2],
    _folder: TempDir,
}

fn pair(source: &str, destination: &str) -> Pair {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    let servers =
        [Serving::start(source, &a, &[]), Serving::start(destination, &b, &["--incoming"])];
    Pair { a, b, servers, _folder: folder }
}

fn state(path: &Path) -> DeviceState {
    Client::connect(path).unwrap().device_state().unwrap()
}

#[test]
fn a_device_moves_from_one_process_to_another() {
    let Pair { a, b, servers, _folder } = pair("edu", "edu");
    assert!(servers[1].line.ends_with(", waiting for a state\n"), "{}", servers[1].line);
    let vmm = Vmm::connect(&a).unwrap();
    vmm.write32(0, LIVENESS, 0x1234_5678).unwrap();
    drop(vmm);
    let output = migrate(&a, &b, &[]);
    let stdout = good(&output);
    assert!(stdout.starts_with("moved edu 1234:11e8 from "), "{stdout}");
    for needle in ["state ", "downtime ", "total ", " ms"] {
        assert!(stdout.contains(needle), "no '{needle}' in: {stdout}");
    }
    let steps = ["preparing", "stopping the source", "loading", "starting", "done"];
    let stderr = text(&output.stderr);
    let mut lines = stderr.lines();
    for step in steps {
        assert!(lines.any(|line| line.starts_with(step)), "no line '{step}' in order: {stderr}");
    }
    let vmm = Vmm::connect(&b).unwrap();
    assert_eq!(vmm.read32(0, LIVENESS).unwrap(), !0x1234_5678);
    drop(vmm);
    // Moved away, it does not run; and says so.
    let again = migrate(&a, &b, &[]);
    fails(&again, 1, &["at the source; nothing was changed: it is stopped", "reset"]);
    // And back, over what is there.
    good(&migrate(&b, &a, &[]));
    assert_eq!(Vmm::connect(&a).unwrap().read32(0, LIVENESS).unwrap(), !0x1234_5678);
    assert_eq!((state(&a), state(&b)), (DeviceState::Running, DeviceState::Stop));
}

#[test]
fn no_access_is_lost_while_threads_hammer_the_registers() {
    for (model, hammer) in [("edu", "--hammer"), ("dmatest", "--hammer"), ("edu", "--hammer=9")] {
        let Pair { a, b, servers: _servers, _folder } = pair(model, model);
        let output = migrate(&a, &b, &["--json", hammer]);
        let report: Value = serde_json::from_str(good(&output)).unwrap();
        assert_eq!(report["format"], 1);
        assert_eq!(report["source"], a.to_str().unwrap());
        assert!(report["state_bytes"].as_u64().unwrap() > 100);
        let downtime = report["downtime_seconds"].as_f64().unwrap();
        assert!(downtime > 0.0 && downtime < report["total_seconds"].as_f64().unwrap());
        // edu sends its buffer ahead.
        let (rounds, early) = (&report["rounds"], report["early_bytes"].as_u64().unwrap());
        assert_eq!((rounds != 0, early > 4096), (model == "edu", model == "edu"), "{report}");
        let figures = &report["hammer"];
        let threads = if hammer == "--hammer" { 4 } else { 9 };
        assert_eq!((&figures["device"], &figures["threads"]), (&model.into(), &threads.into()));
        for figure in ["accesses_before", "accesses_after", "events"] {
            let least = 100 * threads; // rounds, each with several accesses and one event
            assert!(figures[figure].as_u64().unwrap() >= least, "{figures}");
        }
    }
    let Pair { a, b, servers: _servers, _folder } = pair("edu", "edu");
    let output = migrate(&a, &b, &["--hammer=1"]);
    assert!(good(&output).contains("none lost"));
    let Pair { a, b, servers: _servers, _folder } = pair("idio16", "idio16");
    fails(&migrate(&a, &b, &["--hammer"]), 2, &["edu and dmatest", "494f:0dc8"]);
    assert_eq!((state(&a), state(&b)), (DeviceState::Running, DeviceState::Resuming));
}

#[test]
fn a_device_that_waits_goes_on_to_wait_after_a_look_at_it() {
    let Pair { a, b, servers: _servers, _folder } = pair("idio16", "idio16");
    let probe = vfu(&["probe"]).arg(&b).output().unwrap();
    assert!(good(&probe).contains("can be moved       STOP_COPY; RESUMING"), "{}", good(&probe));
    assert_eq!(state(&b), DeviceState::Resuming);
    let mut read = [0];
    let client = Client::connect(&b).unwrap();
    client.region_write(2, 0, &[0x5a]).unwrap();
    client.region_read(2, 0, &mut read).unwrap();
    assert_eq!(read, [0xff]);
    drop(client);
    Client::connect(&a).unwrap().region_write(2, 0, &[0x77]).unwrap();
    good(&migrate(&a, &b, &[]));
    Client::connect(&b).unwrap().region_read(2, 0, &mut read).unwrap();
    assert_eq!(read, [0x77]);
}

#[test]
fn wrong_ends_are_told() {
    let Pair { a, b, mut servers, _folder } = pair("edu", "idio16");
    let same = migrate(&a, &a, &[]);
    fails(&same, 2, &["are the same socket", "--incoming"]);
    let link = a.with_file_name("link");
    std::os::unix::fs::symlink(&a, &link).unwrap();
    fails(&migrate(&a, &link, &[]), 2, &["are the same socket"]);
    let missing = a.with_file_name("missing");
    fails(&migrate(&missing, &b, &["--wait=0"]), 4, &["missing: no such socket"]);
    fails(&migrate(&a, &missing, &["--wait=0"]), 4, &["missing: no such socket"]);
    let other = migrate(&a, &b, &[]);
    fails(
        &other,
        1,
        &["at the destination", "another device: 494f:0dc8", "the source is 1234:11e8"],
    );
    let backwards = migrate(&b, &a, &[]);
    fails(&backwards, 1, &["another device"]);
    assert_eq!((state(&a), state(&b)), (DeviceState::Running, DeviceState::Resuming));
    // One that somebody uses.
    let user = Client::connect(&b).unwrap();
    let busy = migrate(&a, &b, &["--timeout=0.3"]);
    fails(&busy, 4, &[b.to_str().unwrap(), "may be serving another client"]);
    drop(user);
    assert!(servers[0].child.try_wait().unwrap().is_none());
    // One that can't.
    let fixed = TestServer::start();
    fails(&migrate(fixed.path(), &a, &[]), 1, &["at the source", "can't be moved"]);
    fails(&migrate(&a, fixed.path(), &[]), 1, &["at the destination", "can't be moved"]);
}

#[test]
fn wrong_usage_ends_with_2() {
    fails(&vfu(&["migrate", "a"]).output().unwrap(), 2, &["<DESTINATION>"]);
    fails(&vfu(&["migrate", "a", "b", "--hammer=17"]).output().unwrap(), 2, &["17", "1..=16"]);
    fails(&vfu(&["migrate", "a", "b", "--downtime-limit=x"]).output().unwrap(), 2, &["seconds"]);
    let help = vfu(&["migrate", "--help"]).output().unwrap();
    for needle in ["--incoming", "PRE_COPY", "--hammer", "--max-rounds", "downtime_seconds"] {
        assert!(text(&help.stdout).contains(needle), "no '{needle}' in the help");
    }
    let completions = vfu(&["completions", "bash"]).output().unwrap();
    assert!(text(&completions.stdout).contains("--downtime-limit"));
}

/// A device that does something else when it is saved, and refuses what it is given.
struct Bad {
    on_save: Box<dyn FnMut() + Send>,
}

impl Device for Bad {
    fn region_read(&mut self, _: Access, _: &mut [u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn region_write(&mut self, _: Access, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }
}

impl Migration for Bad {
    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        (self.on_save)();
        Ok(vec![1; 3])
    }

    fn load(&mut self, _: u32, _: &[u8]) -> Result<(), LoadError> {
        Err(LoadError("no".into()))
    }
}

fn bad(on_save: impl FnMut() + Send + 'static) -> Served<Bad> {
    let pci = Pci::endpoint(0x1234, 0x9999).bar(0, Bar::mem32(4096));
    serve_in_process(Server::builder(pci), |_| Bad { on_save: Box::new(on_save) }).unwrap()
}

#[test]
fn a_destination_that_refuses_leaves_the_source_running() {
    let (source, destination) = (bad(|| {}), bad(|| {}));
    let output = migrate(source.path(), destination.path(), &[]);
    let needles = ["loading the state failed at the destination", "goes on at the source", "log"];
    fails(&output, 1, &needles);
    assert_eq!(state(source.path()), DeviceState::Running);
    // The real ones say why in their own log.
    let Pair { a, b, servers: _servers, _folder } = pair("edu", "edu");
    let folder = b.parent().unwrap();
    let masked = folder.join("c");
    let mut other = Serving::start("edu", &masked, &["--incoming", "--dma-mask=0xffff"]);
    let refused = migrate(&a, &masked, &[]);
    fails(&refused, 1, &["loading the state failed at the destination", "log"]);
    let mut line = String::new();
    other.stderr.read_line(&mut line).unwrap();
    assert!(line.contains("DMA mask 0xfffffff, here it is 0xffff"), "{line}");
    good(&migrate(&a, &b, &[]));
}

#[test]
fn a_source_that_dies_midway_is_told_and_the_destination_reset() {
    let stopper: Arc<OnceLock<Stopper>> = Arc::default();
    let of_device = stopper.clone();
    let source = bad(move || of_device.get().unwrap().stop());
    stopper.set(source.stopper().clone()).unwrap();
    let destination = bad(|| {});
    let output = migrate(source.path(), destination.path(), &[]);
    let needles = ["failed at the source", "does not go on at the source", "session has ended"];
    fails(&output, 4, &needles);
    assert_eq!(state(destination.path()), DeviceState::Running, "as after power-on");
}

#[test]
fn a_signal_cancels_and_the_source_goes_on() {
    for signal in [Signal::INT, Signal::TERM] {
        let (saving, is_saving) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let source = bad(move || {
            saving.send(()).unwrap();
            may_go_on.recv().unwrap();
        });
        let destination = bad(|| {});
        let mut command = vfu(&["migrate"]);
        command.args([source.path(), destination.path()]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        is_saving.recv().unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        go_on.send(()).unwrap();
        let output = child.wait_with_output().unwrap();
        fails(&output, 1, &["at neither end", "goes on at the source", "canceled"]);
        assert_eq!(state(source.path()), DeviceState::Running);
    }
}

#[test]
fn a_connected_socket_can_wait_for_a_state_too() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut shell = Command::new("/bin/sh");
    let script = "exec \"$0\" serve edu --incoming --fd 3 3<&0";
    shell.args(["-c", script, env!("CARGO_BIN_EXE_vfu")]).env_remove("RUST_LOG");
    shell.stdin(Stdio::from(theirs.as_fd().try_clone_to_owned().unwrap()));
    let mut child = shell.stderr(Stdio::null()).spawn().unwrap();
    drop(theirs);
    let client = Client::builder().connect_fd(ours.into()).unwrap();
    assert_eq!(client.device_state().unwrap(), DeviceState::Resuming);
    drop(client);
    assert!(child.wait().unwrap().success());
}
