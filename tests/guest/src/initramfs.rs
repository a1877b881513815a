//! The guest: a kernel and an initramfs, out of Debian's packages and the scripts in `inside/`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt::{Apt, RELEASE};
use crate::cpio::Archive;
use crate::kernel;
use crate::modules::Tree;

/// Change this to have the guest made anew on every machine.
pub const RECIPE: &str = "1";

/// What [`make`] makes.
#[derive(Debug, Clone)]
pub struct Files {
    /// The kernel, as an ELF file where possible.
    pub kernel: PathBuf,
    /// The part of the initramfs that all tests share.
    pub initramfs: PathBuf,
}

impl Files {
    /// The names in the folder that [`make`] filled.
    #[must_use]
    pub fn new(dir: &Path) -> Files {
        Files { kernel: dir.join("kernel"), initramfs: dir.join("initramfs") }
    }
}

const PACKAGES: [&str; 5] = ["linux-image-amd64", "busybox-static", "pciutils", "kmod", "gpiod"];

/// The packages of the plan that hold something for the guest.
const WANTED: [&str; 13] = [
    "busybox-static",
    "gpiod",
    "libc6",
    "libcap2",
    "libgpiod3",
    "libkmod2",
    "libpci3",
    "libssl3t64",
    "libudev1",
    "libzstd1",
    "pci.ids",
    "pciutils",
    "zlib1g",
];

const DRIVERS: [&str; 6] =
    ["gpio-pci-idio-16", "uio_pci_generic", "vfio-pci", "vfio_iommu_type1", "nvme", "e1000"];

const PROGRAMS: [&str; 7] =
    ["lspci", "setpci", "gpiodetect", "gpioinfo", "gpioget", "gpioset", "gpiomon"];

/// What the programs load, directly or through one another.
const LIBRARIES: [&str; 9] = [
    "libc.so.6",
    "libcap.so.2",
    "libcrypto.so.3",
    "libgpiod.so.3",
    "libkmod.so.2",
    "libpci.so.3",
    "libudev.so.1",
    "libz.so.1",
    "libzstd.so.1",
];
const LIBRARY_DIR: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Fetches the packages and fills `dir`.
///
/// # Errors
///
/// If a package cannot be had, or does not hold what it should.
pub fn make(apt: &Apt, dir: &Path) -> Result<()> {
    // Unpacked aside: of its 200 MB the guest needs 20.
    let root = dir.join("unpacked");
    let wanted = |name: &str| {
        // linux-image-amd64 itself is empty; the kernel is in linux-image-6.12.1-amd64 or so.
        WANTED.contains(&name) || name.starts_with("linux-image-") && name != PACKAGES[0]
    };
    let plan = apt.plan(RELEASE, &PACKAGES, wanted)?;
    crate::say(format!("guest: fetching {} packages, about 120 MB", plan.len()));
    apt.unpack(&plan, &root)?;
    crate::say("guest: making the kernel and the initramfs");

    let image = find(&root.join("boot"), "vmlinuz-")?;
    let version = image.file_name().unwrap_or_default().to_string_lossy();
    let version = version.trim_start_matches("vmlinuz-");
    let files = Files::new(dir);
    let image = fs::read(&image)?;
    // QEMU starts the packed kernel too, only slower.
    let kernel = kernel::vmlinux(&image).unwrap_or_else(|error| {
        crate::say(format!("guest: starting the packed kernel, for {error:#}"));
        image
    });
    fs::write(&files.kernel, kernel)?;
    fs::write(&files.initramfs, archive(&root, version)?)?;
    crate::cache::remove(&root)
}

/// The first file in `dir` whose name starts with `prefix`.
fn find(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("no {}", dir.display()))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .with_context(|| format!("no {prefix}* in {}", dir.display()))
}

fn archive(root: &Path, version: &str) -> Result<Vec<u8>> {
    let read = |path: &str| fs::read(root.join(path)).with_context(|| format!("no {path}"));
    let mut archive = Archive::new();
    let modules = format!("lib/modules/{version}");
    for dir in [
        "bin",
        "dev",
        "lib",
        "lib/modules",
        &modules,
        "lib64",
        "proc",
        "sys",
        "tmp",
        "usr",
        "usr/bin",
        "usr/lib",
        LIBRARY_DIR,
        "usr/sbin",
        "usr/share",
        "usr/share/misc",
    ] {
        archive.directory(dir);
    }
    archive.link("sbin", "bin");
    archive.device("dev/console", 5, 1);

    archive.file("bin/busybox", &read("usr/bin/busybox")?);
    archive.link("bin/sh", "busybox");
    for program in PROGRAMS {
        archive.file(&format!("usr/bin/{program}"), &read(&format!("usr/bin/{program}"))?);
    }
    archive.file(LOADER, &read(&format!("{LIBRARY_DIR}/ld-linux-x86-64.so.2"))?);
    for library in LIBRARIES {
        let path = format!("{LIBRARY_DIR}/{library}");
        archive.file(&path, &read(&path)?);
    }
    archive.file("usr/share/misc/pci.ids", &read("usr/share/misc/pci.ids")?);

    let mut dependencies = String::new();
    for module in Tree::read(&root.join("usr").join(&modules))?.closure(&DRIVERS)? {
        let file = |name: &str| format!("{name}.ko");
        archive.file(&format!("{modules}/{}", file(&module.name)), &module.content);
        let needs: Vec<_> = module.needs.iter().map(|name| file(name)).collect();
        dependencies += &format!("{}: {}\n", file(&module.name), needs.join(" "));
    }
    archive.file(&format!("{modules}/modules.dep"), dependencies.as_bytes());
    Ok(archive.finish())
}

/// The part of the initramfs that differs from test to test: the scripts, the program, and files for
/// the script.
#[must_use]
pub fn overlay(script: &str, program: &[u8], files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.file("init", include_bytes!("../inside/init"));
    archive.file("test.sh", script.as_bytes());
    archive.file("bin/guest-program", program);
    for (path, content) in files {
        archive.file(path, content);
    }
    archive.finish()
}
