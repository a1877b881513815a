//! The process that is attacked. It is this test binary, started once more.

mod c;
mod rust;

pub(crate) use c::listen;

use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The interface that the device is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// `vfu::Server`.
    Rust,
    /// `libvfio-user.h`.
    C,
}

impl Language {
    pub(crate) const ALL: [Language; 2] = [Language::Rust, Language::C];
    pub(crate) const TARGET: &str = "VFU_HOSTILE_TARGET";
    pub(crate) const SOCKET: &str = "VFU_HOSTILE_SOCKET";
    /// Limits that are not the default: `name=number`, separated by spaces.
    pub(crate) const SETTINGS: &str = "VFU_HOSTILE_SETTINGS";
}

/// A server of the device at a socket, until [`wait_for_the_end`] returns.
trait Target {
    fn serve(&self, path: &Path, settings: &Settings);
}

/// What of the limits is not the default.
struct Settings(String);

impl Settings {
    fn number(&self, name: &str) -> Option<u64> {
        let words = self.0.split(' ').filter_map(|word| word.split_once('='));
        let mut found = words.filter(|(key, _)| *key == name);
        found.next().map(|(_, value)| value.parse().expect("a number"))
    }
}

/// Returns when the test has closed its end: the process is to end.
fn wait_for_the_end() {
    let _closed = std::io::stdin().read(&mut [0]);
}

/// Not a test when it is run as one.
#[test]
fn process() {
    let (Ok(target), Some(path)) =
        (std::env::var(Language::TARGET), std::env::var_os(Language::SOCKET))
    else {
        return;
    };
    // A panic of any thread is a defect, which the exit status must tell.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let settings = Settings(std::env::var(Language::SETTINGS).unwrap_or_default());
    if let Some(files) = settings.number("nofile") {
        let limit = rustix::process::Rlimit { current: Some(files), maximum: Some(files) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("fewer");
    }
    let target: &dyn Target = if target == "C" { &c::InC } else { &rust::InRust };
    target.serve(&PathBuf::from(path), &settings);
}
