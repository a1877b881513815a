//! `vfu serve` as a user or a script sees it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vfu::client::{Client, ClientError};
use vfu_devices::dmatest::{command, register};
use vfu_testkit::{KitError, Vmm};

fn vfu() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn vfu_with(args: &[&str]) -> Output {
    vfu().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Checks the exit code, and that standard error has all of `needles`.
#[track_caller]
fn fails(output: &Output, code: i32, needles: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for needle in needles {
        assert!(stderr.contains(needle), "no '{needle}' in: {stderr}");
    }
}

/// A server that has said that it listens. Killed at the end, if it has not ended by then.
struct Serving {
    child: Child,
    line: String,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Serving {
    fn start(command: &mut Command) -> Serving {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{line}");
        Serving { child, line, stderr }
    }

    fn at(model: &str, path: &Path) -> Serving {
        Serving::start(vfu().args(["serve", model, "--socket-path"]).arg(path))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; gives the rest of standard error.
    fn end(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A whole VERSION request of a client: version 0.0, no capabilities, id 1.
fn version_request() -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(1u16.to_le_bytes());
    message.extend(1u16.to_le_bytes());
    message.extend(20u32.to_le_bytes());
    message.extend([0; 8]);
    message.extend([0, 0, 1, 0]);
    message
}

/// Whether a server answers VERSION on this socket.
fn answers(stream: &mut UnixStream) {
    stream.write_all(&version_request()).unwrap();
    let mut header = [0; 16];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[..4], [1, 0, 1, 0], "id and command");
    assert_eq!(header[8] & 0xf, 1, "a reply");
    assert_eq!(header[8] & 0x20, 0, "without error");
}

#[test]
fn help_shows_how_to_use_it() {
    let output = vfu_with(&["serve", "--help"]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    for needle in ["vfio-user-pci", "memory-backend-memfd", "share=on", "SIGTERM", "--dma-mask"] {
        assert!(help.contains(needle), "no '{needle}' in: {help}");
    }
    let output = vfu_with(&["--help"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("Exit codes:"));
}

#[test]
fn devices_are_listed() {
    let output = vfu_with(&["serve", "--list"]);
    assert!(output.status.success());
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert!(lines.is_sorted(), "{lines:?}");
    for device in [
        "bartest  1234:ba48  ",
        "dmatest  1234:d3a0  ",
        "edu      1234:11e8  ",
        "idio16   494f:0dc8  ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(device)), "{device} in {lines:?}");
    }
}

#[test]
fn completions_know_the_devices() {
    for shell in ["bash", "zsh"] {
        let output = vfu_with(&["completions", shell]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("idio16"), "{shell}");
    }
}

#[test]
fn it_spins_if_told_to() {
    let folder = tempfile::tempdir().unwrap();
    for spin in ["auto", "off", "1", "100"] {
        let path = folder.path().join(spin);
        let mut command = vfu();
        let _serving = Serving::start(
            command.args(["serve", "edu", "--spin", spin, "--socket-path"]).arg(&path),
        );
        let vmm = Vmm::connect(&path).unwrap();
        for _ in 0..100 {
            assert_eq!(vmm.read32(0, 0).unwrap(), 0x0100_00ed);
        }
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let unknown = vfu_with(&["serve", "edo", "--socket-path", "s"]);
    fails(&unknown, 2, &["'edo'", "possible values: bartest, dmatest, edu"]);
    fails(&vfu_with(&["serve", "edu"]), 2, &["--socket-path", "--fd"]);
    fails(&vfu_with(&["serve", "--socket-path", "s"]), 2, &["<MODEL>"]);
    fails(&vfu_with(&["serve", "edu", "-s", "s", "--fd", "3"]), 2, &["cannot be used with"]);
    fails(&vfu_with(&["serve", "edu", "-s", "s", "--timeout", "-1"]), 2, &["--timeout"]);
    fails(&vfu_with(&["serve", "edu", "-s", "s", "--timeout=soon"]), 2, &["'soon'", "such as 2"]);
    for spin in ["--spin=0", "--spin=101", "--spin=on"] {
        let wrong = vfu_with(&["serve", "edu", "-s", "s", spin]);
        fails(&wrong, 2, &["auto, off, or 1 to 100 microseconds"]);
    }
    let mask = vfu_with(&["serve", "idio16", "-s", "s", "--dma-mask", "1"]);
    fails(&mask, 2, &["--dma-mask", "only edu"]);
    assert!(!Path::new("s").exists());
}

#[test]
fn a_path_that_is_too_long_is_told_with_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x".repeat(120));
    let output = vfu_with(&["serve", "edu", "--socket-path", path.to_str().unwrap()]);
    fails(&output, 3, &["too long", "107", &path.as_os_str().len().to_string()]);
}

#[test]
fn a_missing_folder_is_told_once() {
    let output = vfu_with(&["serve", "edu", "--socket-path", "/nonexistent/socket"]);
    fails(&output, 3, &["/nonexistent/socket", "No such file"]);
    assert_eq!(text(&output.stderr).matches("No such file").count(), 1);
}

#[test]
fn another_kind_of_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "precious").unwrap();
    let output = vfu_with(&["serve", "edu", "--socket-path", path.to_str().unwrap()]);
    fails(&output, 3, &[path.to_str().unwrap(), "not a socket", "another path"]);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_socket_in_use_is_an_error_and_goes_on_to_serve() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let serving = Serving::at("edu", &path);
    assert!(serving.line.contains(path.to_str().unwrap()));
    assert!(serving.line.contains("edu 1234:11e8"));
    let output = vfu_with(&["serve", "idio16", "--socket-path", path.to_str().unwrap()]);
    fails(&output, 3, &[path.to_str().unwrap(), "in use"]);
    answers(&mut UnixStream::connect(&path).unwrap());
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _serving = Serving::at("idio16", &path);
    answers(&mut UnixStream::connect(&path).unwrap());
}

#[test]
fn sigterm_and_sigint_remove_the_socket_and_end_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let serving = Serving::at("edu", &path);
        serving.signal(signal);
        let (status, rest) = serving.end();
        assert_eq!(status.code(), Some(0), "{rest}");
        assert!(!path.exists());
        assert_eq!(rest, "");
    }
}

#[test]
fn sigterm_ends_a_session_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let serving = Serving::at("edu", &path);
    let mut client = UnixStream::connect(&path).unwrap();
    answers(&mut client);
    serving.signal(Signal::TERM);
    let (status, rest) = serving.end();
    assert_eq!(status.code(), Some(0), "{rest}");
    assert!(!path.exists());
    // What is left of the reply to VERSION, then the end.
    client.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn clients_come_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let _serving = Serving::at("edu", &path);
    for _ in 0..3 {
        answers(&mut UnixStream::connect(&path).unwrap());
    }
    // One that talks nonsense does not end the server.
    let mut confused = UnixStream::connect(&path).unwrap();
    confused.write_all(&[0xff; 64]).unwrap();
    drop(confused);
    answers(&mut UnixStream::connect(&path).unwrap());
}

#[test]
fn wrong_descriptors_are_refused() {
    fails(&vfu_with(&["serve", "edu", "--fd", "1"]), 3, &["--fd 1", "standard streams"]);
    fails(&vfu_with(&["serve", "edu", "--fd", "999"]), 3, &["--fd 999", "keep it open over exec"]);
}

/// Starts `vfu serve edu --fd 3` with this descriptor as number 3: a shell can hand over any.
fn with_fd(socket: impl AsFd, redirect: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    let script = format!("exec \"$0\" serve edu --fd 3 3{redirect}&0");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_vfu")]).env_remove("RUST_LOG");
    shell.stdin(Stdio::from(socket.as_fd().try_clone_to_owned().unwrap()));
    shell
}

#[test]
fn a_listening_socket_is_taken_over_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = Serving::start(&mut with_fd(&listener, "<"));
    assert!(serving.line.contains("descriptor 3"));
    for _ in 0..2 {
        answers(&mut UnixStream::connect(&path).unwrap());
    }
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().0.code(), Some(0));
    assert!(path.exists(), "it was not ours to remove");
}

#[test]
fn a_connected_socket_is_served_until_it_closes() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let serving = Serving::start(&mut with_fd(&theirs, "<"));
    drop(theirs);
    answers(&mut ours);
    drop(ours);
    let (status, rest) = serving.end();
    assert_eq!(status.code(), Some(0), "{rest}");
}

#[test]
fn a_descriptor_that_is_no_unix_socket_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let output = with_fd(&file, "<").output().unwrap();
    fails(&output, 3, &["--fd 3", "not a UNIX stream socket"]);
}

#[test]
fn dmatest_copies_for_a_client() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dma.sock");
    let serving = Serving::at("dmatest", &path);
    assert!(serving.line.contains("(dmatest 1234:d3a0)"), "{}", serving.line);
    // It keeps its state from one client to the next.
    for (twin, copies) in [(false, 1), (true, 2)] {
        let client = Client::builder().twin_socket(twin).connect(&path).unwrap();
        let vmm = Vmm::over(client);
        vmm.enumerate().unwrap();
        let ram = vmm.message_ram(0x10_0000, 0x2000).unwrap();
        let bytes: Vec<u8> = (0..4096u32).map(|i| (i % 251) as u8).collect();
        ram.store(0x10_0000, &bytes).unwrap();
        vmm.write64(0, register::SOURCE, 0x10_0000).unwrap();
        vmm.write64(0, register::DESTINATION, 0x10_1000).unwrap();
        vmm.write32(0, register::LENGTH, 4096).unwrap();
        // Inside the handler: it has ended before the client has its answer.
        vmm.write32(0, register::COMMAND, command::IN_HANDLER).unwrap();
        assert_eq!(vmm.read32(0, register::COUNT).unwrap(), copies);
        assert_eq!(vmm.read32(0, register::ERRNO).unwrap(), 0);
        let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        assert_eq!(ram.bytes(0x10_1000, 4096).unwrap(), inverted);
    }
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().0.code(), Some(0));
}

#[test]
fn a_device_can_have_a_rom() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path().join("s"), folder.path().join("rom"));
    let mut image = vec![0; 1024];
    image[..3].copy_from_slice(&[0x55, 0xaa, 2]);
    fs::write(&file, &image).unwrap();
    let mut command = vfu();
    command.args(["serve", "edu", "--socket-path"]).arg(&path).arg("--rom").arg(&file);
    let _serving = Serving::start(&mut command);
    let vmm = Vmm::connect(&path).unwrap();
    let mut rom = vec![0; 2048];
    vmm.client().region_read(6, 0, &mut rom).unwrap();
    assert_eq!(rom[..1024], image);
    assert!(rom[1024..].iter().all(|byte| *byte == 0xff));
}

#[test]
fn a_rom_that_can_not_be_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path().join("s"), folder.path().join("rom"));
    let serve = || {
        vfu().args(["serve", "edu", "--socket-path"]).arg(&path).arg("--rom").arg(&file).output()
    };
    fails(&serve().unwrap(), 2, &["--rom", "No such file"]);
    fs::write(&file, []).unwrap();
    fails(&serve().unwrap(), 2, &["--rom", "is empty"]);
    fs::write(&file, [0x55, 0xaa, 8]).unwrap();
    fails(&serve().unwrap(), 2, &["--rom", "0x3 bytes", "0x1000", "cut short"]);
    fs::File::create(&file).unwrap().set_len((16 << 20) + 1).unwrap();
    fails(&serve().unwrap(), 2, &["--rom", "more than 16 MiB"]);
    assert!(!path.exists(), "nothing was begun");
}

#[test]
fn what_a_driver_wanted_and_the_device_has_not_is_said_when_it_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let serving = Serving::start(vfu().args(["serve", "edu", "-v", "--socket-path"]).arg(&path));
    let vmm = Vmm::connect(&path).unwrap();
    for _ in 0..2 {
        assert_eq!(vmm.read32(0, 0x40).unwrap(), u32::MAX);
    }
    vmm.write16(0, 0x04, 1).unwrap();
    drop(vmm);
    drop(Vmm::connect(&path).unwrap()); // the first one's end has been seen to
    serving.signal(Signal::TERM);
    let (_, rest) = serving.end();
    for line in [
        "edu: not covered: read of 4 bytes at 0x40, 2 times: no register is there",
        "edu: not covered: write of 2 bytes at 0x4, 1 time: the register has another width",
    ] {
        assert_eq!(rest.matches(line).count(), 1, "{rest}");
    }
}

/// A client can make a server log: that is not to end it.
#[test]
fn a_server_whose_log_nobody_reads_any_more_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut command = vfu();
    command.args(["serve", "edu", "--socket-path"]).arg(&path).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let vmm = Vmm::connect(&path).unwrap();
    vmm.enumerate().unwrap();
    // From RAM to behind the end of the buffer: that is a warning.
    for (register, value) in [(0x80, 0), (0x88, 0x40000), (0x90, 8192), (0x98, 1)] {
        vmm.write64(0, register, value).unwrap();
    }
    drop(vmm);
    Vmm::connect(&path).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A client that cuts its memory off.
#[test]
fn a_policy_for_the_memory_of_clients() {
    let folder = tempfile::tempdir().unwrap();
    for policy in ["trusting", "guarded", "copying", "sealed"] {
        let path = folder.path().join(policy);
        let mut command = vfu();
        command.args(["serve", "dmatest", "--memory", policy, "--socket-path"]).arg(&path);
        let serving = Serving::start(&mut command);
        let vmm = Vmm::connect(&path).unwrap();
        vmm.enumerate().unwrap();
        let ram = vmm.share_ram(0x10_0000, 0x4000);
        if policy == "sealed" {
            assert!(matches!(ram, Err(KitError::Client(ClientError::Refused { .. }))), "{ram:?}");
            serving.signal(Signal::TERM);
            let (_, rest) = serving.end();
            assert!(rest.contains("not sealed against shrinking (F_SEAL_SHRINK)"), "{rest}");
            continue;
        }
        let ram = ram.unwrap();
        vmm.write64(0, register::SOURCE, 0x10_0000).unwrap();
        vmm.write64(0, register::DESTINATION, 0x10_2000).unwrap();
        vmm.write32(0, register::LENGTH, 4096).unwrap();
        vmm.write32(0, register::COMMAND, command::IN_HANDLER).unwrap();
        assert_eq!(vmm.read32(0, register::ERRNO).unwrap(), 0);
        ram.truncate(0).unwrap();
        let copied = vmm.write32(0, register::COMMAND, command::IN_HANDLER);
        if policy == "trusting" {
            copied.unwrap_err();
            assert_eq!(serving.end().0.signal(), Some(Signal::BUS.as_raw()));
            continue;
        }
        copied.unwrap();
        assert_eq!(vmm.read32(0, register::ERRNO).unwrap(), 14, "EFAULT");
        // Served on, this client and the next.
        drop(vmm);
        Vmm::connect(&path).unwrap().enumerate().unwrap();
        serving.signal(Signal::TERM);
        assert_eq!(serving.end().0.code(), Some(0));
    }
    fails(&vfu_with(&["serve", "edu", "-s", "s", "--memory", "x"]), 2, &["'x'", "copying, sealed"]);
}

/// How many seccomp filters the process has.
fn filters(serving: &Serving) -> u32 {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn it_enters_its_sandbox_unless_told_not_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let outside = Serving::start(vfu().args(["serve", "edu", "--sandbox=off", "-s"]).arg(&path));
    let before = filters(&outside);
    drop(outside);
    assert_eq!(filters(&Serving::at("edu", &path)), before + 2);
    let wrong = vfu_with(&["serve", "edu", "-s", "s", "--sandbox=maybe"]);
    fails(&wrong, 2, &["'maybe'", "possible values: auto, on, off"]);
}

#[test]
fn the_socket_of_a_sandbox_goes_even_if_the_server_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let serving = Serving::at("edu", &path);
    serving.signal(Signal::KILL);
    serving.end();
    let never = Instant::now() + Duration::from_secs(60);
    while path.exists() {
        assert!(Instant::now() < never, "the socket is still there");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_socket_that_replaced_the_one_of_a_sandbox_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let serving = Serving::at("edu", &path);
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    serving.signal(Signal::TERM);
    assert!(serving.end().0.success());
    assert!(path.exists());
}
