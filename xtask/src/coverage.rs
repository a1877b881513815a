//! How much of the code that faces a peer the tests run.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::build::root;
use crate::llvm::Llvm;
use crate::toolchain;

/// What is measured, and where it is.
const PARTS: [(&str, &str); 4] = [
    ("wire", "crates/vfu-proto/src/wire"),
    ("session", "crates/vfu-proto/src/session"),
    ("pci", "crates/vfu/src/pci"),
    ("dma", "crates/vfu/src/dma"),
];
/// What each has to reach, in percent of its lines.
const NEEDED: f64 = 90.0;

#[derive(Debug, Args)]
pub(crate) struct Coverage {
    /// Write pages that show each line, and how often it ran
    #[arg(long, value_name = "DIRECTORY")]
    html: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Lines of a file or a part.
#[derive(Clone, Debug, Default, PartialEq)]
struct Lines {
    name: String,
    all: u64,
    run: u64,
}

impl Lines {
    fn percent(&self) -> f64 {
        100.0 * self.run as f64 / self.all.max(1) as f64
    }
}

/// A part with its files.
#[derive(Clone, Debug, Default, PartialEq)]
struct Part {
    sum: Lines,
    files: Vec<Lines>,
}

impl Coverage {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let llvm = Llvm::find()?;
        let target = toolchain::target_folder().join("coverage");
        let programs = test(&target)?;
        let profile = merge(&llvm, &target)?;
        let report = cov(&llvm, "export", &profile, &programs).arg("-summary-only").output()?;
        ensure!(report.status.success(), "llvm-cov: {}", String::from_utf8_lossy(&report.stderr));
        let report = serde_json::from_slice(&report.stdout).context("llvm-cov's JSON")?;
        let parts = parts(&report)?;
        if self.json {
            println!("{:#}", as_json(&parts));
        } else {
            print!("{}", table(&parts));
        }
        if let Some(folder) = &self.html {
            let mut show = pages(cov(&llvm, "show", &profile, &programs), folder);
            let status = show.status().context("llvm-cov does not start")?;
            ensure!(status.success(), "llvm-cov: {status}");
            eprintln!("each line: {}", folder.join("index.html").display());
        }
        let low = parts.iter().any(|part| part.sum.percent() < NEEDED);
        Ok(if low { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Runs the tests of the two crates, which leave what they have counted in `target/profiles`. Gives
/// the programs.
fn test(target: &Path) -> Result<Vec<PathBuf>> {
    let profiles = target.join("profiles");
    if profiles.exists() {
        fs::remove_dir_all(&profiles)?;
    }
    let built = toolchain::cargo()
        .args(["test", "--no-run", "-p", "vfu-proto", "-p", "vfu", "--lib", "--tests"])
        .args(["--message-format", "json-render-diagnostics", "--target-dir"])
        .arg(target)
        .env("RUSTFLAGS", "-Cinstrument-coverage")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo does not start")?;
    ensure!(built.status.success(), "the tests do not build (cargo: {})", built.status);
    let tests = programs(&String::from_utf8_lossy(&built.stdout));
    for (folder, program) in &tests {
        eprintln!("xtask: {}", program.display());
        let run = Command::new(program)
            .current_dir(folder)
            // %4m: four files for each program, which its processes share.
            .env("LLVM_PROFILE_FILE", profiles.join("%4m.profraw"))
            .stdin(Stdio::null())
            // Standard output is for the table.
            .stdout(std::io::stderr())
            .status()?;
        ensure!(run.success(), "{}: tests fail ({run})", program.display());
    }
    Ok(tests.into_iter().map(|(_, program)| program).collect())
}

/// The programs among cargo's messages, each with the folder of its crate. Not `costs`: it counts
/// system calls and allocations, which are more where lines are counted.
fn programs(messages: &str) -> Vec<(PathBuf, PathBuf)> {
    let values = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = |message: Value| {
        let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
        Some((folder, message["executable"].as_str()?.into()))
    };
    values.filter(|message| message["target"]["name"] != "costs").filter_map(program).collect()
}

/// One file of all that was counted.
fn merge(llvm: &Llvm, target: &Path) -> Result<PathBuf> {
    let profiles = target.join("profiles");
    let mut raw = Vec::new();
    for entry in fs::read_dir(&profiles).context("the tests have counted nothing")? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("profraw")) {
            raw.push(path);
        }
    }
    let merged = target.join("merged.profdata");
    // Of a process that was killed while it wrote, there may be half a file: that is left out.
    let mut command = Command::new(&llvm.profdata);
    command.args(["merge", "-sparse", "-failure-mode=all", "-o"]).arg(&merged).args(raw);
    toolchain::said(&mut command)?;
    Ok(merged)
}

fn cov(llvm: &Llvm, what: &str, profile: &Path, programs: &[PathBuf]) -> Command {
    let mut command = Command::new(&llvm.cov);
    command.arg(what).arg("-instr-profile").arg(profile);
    command.arg("-ignore-filename-regex").arg("(^|/)(tests|loom_tests)\\.rs$");
    for program in programs {
        command.arg("-object").arg(program);
    }
    command
}

/// Has llvm-cov write the lines of the parts to a folder.
fn pages(mut show: Command, folder: &Path) -> Command {
    show.arg("-format=html").arg("-output-dir").arg(folder);
    // The first path would be taken for a program without this.
    show.arg("-sources").args(PARTS.iter().map(|(_, path)| root().join(path)));
    show
}

/// What llvm-cov says of the files of each part.
fn parts(report: &Value) -> Result<Vec<Part>> {
    let files = report["data"][0]["files"].as_array().context("llvm-cov names no files")?;
    let mut parts = Vec::new();
    for (name, path) in PARTS {
        let folder = root().join(path);
        let mut part = Part { sum: Lines { name: name.into(), ..Lines::default() }, files: vec![] };
        for file in files {
            let Some(path) = file["filename"].as_str().map(Path::new) else { continue };
            let Ok(inside) = path.strip_prefix(&folder) else { continue };
            let count = |key: &str| file["summary"]["lines"][key].as_u64().unwrap_or(0);
            let (all, run) = (count("count"), count("covered"));
            part.files.push(Lines { name: inside.display().to_string(), all, run });
            part.sum.all += all;
            part.sum.run += run;
        }
        if part.sum.all == 0 {
            bail!("llvm-cov knows no line of {}", folder.display());
        }
        part.files.sort_by(|a, b| a.percent().total_cmp(&b.percent()));
        parts.push(part);
    }
    Ok(parts)
}

fn table(parts: &[Part]) -> String {
    let mut out = format!("{:24} {:>6} {:>6} {:>7}\n", "part", "lines", "run", "");
    for part in parts {
        let Lines { name, all, run } = &part.sum;
        let percent = part.sum.percent();
        let low = if percent < NEEDED { "  TOO LOW, 90 is needed" } else { "" };
        out += &format!("{name:24} {all:>6} {run:>6} {percent:>6.1}%{low}\n");
        // Where to look first.
        for file in part.files.iter().filter(|file| file.percent() < NEEDED) {
            let (percent, name) = (file.percent(), &file.name);
            out += &format!("  {name:22} {:>6} {:>6} {percent:>6.1}%\n", file.all, file.run);
        }
    }
    out
}

fn as_json(parts: &[Part]) -> Value {
    let line = |lines: &Lines| json!({ "name": lines.name, "lines": lines.all, "run": lines.run, "percent": lines.percent() });
    let part = |part: &Part| {
        let mut value = line(&part.sum);
        value["files"] = part.files.iter().map(line).collect();
        value
    };
    json!({ "needed": NEEDED, "parts": parts.iter().map(part).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(wire: u64) -> Value {
        let file = |path: &str, run: u64| json!({ "filename": root().join(path), "summary": { "lines": { "count": 100, "covered": run } } });
        json!({ "data": [{ "files": [
            file("crates/vfu-proto/src/wire/caps.rs", wire),
            file("crates/vfu-proto/src/session/engine.rs", 100),
            file("crates/vfu/src/pci/bar.rs", 99),
            file("crates/vfu/src/dma/dirty/bitmap.rs", 91),
            file("crates/vfu/src/lib.rs", 0),
        ] }] })
    }

    #[test]
    fn parts_are_summed_up() {
        let parts = parts(&report(95)).unwrap();
        assert_eq!(parts.iter().map(|part| part.sum.run).collect::<Vec<_>>(), [95, 100, 99, 91]);
        assert!(!table(&parts).contains("LOW"));
        assert_eq!(as_json(&parts)["parts"][3]["files"][0]["name"], "dirty/bitmap.rs");
    }

    #[test]
    fn what_is_too_low_is_named_with_its_files() {
        let text = table(&parts(&report(50)).unwrap());
        assert!(text.contains("wire") && text.contains("50.0%  TOO LOW"), "{text}");
        assert!(text.contains("  caps.rs"), "{text}");
    }

    #[test]
    fn pages_are_of_the_parts_which_are_no_programs() {
        let show = pages(Command::new("llvm-cov"), Path::new("/html"));
        let args: Vec<_> = show.get_args().map(|arg| arg.to_string_lossy()).collect();
        let sources = args.iter().position(|arg| arg == "-sources").unwrap();
        assert_eq!(args.len(), sources + 1 + PARTS.len());
        assert!(args.iter().skip(sources + 1).all(|path| Path::new(&**path).is_dir()), "{args:?}");
    }

    #[test]
    fn programs_that_count_are_left_out() {
        let message = |name: &str| {
            let target = json!({ "name": name });
            json!({ "target": target, "manifest_path": "/c/Cargo.toml", "executable": "/t/x" })
                .to_string()
        };
        let found = programs(&[message("costs"), message("client"), "{}".into()].join("\n"));
        assert_eq!(found, [("/c".into(), "/t/x".into())]);
    }

    #[test]
    fn a_report_without_our_files_is_an_error() {
        assert!(parts(&json!({ "data": [{ "files": [] }] })).is_err());
    }
}
