//! Puts the C library where compilers and programs find it, and takes it away again.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::build::{self, Built};
use crate::layout::{Content, Folders, Item};

#[derive(Debug, Args)]
pub(crate) struct Install {
    #[command(flatten)]
    folders: Folders,
    /// Install the optimised build (the default)
    #[arg(long)]
    release: bool,
    /// Install the debug build, which is slow and checks more
    #[arg(long, conflicts_with = "release")]
    debug: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    folders: Folders,
}

fn include() -> PathBuf {
    build::root().join("crates/vfu-capi/include")
}

impl Install {
    pub(crate) fn run(&self) -> Result<()> {
        let folders = self.folders.absolute()?;
        let items = folders.items(&include())?;
        let built = build::library(!self.debug)?;
        for item in &items {
            put(item, &built)?;
            println!("{}", describe(item)?);
        }
        let (profile, pc) = (
            if self.debug { "debug" } else { "release" },
            folders.prefix.join(&folders.libdir).join("pkgconfig"),
        );
        println!();
        println!(
            "{} files of the {profile} build. Compile a program against them with",
            items.len()
        );
        println!("    PKG_CONFIG_PATH={} pkg-config --cflags --libs libvfio-user", pc.display());
        println!("and run programs that are compiled already with");
        println!("    LD_LIBRARY_PATH={} PROGRAM", folders.prefix.join(&folders.libdir).display());
        Ok(())
    }
}

impl Uninstall {
    pub(crate) fn run(&self) -> Result<()> {
        let folders = self.folders.absolute()?;
        let mut items = folders.items(&include())?;
        items.reverse(); // the links before what they lead to
        let mut removed = 0;
        for item in &items {
            match fs::remove_file(&item.path) {
                Ok(()) => {
                    println!("removed {}", item.path.display());
                    removed += 1;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("{} can't be removed", item.path.display()));
                }
            }
        }
        for item in &items {
            // Folders of ours that are empty now; others stay, which is no error.
            for name in ["pci_caps", "vfio-user", "pkgconfig"] {
                let parent = item.path.parent().filter(|parent| parent.ends_with(name));
                parent.map(fs::remove_dir);
            }
        }
        println!("{removed} of {} files were there", items.len());
        Ok(())
    }
}

/// Writes one file. What a program has open stays as it is: the new file takes the old one's place in one step.
fn put(item: &Item, built: &Built) -> Result<()> {
    let path = &item.path;
    let folder = path.parent().context("a file in a folder")?;
    let failed = || format!("{} can't be written", path.display());
    fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.new"));
    let _ = fs::remove_file(&new);
    match &item.content {
        Content::Shared => copy(&built.shared, &new, 0o755).with_context(failed)?,
        Content::Archive => copy(&built.archive, &new, 0o644).with_context(failed)?,
        Content::Copy(source) => copy(source, &new, 0o644).with_context(failed)?,
        Content::Text(text) => fs::write(&new, text).with_context(failed)?,
        Content::Link(target) => symlink(target, &new).with_context(failed)?,
    }
    fs::rename(&new, path).with_context(failed)
}

fn copy(from: &Path, to: &Path, mode: u32) -> std::io::Result<()> {
    fs::copy(from, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}

/// The line that says what went where.
fn describe(item: &Item) -> Result<String> {
    let path = item.path.display();
    Ok(match &item.content {
        Content::Link(target) => format!("{path} -> {target}"),
        _ => format!("{path} ({} bytes)", fs::metadata(&item.path)?.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(dir: &Path, name: &str, content: Content) -> Item {
        Item { path: dir.join(name), content }
    }

    #[test]
    fn a_file_in_use_keeps_its_old_content() {
        let dir = tempfile::tempdir().expect("a folder");
        let built = Built { shared: dir.path().join("so"), archive: dir.path().join("a") };
        fs::write(&built.shared, "new").expect("written");
        let place = item(dir.path(), "lib/libvfio-user.so.0.0.1", Content::Shared);
        fs::create_dir(dir.path().join("lib")).expect("made");
        fs::write(&place.path, "old").expect("written");
        let mut open = fs::File::open(&place.path).expect("there");
        put(&place, &built).expect("put");
        let mut old = String::new();
        std::io::Read::read_to_string(&mut open, &mut old).expect("read");
        assert_eq!(
            (old.as_str(), fs::read_to_string(&place.path).expect("read").as_str()),
            ("old", "new")
        );
        assert_eq!(fs::metadata(&place.path).expect("there").permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_link_replaces_a_link() {
        let dir = tempfile::tempdir().expect("a folder");
        let built = Built { shared: PathBuf::new(), archive: PathBuf::new() };
        let place = item(dir.path(), "libvfio-user.so", Content::Link("libvfio-user.so.0"));
        symlink("elsewhere", &place.path).expect("linked");
        put(&place, &built).expect("put");
        assert_eq!(fs::read_link(&place.path).expect("a link"), Path::new("libvfio-user.so.0"));
    }

    #[test]
    fn a_folder_that_can_t_be_made_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("file"), "").expect("written");
        let built = Built { shared: PathBuf::new(), archive: PathBuf::new() };
        let error =
            put(&item(&dir.path().join("file/lib"), "x", Content::Text(String::new())), &built)
                .unwrap_err();
        assert!(format!("{error:#}").contains("file/lib"), "{error:#}");
    }
}
