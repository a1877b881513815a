//! Tests under a watch: Miri for what is pure, ThreadSanitizer and AddressSanitizer for where threads meet.

mod steps;

use std::env;
use std::fmt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use self::steps::Step;
use crate::toolchain::{nightly_cargo, said};

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
    /// Data races, where threads of vfu meet (needs the component rust-src)
    Thread,
    /// Memory used after it was freed or beyond its end, or that is never freed, in the same tests
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

/// A line of the table at the end.
struct Line {
    kind: Kind,
    step: &'static str,
    outcome: Outcome,
    took: Duration,
}

impl Sanitize {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let chosen = if self.kinds.is_empty() { &KINDS[..] } else { &self.kinds };
        let mut lines = Vec::new();
        for &kind in chosen {
            lines.extend(kind.run()?);
        }
        println!();
        for Line { kind, step, outcome, took } in &lines {
            println!("{:8} {step:18} {:6} s  {outcome}", kind.name(), took.as_secs());
        }
        let is_ci = env::var_os("CI").is_some_and(|ci| ci == "true");
        let failed = lines.iter().any(|line| line.outcome.fails(is_ci));
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Clean => f.write_str("clean"),
            Outcome::Found => f.write_str("FAILED, see above"),
            Outcome::Skipped(why) => write!(f, "SKIPPED: {why}"),
        }
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

    fn run(self) -> Result<Vec<Line>> {
        let skipped = |why| {
            eprintln!("xtask: {}: skipped: {why}", self.name());
            let outcome = Outcome::Skipped(why);
            Ok(vec![Line { kind: self, step: "", outcome, took: Duration::ZERO }])
        };
        let cargo = match nightly_cargo() {
            Ok(cargo) => cargo,
            Err(why) => return skipped(format!("{why:#}")),
        };
        if let Some(component) = self.missing() {
            return skipped(format!(
                "nightly's component {component} is missing; install it with 'rustup component add \
                 --toolchain nightly {component}'"
            ));
        }
        let mut lines = Vec::new();
        for Step { name, mut command } in steps::of(self, &cargo)? {
            eprintln!("xtask: {}: {name}: {command:?}", self.name());
            let begun = Instant::now();
            let clean = command.status().context("cargo does not start")?.success();
            let outcome = if clean { Outcome::Clean } else { Outcome::Found };
            lines.push(Line { kind: self, step: name, outcome, took: begun.elapsed() });
        }
        Ok(lines)
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
                (!Path::new(&source).exists()).then_some("rust-src")
            }
            Kind::Address => None,
        }
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
