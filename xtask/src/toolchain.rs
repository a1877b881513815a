//! Compilers and their tools: which there are, and what is missing, said aloud.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::build::root;

/// Where builds go.
pub(crate) fn target_folder() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The command cargo, of the toolchain that runs us.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo.current_dir(root());
    cargo
}

/// What `rustc` says, trimmed.
pub(crate) fn rustc(args: &[&str]) -> Result<String> {
    said(Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).args(args))
}

/// What a command says, trimmed.
pub(crate) fn said(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{name} does not start"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}: {}", output.status, complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// This machine, as compilers name it.
pub(crate) fn host() -> Result<String> {
    field(&rustc(&["-vV"])?, "host:").context("rustc -vV names no host")
}

/// The word behind `name` at the beginning of a line.
pub(crate) fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
}

/// The nightly cargo, which rustup has to have.
pub(crate) fn nightly_cargo() -> Result<Command> {
    let mut cargo = Command::new("cargo");
    // Of the toolchain that runs us, and not to be taken for that of the other.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(name);
    }
    let mut probe = Command::new("rustup");
    probe.args(["run", "nightly", "rustc", "--version"]).env_remove("RUSTUP_TOOLCHAIN");
    said(&mut probe).context(
        "the nightly toolchain is missing; install it with 'rustup toolchain install nightly'",
    )?;
    cargo.arg("+nightly").current_dir(root());
    Ok(cargo)
}
