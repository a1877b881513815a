//! Where each file of the C library goes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

/// The real file behind the links, numbered as in the C library.
pub(crate) const SHARED: &str = "libvfio-user.so.0.0.1";
/// The links: what a program asks for when it starts, and what a linker looks for.
const LINKS: [(&str, &str); 2] =
    [("libvfio-user.so.0", SHARED), ("libvfio-user.so", "libvfio-user.so.0")];
/// The headers, in a folder of their own: some have names that others could have, too.
const INCLUDE: &str = "include/vfio-user";
/// What the archive needs from the system, as `rustc --print native-static-libs` says.
const STATIC_NEEDS: &str = "-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc";

/// The folders that the user chose.
#[derive(Clone, Debug, Args)]
pub(crate) struct Folders {
    /// Folder below which the files are used, such as /usr; a relative one is made absolute
    #[arg(long, default_value = "/usr/local", value_name = "DIR")]
    pub(crate) prefix: PathBuf,
    /// Folder of the libraries, below PREFIX; Debian's is lib/x86_64-linux-gnu, Fedora's lib64
    #[arg(long, default_value = "lib", value_name = "DIR")]
    pub(crate) libdir: PathBuf,
    /// Put the files below this folder, for making a package; PREFIX is where they will be used
    #[arg(long, value_name = "DIR")]
    pub(crate) destdir: Option<PathBuf>,
}

/// What a place gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A copy of the shared library, executable.
    Shared,
    /// A copy of the archive.
    Archive,
    /// A copy of this file.
    Copy(PathBuf),
    /// This text.
    Text(String),
    /// A link to this name in the same folder.
    Link(&'static str),
}

/// A file to be installed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) path: PathBuf,
    pub(crate) content: Content,
}

impl Folders {
    /// The same with an absolute prefix.
    pub(crate) fn absolute(&self) -> Result<Self> {
        let prefix = std::path::absolute(&self.prefix).context("--prefix is no path")?;
        Ok(Self { prefix, ..self.clone() })
    }

    /// Where a path of the installed system is now.
    pub(crate) fn staged(&self, path: &Path) -> PathBuf {
        match &self.destdir {
            Some(destdir) => destdir.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// Every file, with its path of now; the real files before the links to them.
    pub(crate) fn items(&self, include: &Path) -> Result<Vec<Item>> {
        let lib = self.prefix.join(&self.libdir);
        let mut items = vec![
            (lib.join(SHARED), Content::Shared),
            (lib.join("libvfio-user.a"), Content::Archive),
            (lib.join("pkgconfig/libvfio-user.pc"), Content::Text(self.pkg_config())),
        ];
        items.extend(LINKS.map(|(name, target)| (lib.join(name), Content::Link(target))));
        for header in headers(include, Path::new(""))? {
            items.push((
                self.prefix.join(INCLUDE).join(&header),
                Content::Copy(include.join(&header)),
            ));
        }
        Ok(items
            .into_iter()
            .map(|(path, content)| Item { path: self.staged(&path), content })
            .collect())
    }

    /// The text of `libvfio-user.pc`.
    fn pkg_config(&self) -> String {
        let (prefix, libdir) = (self.prefix.display(), self.prefix.join(&self.libdir));
        let libdir = match libdir.strip_prefix(&self.prefix) {
            Ok(below) => format!("${{prefix}}/{}", below.display()),
            Err(_) => libdir.display().to_string(),
        };
        format!(
            "prefix={prefix}\nlibdir={libdir}\nincludedir=${{prefix}}/{INCLUDE}\n\n\
             Name: libvfio-user\nDescription: PCI devices as programs, over the vfio-user protocol (vfu)\n\
             URL: {}\nVersion: 0.0.1\nCflags: -I${{includedir}}\nLibs: -L${{libdir}} -lvfio-user\n\
             Libs.private: {STATIC_NEEDS}\n",
            env!("CARGO_PKG_REPOSITORY"),
        )
    }
}

/// The headers below a folder, relative to it, sorted.
fn headers(include: &Path, below: &Path) -> Result<Vec<PathBuf>> {
    let folder = include.join(below);
    let mut found = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("no headers in {}", folder.display()))?
    {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            found.extend(headers(include, &path)?);
        } else if path.extension().is_some_and(|is| is == "h") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(prefix: &str, libdir: &str, destdir: Option<&str>) -> Folders {
        Folders { prefix: prefix.into(), libdir: libdir.into(), destdir: destdir.map(Into::into) }
    }

    fn paths(folders: &Folders) -> Vec<String> {
        let include = crate::build::root().join("crates/vfu-capi/include");
        folders
            .items(&include)
            .expect("headers")
            .iter()
            .map(|item| item.path.display().to_string())
            .collect()
    }

    #[test]
    fn files_lie_where_distributions_have_them() {
        let paths = paths(&folders("/usr", "lib/x86_64-linux-gnu", None));
        for expected in [
            "/usr/lib/x86_64-linux-gnu/libvfio-user.so.0.0.1",
            "/usr/lib/x86_64-linux-gnu/libvfio-user.so.0",
            "/usr/lib/x86_64-linux-gnu/libvfio-user.so",
            "/usr/lib/x86_64-linux-gnu/libvfio-user.a",
            "/usr/lib/x86_64-linux-gnu/pkgconfig/libvfio-user.pc",
            "/usr/include/vfio-user/libvfio-user.h",
            "/usr/include/vfio-user/pci_caps/px.h",
        ] {
            assert!(paths.iter().any(|path| path == expected), "{expected} is not among {paths:?}");
        }
    }

    #[test]
    fn a_destdir_holds_the_files_and_is_not_in_them() {
        let folders = folders("/usr", "lib64", Some("/tmp/stage"));
        assert!(paths(&folders).iter().all(|path| path.starts_with("/tmp/stage/usr/")));
        let text = folders.pkg_config();
        assert!(text.starts_with("prefix=/usr\nlibdir=${prefix}/lib64\n"), "{text}");
        assert!(!text.contains("stage"), "{text}");
    }

    #[test]
    fn an_absolute_libdir_stays_one() {
        let text = folders("/usr", "/opt/lib", None).pkg_config();
        assert!(text.contains("libdir=/opt/lib\n"), "{text}");
    }
}
