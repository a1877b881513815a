//! A private apt: its own lists, its own cache, and an empty list of installed packages, so that it
//! resolves all dependencies. It takes proxies and passwords from the machine's configuration.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::sources;

/// The release that the guest is made of.
pub const RELEASE: &str = "trixie";
/// Where the newer QEMU is.
pub const BACKPORTS: &str = "trixie-backports";

/// The private apt.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Writes the configuration into `dir` and fetches the lists.
    ///
    /// # Errors
    ///
    /// If the machine has no mirror, or the mirror cannot be reached.
    pub fn new(dir: &Path) -> Result<Apt> {
        for sub in ["sources.d", "preferences.d", "state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let apt = Apt { dir: dir.to_path_buf() };
        fs::write(dir.join("status"), "")?;
        fs::write(dir.join("sources.list"), source_list(&sources::mirror()?))?;
        fs::write(dir.join("apt.conf"), apt.configuration())?;
        apt.run(apt.get().arg("update").current_dir(dir))?;
        Ok(apt)
    }

    /// What differs from the machine's own configuration. Hooks of the machine are not run: they
    /// may touch the machine's own cache.
    fn configuration(&self) -> String {
        let mut text = String::from(
            "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n#clear APT::Architectures;\n\
             #clear APT::Default-Release;\n\
             APT::Architecture \"amd64\";\nAPT::Architectures { \"amd64\"; };\n\
             APT::Install-Recommends \"0\";\nAPT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled \"false\";\n\
             Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n\
             Dir::Cache::pkgcache \"pkgcache.bin\";\nDir::Cache::srcpkgcache \"srcpkgcache.bin\";\n",
        );
        for (key, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "sources.d"),
            ("Dir::Etc::preferences", "preferences"),
            ("Dir::Etc::preferencesparts", "preferences.d"),
            ("Dir::State", "state"),
            ("Dir::State::lists", "state/lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
            ("Dir::Cache::archives", "cache/archives"),
        ] {
            let _ = writeln!(text, "{key} \"{}\";", self.dir.join(path).display());
        }
        text
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.arg("-q").arg("-c").arg(self.dir.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    /// Runs it; its words go into the error if it fails.
    fn run(&self, command: &mut Command) -> Result<String> {
        let output = command.stdin(Stdio::null()).output().context("cannot run apt-get")?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            let words: Vec<&str> = words.lines().filter(|l| l.starts_with("E: ")).collect();
            bail!("apt-get failed ({}): {}", output.status, words.join("; "));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What an installation of `packages` from `release` on an empty machine consists of:
    /// `name=version`, of those whose names `wanted` accepts.
    ///
    /// # Errors
    ///
    /// If a package or a dependency is not there.
    pub fn plan(
        &self,
        release: &str,
        packages: &[&str],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let mut command = self.get();
        command.args(["install", "-s", "-t", release]).args(packages);
        let output = self.run(&mut command)?;
        let plan = parse_plan(&output).into_iter();
        Ok(plan.filter(|(n, _)| wanted(n)).map(|(n, v)| format!("{n}={v}")).collect())
    }

    /// Fetches packages, as [`Apt::plan`] names them, and unpacks them into `root`.
    ///
    /// # Errors
    ///
    /// If one cannot be fetched, checked or unpacked.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let debs = self.dir.join("debs");
        crate::cache::remove(&debs)?;
        fs::create_dir_all(&debs)?;
        self.run(self.get().arg("download").args(packages).current_dir(&debs))?;

        // Debian's packages ship everything below /usr; the old names are links.
        for name in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(root.join("usr").join(name))?;
            let link = root.join(name);
            if !link.exists() {
                std::os::unix::fs::symlink(Path::new("usr").join(name), link)?;
            }
        }
        for entry in fs::read_dir(&debs)? {
            unpack(&entry?.path(), root)?;
        }
        crate::cache::remove(&debs)
    }
}

/// The lines for the private sources.list.
fn source_list(mirror: &str) -> String {
    let keyring = ["debian-archive-keyring.pgp", "debian-archive-keyring.gpg"]
        .map(|name| Path::new("/usr/share/keyrings").join(name))
        .into_iter()
        .find(|path| path.exists());
    // Without that package apt falls back to the keys that the machine trusts for all.
    let signed = keyring.map_or(String::new(), |path| format!("[signed-by={}] ", path.display()));
    [RELEASE, BACKPORTS].map(|suite| format!("deb {signed}{mirror} {suite} main\n")).concat()
}

/// `Inst name (version ...)` lines.
fn parse_plan(text: &str) -> Vec<(&str, &str)> {
    let line = |line| -> Option<(&str, &str)> {
        let (name, rest) = str::strip_prefix(line, "Inst ")?.split_once(' ')?;
        Some((name, rest.strip_prefix('(')?.split([' ', ')']).next()?))
    };
    text.lines().filter_map(line).collect()
}

/// Unpacks one package, without documentation.
fn unpack(deb: &Path, root: &Path) -> Result<()> {
    let mut source = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let stdout = source.stdout.take().context("no output of dpkg-deb")?;
    let tar = Command::new("tar")
        .args(["-x", "--keep-directory-symlink", "--no-same-owner", "-C"])
        .arg(root)
        .args(["doc", "man", "locale", "info"].map(|d| format!("--exclude=./usr/share/{d}")))
        .stdin(stdout)
        .status()
        .context("cannot run tar")?;
    let source = source.wait()?;
    if !tar.success() || !source.success() {
        bail!("cannot unpack {}: dpkg-deb {source}, tar {tar}", deb.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan() {
        let text = "Reading...\nInst libc6 (2.41-12 Debian:13.1/stable [amd64])\n\
                    Inst a [1.0] (2.0 D)\nConf libc6 (2.41-12 D)\nInst b (1:3)\n";
        assert_eq!(parse_plan(text), [("libc6", "2.41-12"), ("b", "1:3")]);
    }
}
