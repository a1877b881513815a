//! The sample programs: they compile as C11 and C++17, and do what they say, also where their memory is watched.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::{Language, crate_dir, files, library_dir, run, said, scratch, skip, tool};
use vfu::{Client, Limits};
use vfu_testkit::Vmm;

/// For what has to happen, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a sample is built and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Nothing(Language),
    Valgrind,
    AddressSanitizer,
}

fn samples() -> PathBuf {
    crate_dir().join("samples")
}

/// Programs that are being run; they end with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Compiles all samples; none if this machine can't, which has been said.
fn build(watch: Watch, why: &str) -> Option<PathBuf> {
    let language = if let Watch::Nothing(language) = watch { language } else { Language::C11 };
    let dir = scratch(&format!("samples-{why}"));
    for source in files(&samples(), "c") {
        let Some(mut compiler) = language.compiler() else {
            skip(&format!("samples, {watch:?}"), "a compiler");
            return None;
        };
        let name = source.file_stem().expect("a source has a name");
        let program = dir.join(name);
        if watch == Watch::AddressSanitizer {
            compiler.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
        }
        // ASAN's runtime has to be there, which is a package of its own in some distributions.
        let output = compiler
            .arg("-g")
            .arg("-o")
            .arg(&program)
            .arg(&source)
            .args(link())
            .output()
            .expect("a compiler that starts");
        if watch == Watch::AddressSanitizer
            && said(&output).contains("asan")
            && !output.status.success()
        {
            skip("samples under AddressSanitizer", "its library");
            return None;
        }
        assert!(output.status.success(), "{watch:?} {}: {}", source.display(), said(&output));
    }
    if watch == Watch::Valgrind && tool("valgrind").is_none() {
        skip("samples under valgrind", "valgrind");
        return None;
    }
    Some(dir)
}

fn link() -> [String; 4] {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let dir = LIBRARY.get_or_init(library_dir).display().to_string();
    ["-L".to_owned(), dir.clone(), "-lvfio-user".to_owned(), format!("-Wl,-rpath,{dir}")]
}

/// A sample, ready to be started.
fn program(dir: &Path, name: &str, watch: Watch) -> Command {
    let path = dir.join(name);
    let mut command = match watch {
        Watch::Valgrind => {
            let mut command = Command::new("valgrind");
            command.args([
                "-q",
                "--error-exitcode=99",
                "--leak-check=full",
                "--errors-for-leak-kinds=definite,indirect",
            ]);
            command.arg(path);
            command
        }
        _ => Command::new(path),
    };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a server that ends with its first client, and waits until it listens.
fn serve(dir: &Path, name: &str, watch: Watch, socket: &Path) -> Running {
    let server = Running(
        program(dir, name, watch).arg("-1").arg(socket).spawn().expect("the sample starts"),
    );
    let begun = Instant::now();
    while !listens(socket) {
        assert!(begun.elapsed() < PATIENCE, "{name} does not listen");
        std::thread::yield_now();
    }
    server
}

/// A connection would be taken for the client, so the kernel is asked.
fn listens(socket: &Path) -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let name = socket.display().to_string();
    sockets.lines().any(|line| line.ends_with(&format!(" {name}")) && line.contains(" 00010000 "))
}

/// Waits for a server to end, which it must do well.
fn end(mut server: Running) -> Output {
    let child =
        std::mem::replace(&mut server.0, Command::new("true").spawn().expect("true is everywhere"));
    let output = child.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{}: {}", output.status, said(&output));
    output
}

// --- what they do ---------------------------------------------------------------------

fn drive_gpio(vmm: &Vmm) {
    let function = vmm.enumerate().expect("a PCI function");
    assert_eq!((function.vendor, function.device), (0x494f, 0x0dc8));
    let irq = vmm.enable_intx().expect("it has INTx");
    vmm.write8(2, 0, 0x5a).expect("outputs");
    assert_eq!(vmm.read8(2, 1).expect("inputs"), 0x5a);
    assert_eq!(irq.count_now(0).expect("an eventfd"), 0, "interrupts are disabled");
    vmm.read8(2, 2).expect("enable interrupts");
    vmm.write8(2, 4, 0x80).expect("outputs");
    assert_eq!(irq.wait(0).expect("an interrupt"), 1);
    assert_eq!(vmm.read8(2, 6).expect("status"), 0b110);
    assert_eq!(vmm.config_read16(6).expect("status") & 8, 8);
    vmm.unmask_intx().expect("the driver is not done yet");
    assert_eq!(irq.wait(0).expect("an interrupt"), 1, "the pin is still up");
    vmm.write8(2, 1, 0).expect("clear");
    assert_eq!(vmm.read8(2, 6).expect("status"), 0);
    assert_eq!(vmm.config_read16(6).expect("status") & 8, 0);
}

/// Copies once; gives the errno that the device says.
fn copy(vmm: &Vmm, from: u64, to: u64, length: u32, command: u32) -> u32 {
    let before = vmm.read32(0, 0x28).expect("count");
    vmm.write64(0, 0x08, from).expect("source");
    vmm.write64(0, 0x10, to).expect("destination");
    vmm.write32(0, 0x18, length).expect("length");
    if command == 0 {
        return vmm.read32(0, 0x30).expect("a copy");
    }
    vmm.write32(0, 0x20, command).expect("command");
    let begun = Instant::now();
    while vmm.read32(0, 0x28).expect("count") == before {
        assert!(begun.elapsed() < PATIENCE, "the copy does not end");
    }
    vmm.read32(0, 0x2c).expect("result")
}

fn drive_dma(vmm: &Vmm) {
    const EINVAL: u32 = 22;
    const ENOENT: u32 = 2;
    let function = vmm.enumerate().expect("a PCI function");
    assert_eq!((function.vendor, function.device), (0x1234, 0xd3a0));
    assert_eq!(vmm.read32(0, 0).expect("identification"), 0x5646_5544);
    let irq = vmm.enable_intx().expect("it has INTx");
    let shared = vmm.share_ram(0x10_0000, 0x4000).expect("shared memory");
    let messages = vmm.message_ram(0x20_0000, 0x4000).expect("memory by messages");
    let bytes: Vec<u8> = (0..0x1234_u32).map(|i| (i * 31 + i / 256) as u8).collect();
    let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    for (round, command) in [1, 2, 0].into_iter().enumerate() {
        shared.write(0x10_0000, &bytes).expect("written");
        assert_eq!(
            copy(vmm, 0x10_0000, 0x20_0100, bytes.len() as u32, command),
            0,
            "round {round}"
        );
        let there = messages.bytes(0x20_0100, bytes.len()).expect("read");
        assert!(there == inverted, "by messages, command {command}");
        assert_eq!(copy(vmm, 0x20_0100, 0x10_2000, bytes.len() as u32, command), 0);
        assert!(
            shared.bytes(0x10_2000, bytes.len()).expect("read") == bytes,
            "back, command {command}"
        );
    }
    // the two memories touch nothing, so what goes beyond one is nowhere
    assert_eq!(copy(vmm, 0x10_0000, 0x90_0000, 16, 2), ENOENT);
    assert_eq!(copy(vmm, 0x10_0000, 0x10_2000, (1 << 20) + 1, 2), EINVAL);
    assert_eq!(irq.count_now(0).expect("an eventfd"), 0);
    assert_eq!(copy(vmm, 0x10_0000, 0x10_2000, 16, 0x102), 0);
    assert_eq!(irq.wait(0).expect("an interrupt"), 1);
    let _ = messages;
}

fn one_device(dir: &Path, watch: Watch, name: &str, drive: fn(&Vmm)) {
    let sockets = tempfile::tempdir().expect("a folder in /tmp");
    let socket = sockets.path().join(name);
    let server = serve(dir, name, watch, &socket);
    // A client that gives up only when the test has failed: under valgrind nothing is quick.
    let never = Some(PATIENCE);
    let limits = Limits { reply_timeout: never, handshake_timeout: never, ..Limits::default() };
    let client = Client::builder().limits(limits).connect(&socket);
    let vmm = Vmm::over(client.expect("the sample takes a client"));
    drive(&vmm);
    drop(vmm);
    end(server);
}

fn pair(dir: &Path, watch: Watch) {
    let sockets = tempfile::tempdir().expect("a folder in /tmp");
    let (a, b) = (sockets.path().join("a"), sockets.path().join("b"));
    let servers = [serve(dir, "server", watch, &a), serve(dir, "server", watch, &b)];
    let output = run(program(dir, "client", watch).arg(&a).arg(&b));
    let text = said(&output);
    assert!(
        text.contains("moved, with 24 bytes of state\n60000 bytes at 0x200000 add up to "),
        "{text}"
    );
    for server in servers {
        end(server);
    }
}

fn lspci(dir: &Path, watch: Watch) {
    let output = run(&mut program(dir, "lspci", watch));
    let expected = fs::read_to_string(samples().join("lspci.out")).expect("the expected output");
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{watch:?}");
}

/// All of them, in one build.
fn all(watch: Watch, why: &str) {
    let Some(dir) = build(watch, why) else { return };
    one_device(&dir, watch, "gpio", drive_gpio);
    one_device(&dir, watch, "dma", drive_dma);
    lspci(&dir, watch);
    pair(&dir, watch);
}

#[test]
fn samples_work_in_c11() {
    all(Watch::Nothing(Language::C11), "c11");
}

#[test]
fn samples_work_in_cxx17() {
    all(Watch::Nothing(Language::Cxx17), "cxx17");
}

#[test]
fn samples_are_clean_under_valgrind() {
    all(Watch::Valgrind, "valgrind");
}

#[test]
fn samples_are_clean_under_address_sanitizer() {
    all(Watch::AddressSanitizer, "asan");
}

/// A server that is told to end does so and takes its socket with it.
#[test]
fn a_sample_ends_by_a_signal() {
    let watch = Watch::Nothing(Language::C11);
    let Some(dir) = build(watch, "signal") else { return };
    let sockets = tempfile::tempdir().expect("a folder in /tmp");
    let socket = sockets.path().join("gpio");
    let server = serve(&dir, "gpio", watch, &socket);
    let _client = UnixStream::connect(&socket).expect("it listens");
    run(Command::new("kill").arg(server.0.id().to_string()));
    end(server);
    assert!(!socket.exists());
}
