//! The programs of this tree that a run needs: the `vfu` command, the one for the guest, and the
//! samples of the C library. They are built when they are asked for, so a test never runs against
//! yesterday's code.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::say;

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The `vfu` command: what `VFU_BIN` names, or built from the tree.
///
/// # Errors
///
/// If it does not build.
pub fn vfu() -> Result<PathBuf> {
    if let Some(path) = env::var_os("VFU_BIN") {
        return Ok(path.into());
    }
    let (target, profile) = places()?;
    let mut command = cargo();
    command.args(["build", "-q", "-p", "vfu-cli", "--profile", &profile_name(&profile)]);
    command.arg("--target-dir").arg(&target).current_dir(HERE);
    run(command, "the vfu command")?;
    Ok(target.join(profile).join("vfu"))
}

/// The program for the guest: one static file.
///
/// # Errors
///
/// If it does not build.
pub fn guest_program() -> Result<Vec<u8>> {
    let target = target_dir()?.join("guest-program");
    let mut command = cargo();
    command
        .args(["build", "-q", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-C target-feature=+crt-static -C relocation-model=static",
        )
        // These would come before the line above.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(Path::new(HERE).join("program"));
    run(command, "the program for the guest")?;
    let path = target.join(TARGET).join("debug/vfu-guest-program");
    std::fs::read(&path).with_context(|| format!("no {}", path.display()))
}

/// A sample program of the C library, linked with it as programs of others are.
///
/// # Errors
///
/// If the library or the program does not build.
pub fn sample(name: &str) -> Result<PathBuf> {
    let (target, profile) = places()?;
    let mut command = cargo();
    command.args(["build", "-q", "-p", "vfu-capi", "--lib", "--profile", &profile_name(&profile)]);
    command.arg("--target-dir").arg(&target).current_dir(HERE);
    run(command, "the C library")?;

    let lib = target.join("guest-samples");
    fs::create_dir_all(&lib)?;
    for link in ["libvfio-user.so", "libvfio-user.so.0"] {
        let link = lib.join(link);
        let _ = fs::remove_file(&link); // of another profile
        symlink(target.join(&profile).join("libvfu_capi.so"), link)?;
    }
    let (capi, program) = (Path::new(HERE).join("../../crates/vfu-capi"), lib.join(name));
    let mut command = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    command.args(["-std=c11", "-O2", "-g", "-I"]).arg(capi.join("include"));
    command.arg("-o").arg(&program).arg(capi.join(format!("samples/{name}.c")));
    command.arg("-L").arg(&lib).args(["-lvfio-user", "-Wl,-rpath,$ORIGIN"]);
    run(command, &format!("the sample {name}"))?;
    Ok(program)
}

/// Cargo's target folder, which this program was built in.
///
/// # Errors
///
/// If this program is not in such a folder.
pub fn target_dir() -> Result<PathBuf> {
    Ok(places()?.0)
}

/// The target folder and the name of the folder of the profile in it.
fn places() -> Result<(PathBuf, String)> {
    let exe = env::current_exe()?;
    let mut profile = exe.parent().context("this program is nowhere")?;
    if profile.ends_with("deps") {
        profile = profile.parent().context("this program is nowhere")?;
    }
    let name = profile.file_name().context("no profile")?.to_string_lossy().into_owned();
    Ok((profile.parent().context("no target folder")?.to_path_buf(), name))
}

fn profile_name(dir: &str) -> String {
    if dir == "debug" { "dev".into() } else { dir.into() }
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn run(mut command: Command, what: &str) -> Result<()> {
    say(format!("building {what}"));
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{what} does not build");
    }
    Ok(())
}
