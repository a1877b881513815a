//! Tests under a watch: Miri for code that is pure, ThreadSanitizer and AddressSanitizer for all.

use std::env;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::toolchain::{self, nightly_cargo, said};

#[derive(Debug, Args)]
pub(crate) struct Sanitize {
    /// What to watch for; without any, all three
    #[arg(value_name = "KIND")]
    kinds: Vec<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// What the language forbids, in vfu-proto and in what of vfu is pure (needs the component miri)
    Miri,
    /// Data races, in the tests of vfu (needs the component rust-src)
    Thread,
    /// Memory used after it was freed or beyond its end, and memory that is never freed
    Address,
}

const KINDS: [Kind; 3] = [Kind::Miri, Kind::Thread, Kind::Address];

/// What came of one kind.
#[derive(Debug, PartialEq)]
enum Outcome {
    Clean,
    Found,
    /// It can't be done on this machine, and why.
    Skipped(String),
}

impl Sanitize {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let chosen = if self.kinds.is_empty() { &KINDS[..] } else { &self.kinds };
        let mut outcomes = Vec::new();
        for &kind in chosen {
            outcomes.push((kind, kind.run()?));
        }
        let is_ci = env::var_os("CI").is_some_and(|ci| ci == "true");
        println!();
        for (kind, outcome) in &outcomes {
            let what = match outcome {
                Outcome::Clean => "clean".into(),
                Outcome::Found => "FOUND SOMETHING, see above".into(),
                Outcome::Skipped(why) => format!("SKIPPED: {why}"),
            };
            println!("{:8} {what}", kind.name());
        }
        let failed = outcomes.iter().any(|(_, outcome)| outcome.fails(is_ci));
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Outcome {
    fn fails(&self, is_ci: bool) -> bool {
        match self {
            Outcome::Clean => false,
            Outcome::Found => true,
            Outcome::Skipped(_) => is_ci,
        }
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Miri => "miri",
            Kind::Thread => "thread",
            Kind::Address => "address",
        }
    }

    fn run(self) -> Result<Outcome> {
        let cargo = match nightly_cargo() {
            Ok(cargo) => cargo,
            Err(why) => return Ok(Outcome::Skipped(format!("{why:#}"))),
        };
        if let Some(component) = self.missing() {
            return Ok(Outcome::Skipped(format!(
                "nightly's component {component} is missing; install it with 'rustup component add \
                 --toolchain nightly {component}'"
            )));
        }
        let mut clean = true;
        for mut command in self.commands(&cargo)? {
            eprintln!("xtask: {}: {command:?}", self.name());
            clean &= command.status().context("cargo does not start")?.success();
        }
        Ok(if clean { Outcome::Clean } else { Outcome::Found })
    }

    /// The component that it needs and nightly does not have.
    fn missing(self) -> Option<&'static str> {
        let nightly = |args: &[&str]| {
            let mut command = Command::new("rustup");
            said(command.args(["run", "nightly"]).args(args).env_remove("RUSTUP_TOOLCHAIN"))
        };
        match self {
            Kind::Miri => nightly(&["miri", "--version"]).is_err().then_some("miri"),
            Kind::Thread => {
                let sysroot = nightly(&["rustc", "--print", "sysroot"]).unwrap_or_default();
                let source = format!("{sysroot}/lib/rustlib/src/rust/library/Cargo.lock");
                (!std::path::Path::new(&source).exists()).then_some("rust-src")
            }
            Kind::Address => None,
        }
    }

    fn commands(self, cargo: &Command) -> Result<Vec<Command>> {
        let new = |args: &[&str]| {
            let mut command = Command::new(cargo.get_program());
            command.args(cargo.get_args()).args(args).current_dir(crate::build::root());
            for (name, value) in cargo.get_envs() {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            // A build of its own, beside the others.
            command.arg("--target-dir").arg(toolchain::target_folder().join(self.name()));
            command.stdin(Stdio::null()).env_remove("CARGO_ENCODED_RUSTFLAGS");
            command
        };
        let host = toolchain::host()?;
        let on_host = |args: &[&str], flags: &str| {
            let mut command = new(args);
            command.args(["--target", &host]).env("RUSTFLAGS", flags);
            command
        };
        Ok(match self {
            Kind::Miri => {
                let slow = |mut command: Command| {
                    // It is some hundred times slower, and knows no file system of its own.
                    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "3");
                    command
                };
                let mut proto = new(&["miri", "test", "-p", "vfu-proto", "--lib"]);
                // The simulation takes a million steps.
                for test in ["session_engine", "session_framer", "wire_checks", "wire_golden"] {
                    proto.args(["--test", test]);
                }
                proto.args(["--test", "wire_roundtrip", "--test", "wire_version"]);
                let mut pure = new(&["miri", "test", "-p", "vfu", "--lib"]);
                pure.args(["--", "pci::", "regmap::", "migration::state", "dma::index"]);
                vec![slow(proto), slow(pure)]
            }
            Kind::Thread => {
                // The standard library too, or its locks are taken for races.
                let args = ["test", "-Zbuild-std", "-p", "vfu", "--lib", "--tests"];
                vec![on_host(&args, "-Zsanitizer=thread")]
            }
            Kind::Address => {
                let args = ["test", "-p", "vfu-proto", "-p", "vfu", "-p", "vfu-devices"];
                let mut command = on_host(&args, "-Zsanitizer=address");
                command.args(["-p", "vfu-fuzz-targets", "--lib", "--tests", "--no-fail-fast"]);
                vec![command]
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_fails_in_ci_alone() {
        let skipped = Outcome::Skipped("no nightly".into());
        assert!(!skipped.fails(false) && skipped.fails(true));
        assert!(Outcome::Found.fails(false) && !Outcome::Clean.fails(true));
    }
}
