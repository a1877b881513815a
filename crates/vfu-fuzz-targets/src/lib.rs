//! What is fuzzed: functions that take bytes and panic if something is wrong.
//!
//! Bytes are a script of what happens: what a peer sends, what we ask for, in which order. After each
//! step the target compares what it sees with what has to be. The same functions run in three ways:
//!
//! * `cargo test -p vfu-fuzz-targets` replays the corpus in `fuzz/corpus`, and some blind input;
//! * `cargo xtask fuzz` looks for new input, led by what of the code it reaches;
//! * `cargo run -p vfu-fuzz-targets -- TARGET FILE...` replays single files.
#![forbid(unsafe_code)]

pub mod blind;
mod caps;
mod client;
mod engine;
mod framing;
mod grammar;
mod pci;
mod pipe;
mod saved_state;
mod script;
mod server;
pub mod steps;
mod wire;

/// Something to fuzz.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name, as for `cargo xtask fuzz`.
    pub name: &'static str,
    /// What is tried, in one line.
    pub about: &'static str,
    /// Panics if something is wrong.
    pub run: fn(&[u8]),
}

/// The longest input that is tried, in bytes: a script of some hundred steps.
pub const MAX_LEN: usize = 1024;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "caps", about: caps::ABOUT, run: caps::run },
    Target { name: "client", about: client::ABOUT, run: client::run },
    Target { name: "engine", about: engine::ABOUT, run: engine::run },
    Target { name: "framing", about: framing::ABOUT, run: framing::run },
    Target { name: "pci", about: pci::ABOUT, run: pci::run },
    Target { name: "saved_state", about: saved_state::ABOUT, run: saved_state::run },
    Target { name: "server", about: server::ABOUT, run: server::run },
    Target { name: "wire", about: wire::ABOUT, run: wire::run },
];

/// The target with this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Runs the target with this name.
///
/// # Panics
/// Something is wrong; or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    match target(name) {
        Some(target) => (target.run)(bytes),
        None => panic!("there is no target {name}"),
    }
}
