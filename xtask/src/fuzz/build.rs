//! Builds the targets: with libFuzzer and what guides it, or for blind input.
//!
//! The flags are those of cargo-fuzz, which is not needed. They are not nightly's, only
//! AddressSanitizer is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::folder;
use crate::toolchain;

/// Has the compiler count what code is reached, and what is compared with what.
const GUIDE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";

/// As `MAX_LEN` of vfu-fuzz-targets.
const MAX_LEN: usize = 1024;

/// The programs that run targets.
#[derive(Debug)]
pub(super) enum Programs {
    /// One for each target, in this folder.
    LibFuzzer(PathBuf),
    /// One for all.
    Blind(PathBuf),
}

impl Programs {
    /// Those with libFuzzer.
    pub(super) fn libfuzzer(address: bool) -> Result<Programs> {
        let host = toolchain::host()?;
        let mut cargo = if address {
            toolchain::nightly_cargo().context("--address")?
        } else {
            toolchain::cargo()
        };
        let (flags, name) = if address {
            (format!("{GUIDE} -Zsanitizer=address"), "fuzz-address")
        } else {
            (GUIDE.to_owned(), "fuzz")
        };
        let target = toolchain::target_folder().join(name);
        // What is given by --target is built with the flags, build scripts are not.
        cargo
            .current_dir(folder())
            .args(["build", "--release", "--target", &host, "--target-dir"])
            .arg(&target)
            .env("RUSTFLAGS", flags)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .stdin(Stdio::null());
        let status = cargo.status().context("cargo does not start")?;
        ensure!(
            status.success(),
            "the targets can't be built with libFuzzer (cargo: {status}); a C++ compiler is needed, \
             and the crate libfuzzer-sys"
        );
        Ok(Programs::LibFuzzer(target.join(host).join("release")))
    }

    /// The one without.
    pub(super) fn blind() -> Result<Programs> {
        let mut cargo = toolchain::cargo();
        cargo.args(["build", "--release", "-p", "vfu-fuzz-targets"]);
        cargo.arg("--target-dir").arg(toolchain::target_folder());
        // What release builds leave out is what has to be seen.
        cargo.env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
        cargo.env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
        let status = cargo.status().context("cargo does not start")?;
        ensure!(status.success(), "the targets can't be built (cargo: {status})");
        Ok(Programs::Blind(toolchain::target_folder().join("release/vfu-fuzz-targets")))
    }

    pub(super) fn how(&self) -> &'static str {
        match self {
            Programs::LibFuzzer(_) => "guided by what code is reached",
            Programs::Blind(_) => "blind",
        }
    }

    /// What runs a target for a time, in seconds.
    pub(super) fn command(&self, target: &str, seconds: u64, artifacts: &Path) -> Result<Command> {
        let seeds = folder().join("corpus").join(target);
        Ok(match self {
            Programs::LibFuzzer(folder) => {
                let found = found(target);
                fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
                let mut command = Command::new(folder.join(target));
                command.args([&found, &seeds]).args([
                    format!("-max_total_time={seconds}"),
                    format!("-max_len={MAX_LEN}"),
                    format!("-artifact_prefix={}/", artifacts.display()),
                    "-timeout=20".into(),
                    "-rss_limit_mb=2048".into(),
                    "-print_final_stats=1".into(),
                ]);
                command
            }
            Programs::Blind(program) => {
                // Other seeds each time.
                let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
                let mut command = Command::new(program);
                command.arg(target).arg(seeds).arg("--artifacts").arg(artifacts);
                command.args(["--blind", &seconds.to_string()]);
                command.args(["--seed", &(now << 32).to_string()]);
                command
            }
        })
    }

    /// Has libFuzzer copy to `small` what is needed to reach all that the corpus and earlier runs reach.
    pub(super) fn merge(&self, target: &str, corpus: &Path, small: &Path) -> Result<()> {
        let Programs::LibFuzzer(programs) = self else {
            bail!("blind input reaches nothing known")
        };
        let found = found(target);
        for folder in [small, &found] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let output = Command::new(programs.join(target))
            .args(["-set_cover_merge=1", "-use_counters=0", &format!("-max_len={MAX_LEN}")])
            .args([small, corpus, &found])
            .output()
            .context("the target does not start")?;
        ensure!(output.status.success(), "merging failed: {}", output.status);
        Ok(())
    }
}

/// Where what was found by this and earlier runs is.
fn found(target: &str) -> PathBuf {
    toolchain::target_folder().join("fuzz/found").join(target)
}
