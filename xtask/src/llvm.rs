//! LLVM's tools that read what a compiled program has counted. They have to be at least as new as the
//! compiler's own LLVM.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::toolchain::{field, host, rustc, said};

#[derive(Debug)]
pub(crate) struct Llvm {
    pub(crate) profdata: PathBuf,
    pub(crate) cov: PathBuf,
}

impl Llvm {
    /// Those of a toolchain of rustup, or of the system.
    pub(crate) fn find() -> Result<Llvm> {
        let needed =
            major(&field(&rustc(&["-vV"])?, "LLVM version:").context("rustc has no LLVM")?)
                .context("rustc's LLVM has a version that is no number")?;
        let pairs = candidates(needed)?;
        for (profdata, cov) in &pairs {
            let version = said(Command::new(profdata).arg("--version")).ok();
            let version = version.as_deref().and_then(version_of);
            if version.is_some_and(|version| version >= needed)
                && said(Command::new(cov).arg("--version")).is_ok()
            {
                return Ok(Llvm { profdata: profdata.clone(), cov: cov.clone() });
            }
        }
        bail!(
            "there is no llvm-profdata of LLVM {needed} or newer, which reads what rustc has counted; \
             install it with 'rustup component add llvm-tools' or, on Debian, 'apt-get install \
             llvm-{needed}'"
        )
    }
}

fn candidates(needed: u32) -> Result<Vec<(PathBuf, PathBuf)>> {
    let host = host()?;
    let in_sysroot = |sysroot: &Path| sysroot.join("lib/rustlib").join(&host).join("bin");
    let pair = |folder: PathBuf| (folder.join("llvm-profdata"), folder.join("llvm-cov"));
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
    let mut pairs = vec![pair(in_sysroot(&sysroot))];
    // Toolchains of rustup stand side by side.
    if let Some(entries) = sysroot.parent().and_then(|folder| folder.read_dir().ok()) {
        pairs.extend(entries.flatten().map(|entry| pair(in_sysroot(&entry.path()))));
    }
    for version in needed..needed + 6 {
        let name = |tool: &str| PathBuf::from(format!("{tool}-{version}"));
        pairs.push((name("llvm-profdata"), name("llvm-cov")));
    }
    pairs.push(pair(PathBuf::new()));
    Ok(pairs)
}

/// `22.1.2`, or what follows: `22.1.4-rust-1.97.0-nightly`.
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// What `--version` says, in a line such as `LLVM version 22.1.4` or `Debian LLVM version 14.0.6`.
fn version_of(said: &str) -> Option<u32> {
    said.lines().find_map(|line| major(line.split("LLVM version ").nth(1)?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_understood() {
        assert_eq!(major("22.1.2"), Some(22));
        assert_eq!(version_of("Debian LLVM version 14.0.6\n  Optimized build."), Some(14));
        let rust = "LLVM (http://llvm.org/):\n  LLVM version 22.1.4-rust-1.97.0-nightly";
        assert_eq!(version_of(rust), Some(22));
        assert_eq!(version_of("llvm-profdata: Unknown command!"), None);
    }
}
