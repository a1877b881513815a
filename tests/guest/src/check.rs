//! Why guests cannot run on this machine, in a sentence that one can act upon.

use std::env;
use std::fs;

use crate::lab;

/// The reason, or nothing if nothing stands against it. Does not look at the network; the first
/// `setup` will, and says so in its error.
#[must_use]
pub fn why_not() -> Option<String> {
    if (env::consts::OS, env::consts::ARCH) != ("linux", "x86_64") {
        let (os, arch) = (env::consts::OS, env::consts::ARCH);
        return Some(format!("guests need Linux on x86-64, and this is {os} on {arch}"));
    }
    if lab::is_ready() {
        return None;
    }
    for tool in ["apt-get", "dpkg-deb", "tar"] {
        if !in_path(tool) {
            return Some(format!(
                "guests are made of Debian packages, and there is no {tool} here"
            ));
        }
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release.lines().any(|line| line == "ID=debian") {
        return Some("guests are made of Debian packages, and this is not Debian".into());
    }
    if let Err(error) = crate::sources::mirror() {
        return Some(error.to_string());
    }
    None
}

fn in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
