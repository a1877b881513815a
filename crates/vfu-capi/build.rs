//! Compiles the one function that needs C, and names the shared library.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/log_args.c");
    println!("cargo::rustc-check-cfg=cfg(has_naked)");
    cc::Build::new().file("src/log_args.c").warnings(true).compile("vfu_log_args");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libvfio-user.so.0");
    // Its handler of SIGBUS stays in place: it must not be unloaded.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    if rustc_minor().is_some_and(|minor| minor >= 88) {
        println!("cargo::rustc-cfg=has_naked");
    }
}

/// The `N` of rustc 1.N.
fn rustc_minor() -> Option<u32> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version.split('.').nth(1)?.parse().ok()
}
