//! The folder that holds what was fetched and made: `~/.cache/vfu-guest`, or `VFU_GUEST_CACHE`.
//!
//! Each thing in it is a folder that was made whole elsewhere and then renamed, with a stamp that
//! says by which recipe. So an interrupted run leaves nothing that looks finished, and a changed
//! recipe makes the thing anew.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::say;

const STAMP: &str = ".recipe";

/// The cache folder.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
}

/// Held while something is being made. Released when dropped, and when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Cache {
    /// Finds the folder, and creates it if it is not there.
    ///
    /// # Errors
    ///
    /// If no environment variable tells where, or the folder cannot be created.
    pub fn open() -> Result<Cache> {
        let variable = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = variable("VFU_GUEST_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|p| p.join("vfu-guest")))
            .or_else(|| variable("HOME").map(|p| p.join(".cache/vfu-guest")))
            .context("set VFU_GUEST_CACHE, XDG_CACHE_HOME or HOME to a folder for the cache")?;
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        Ok(Cache { root: root.canonicalize()? })
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Waits until no other run is making anything here.
    ///
    /// # Errors
    ///
    /// If the lock file cannot be opened.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.root.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            say(format!("waiting for another run (lock {})", path.display()));
            flock(&file, FlockOperation::LockExclusive)?;
        }
        Ok(Lock { _file: file })
    }

    /// The folder `name`, if it was made whole by this `recipe`.
    #[must_use]
    pub fn ready(&self, name: &str, recipe: &str) -> Option<PathBuf> {
        let dir = self.root.join(name);
        let stamp = fs::read_to_string(dir.join(STAMP)).ok()?;
        (stamp == recipe).then_some(dir)
    }

    /// The folder `name`; `make` fills it, in a place aside, unless that was done already.
    ///
    /// # Errors
    ///
    /// What `make` returns, and failures to write.
    pub fn make(
        &self,
        _lock: &Lock,
        name: &str,
        recipe: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        if let Some(dir) = self.ready(name, recipe) {
            return Ok(dir);
        }
        let (dir, aside) = (self.root.join(name), self.root.join(format!("{name}.new")));
        remove(&aside)?;
        fs::create_dir_all(&aside)?;
        make(&aside)?;
        fs::write(aside.join(STAMP), recipe)?;
        remove(&dir)?;
        fs::rename(&aside, &dir)?;
        Ok(dir)
    }
}

/// Removes a folder and all in it, if it is there.
///
/// # Errors
///
/// If it is there and cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_path_buf();
        (dir, Cache { root })
    }

    #[test]
    fn made_once_and_again_when_the_recipe_changes() {
        let (_dir, cache) = cache();
        let lock = cache.lock().unwrap();
        let make = |recipe, content: &str| {
            let made = cache
                .make(&lock, "thing", recipe, |d| Ok(fs::write(d.join("file"), content)?))
                .unwrap();
            fs::read_to_string(made.join("file")).unwrap()
        };
        assert_eq!(make("1", "first"), "first");
        assert_eq!(make("1", "second"), "first");
        assert_eq!(make("2", "third"), "third");
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let (_dir, cache) = cache();
        let lock = cache.lock().unwrap();
        cache.make(&lock, "thing", "1", |_| Ok(())).unwrap();
        cache.make(&lock, "thing", "2", |_| anyhow::bail!("no")).unwrap_err();
        assert!(cache.ready("thing", "1").is_some());
        assert!(cache.ready("thing", "2").is_none());
    }
}
