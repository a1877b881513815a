//! `cargo xtask endurance`: the endurance tests with all their rounds.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

/// The tests, of which each is named by its file.
const TESTS: [&str; 4] = ["connects", "killed", "exhausted", "clocks"];

#[derive(Debug, clap::Args)]
pub(crate) struct Endurance {
    /// Run only these
    #[arg(value_parser = TESTS)]
    tests: Vec<String>,
}

impl Endurance {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let tests =
            if self.tests.is_empty() { TESTS.map(String::from).to_vec() } else { self.tests };
        for test in tests {
            let began = Instant::now();
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let status = Command::new(cargo)
                .args(["test", "--quiet", "--package", "vfu", "--test", "endurance", "--"])
                .arg(format!("{test}::"))
                .arg("--test-threads=1")
                .env("VFU_ENDURANCE", "full")
                .status()
                .context("can't start cargo")?;
            if !status.success() {
                bail!("{test}: failed after {:.0} s", began.elapsed().as_secs_f64());
            }
            println!("{test}: passed, all rounds, in {:.0} s", began.elapsed().as_secs_f64());
        }
        Ok(())
    }
}
