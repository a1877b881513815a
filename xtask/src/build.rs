//! Builds the C library with cargo, and finds what came out.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The libraries that a build gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Built {
    /// `libvfu_capi.so`
    pub(crate) shared: PathBuf,
    /// `libvfu_capi.a`
    pub(crate) archive: PathBuf,
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Builds the library; what the compiler has to say goes to standard error.
pub(crate) fn library(release: bool) -> Result<Built> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--package",
        "vfu-capi",
        "--lib",
        "--message-format",
        "json-render-diagnostics",
    ]);
    if release {
        command.arg("--release");
    }
    let output = command
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo does not start")?;
    ensure!(output.status.success(), "the library does not build (cargo: {})", output.status);
    artifacts(&String::from_utf8_lossy(&output.stdout))
}

/// Finds the files in cargo's messages, one JSON object a line.
fn artifacts(messages: &str) -> Result<Built> {
    let files: Vec<PathBuf> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| {
            message["reason"] == "compiler-artifact" && message["target"]["name"] == "vfu_capi"
        })
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .collect();
    let find = |extension: &str| {
        let found = files.iter().find(|file| file.extension().is_some_and(|is| is == extension));
        found.cloned().with_context(|| format!("cargo built no libvfu_capi.{extension}"))
    };
    Ok(Built { shared: find("so")?, archive: find("a")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_found_among_cargo_s_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"vfu"},"filenames":["/t/libvfu.rlib"]}
not json
{"reason":"compiler-artifact","target":{"name":"vfu_capi"},"filenames":["/t/libvfu_capi.so","/t/libvfu_capi.a","/t/libvfu_capi.rlib"]}
{"reason":"build-finished","success":true}"#;
        let built = artifacts(messages).expect("both are there");
        assert_eq!(
            built,
            Built { shared: "/t/libvfu_capi.so".into(), archive: "/t/libvfu_capi.a".into() }
        );
    }

    #[test]
    fn a_build_without_an_archive_is_an_error() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"vfu_capi"},"filenames":["/t/libvfu_capi.so"]}"#;
        assert!(artifacts(messages).unwrap_err().to_string().contains("libvfu_capi.a"));
    }
}
