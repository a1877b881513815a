//! A QEMU that has `vfio-user-pci`: the machine's own, or Debian's unpacked beside its own libc.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{Apt, BACKPORTS};

/// Change this to have QEMU fetched anew on every machine.
pub const RECIPE: &str = "1";

const PACKAGE: &str = "qemu-system-x86";
const BINARY: &str = "qemu-system-x86_64";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// How to start QEMU.
#[derive(Debug, Clone)]
pub struct Qemu {
    program: PathBuf,
    args: Vec<OsString>,
    modules: Option<PathBuf>,
    /// The first line of `--version`.
    pub version: String,
}

impl Qemu {
    /// The one that `VFU_QEMU` names, or one in PATH that is new enough.
    #[must_use]
    pub fn installed() -> Option<Qemu> {
        let named = env::var_os("VFU_QEMU").map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        let in_path = env::split_paths(&path).map(|dir| dir.join(BINARY)).find(|p| p.is_file());
        let program = named.or(in_path)?;
        Qemu { program, args: vec![], modules: None, version: String::new() }.tried().ok()
    }

    /// The one that [`make`] unpacked into `root`.
    ///
    /// # Errors
    ///
    /// If it does not run here.
    pub fn unpacked(root: &Path) -> Result<Qemu> {
        // Run by its own loader: the machine's libc may be older. Its libraries are found by the
        // path alone, not through the machine's cache.
        let mut args: Vec<OsString> = vec!["--inhibit-cache".into(), "--library-path".into()];
        args.push(root.join(LIBRARIES).into());
        args.push(root.join("usr/bin").join(BINARY).into());
        for dir in ["usr/share/seabios", "usr/share/qemu", "usr/lib/ipxe/qemu"] {
            args.extend(["-L".into(), root.join(dir).into()]);
        }
        let program = root.join(LIBRARIES).join("ld-linux-x86-64.so.2");
        let modules = Some(root.join(LIBRARIES).join("qemu"));
        Qemu { program, args, modules, version: String::new() }.tried()
    }

    /// A command with the options that make it start; add those of the machine.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = crate::process::command(&self.program);
        command.args(&self.args);
        if let Some(modules) = &self.modules {
            command.env("QEMU_MODULE_DIR", modules);
        }
        command
    }

    /// Asks it what it is.
    fn tried(mut self) -> Result<Qemu> {
        let ask = |args: &[&str]| -> Result<String> {
            let output = self.command().args(args).output()?;
            if !output.status.success() {
                let words = String::from_utf8_lossy(&output.stderr).into_owned();
                bail!("{} does not run: {}", self.program.display(), words.trim());
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let version = ask(&["--version"])?.lines().next().unwrap_or_default().to_owned();
        let new = number(&version).is_some_and(|number| number >= (10, 1));
        if !new || !ask(&["-device", "help"])?.contains("\"vfio-user-pci\"") {
            bail!("{version} has no vfio-user-pci");
        }
        self.version = version;
        Ok(self)
    }
}

/// Major and minor number.
fn number(version: &str) -> Option<(u32, u32)> {
    let number = version.split_once("version ")?.1;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Fetches QEMU and all it needs, and unpacks it into `dir`.
///
/// # Errors
///
/// If the packages cannot be had, or what was unpacked does not run.
pub fn make(apt: &Apt, dir: &Path) -> Result<()> {
    // Wanted by scripts that run at an installation, never by QEMU.
    const IDLE: [&str; 6] =
        ["adduser", "base-passwd", "debconf", "login.defs", "openssl-provider-legacy", "passwd"];
    const IDLE_PREFIXES: [&str; 4] = ["libpam-", "libsemanage", "perl", "systemd"];
    let wanted = |name: &str| {
        !IDLE.contains(&name) && !IDLE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let plan = apt.plan(BACKPORTS, &[PACKAGE], wanted)?;
    crate::say(format!("QEMU: fetching {} packages, about 40 MB", plan.len()));
    apt.unpack(&plan, dir)?;
    let qemu = Qemu::unpacked(dir).context("the QEMU of the packages cannot be used")?;
    crate::say(format!("QEMU: {}", qemu.version));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number("QEMU emulator version 11.1.3 (Debian 1:11)"), Some((11, 1)));
        assert_eq!(number("QEMU emulator version 7.2.22"), Some((7, 2)));
        assert_eq!(number("something"), None);
    }
}
