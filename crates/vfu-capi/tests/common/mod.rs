//! What the tests of the C interface share: compilers, the library under test, and tools that may be missing.
//!
//! `VFU_CAPI_SO=/path/to/libvfio-user.so` puts another library to the test.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::env;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// What programs are compiled with: the warnings are errors.
pub(crate) const WARNINGS: &[&str] = &["-Wall", "-Wextra", "-Werror"];

/// This crate's folder.
pub(crate) fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The headers.
pub(crate) fn include_dir() -> PathBuf {
    crate_dir().join("include")
}

/// A folder of the test's own, emptied.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("cargo's folder for tests can be written");
    dir
}

/// A language that the headers are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// C11, without extensions of the library.
    C11,
    /// C++17.
    Cxx17,
}

impl Language {
    /// The compiler, ready for a file; none if this machine has none.
    pub(crate) fn compiler(self) -> Option<Command> {
        let (variable, default, flags) = match self {
            Self::C11 => ("CC", "cc", ["-x", "c", "-std=c11"]),
            Self::Cxx17 => ("CXX", "c++", ["-x", "c++", "-std=c++17"]),
        };
        let mut command = Command::new(env::var(variable).unwrap_or_else(|_| default.to_owned()));
        if !available(&mut command) {
            return None;
        }
        command.args(flags).args(WARNINGS).arg("-I").arg(include_dir());
        Some(command)
    }
}

/// Whether a tool answers to `--version`; the command is as before.
fn available(command: &mut Command) -> bool {
    Command::new(command.get_program())
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// A tool, if this machine has it.
pub(crate) fn tool(name: &str) -> Option<Command> {
    let mut command = Command::new(name);
    available(&mut command).then_some(command)
}

/// Says that something is not tested here, past the test harness. In continuous integration that is a failure.
pub(crate) fn skip(what: &str, missing: &str) {
    assert!(
        env::var("CI").as_deref() != Ok("true"),
        "{what} cannot run: {missing} is missing, and with CI=true it has to be there"
    );
    let _ = writeln!(std::io::stderr(), "skip: {what}: {missing} is missing");
}

/// A folder in which `libvfio-user.so` and `libvfio-user.so.0` are the library under test.
pub(crate) fn library_dir() -> PathBuf {
    let library = library();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let dir =
        scratch(&format!("lib-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    for name in ["libvfio-user.so", "libvfio-user.so.0"] {
        symlink(&library, dir.join(name)).expect("a link in an empty folder");
    }
    dir
}

/// The shared library under test: cargo builds it with the tests, and puts it beside them.
pub(crate) fn library() -> PathBuf {
    if let Some(path) = env::var_os("VFU_CAPI_SO") {
        return PathBuf::from(path).canonicalize().expect("VFU_CAPI_SO names a library");
    }
    let tests = env::current_exe().expect("a test knows where it is");
    let path = tests.with_file_name("libvfu_capi.so");
    assert!(path.exists(), "{} is not there: cargo builds it with these tests", path.display());
    path
}

/// Whether the library under test is somebody else's.
pub(crate) fn is_foreign() -> bool {
    env::var_os("VFU_CAPI_SO").is_some()
}

/// Runs a command that has to succeed; a failure shows all it said.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said(&output));
    output
}

/// Both streams of a program.
pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The files of a folder with this extension, sorted.
pub(crate) fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("a folder that is there").path())
        .filter(|path| path.extension().is_some_and(|is| is == extension))
        .collect();
    found.sort();
    found
}
