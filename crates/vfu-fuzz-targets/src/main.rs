//! Replays inputs of a target, or tries blind ones.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, panic};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use vfu_fuzz_targets::{MAX_LEN, TARGETS, Target, blind, steps, target};

/// Replay inputs of a fuzz target, or try blind ones
///
/// Without a TARGET, lists them.
#[derive(Debug, Parser)]
#[command(name = "vfu-fuzz-targets", version)]
struct Cli {
    /// The target
    target: Option<String>,
    /// Inputs to replay; of a folder, every file in it
    inputs: Vec<PathBuf>,
    /// Try blind inputs, made from INPUTS, for so many seconds
    ///
    /// Prints `#INPUTS` now and then. The one that is being tried is in DIRECTORY/current; one that
    /// panics is left in DIRECTORY/crash-SEED, and the exit code is 77.
    #[arg(long, value_name = "SECONDS", requires = "artifacts")]
    blind: Option<u64>,
    /// Where --blind leaves inputs
    #[arg(long, value_name = "DIRECTORY")]
    artifacts: Option<PathBuf>,
    /// The first seed of --blind
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let Some(name) = &cli.target else {
        for target in TARGETS {
            println!("{:12} {}", target.name, target.about);
        }
        return Ok(());
    };
    let Some(target) = target(name) else {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        bail!("there is no target '{name}'; there are: {}", names.join(" "));
    };
    let files = files(&cli.inputs)?;
    let (Some(seconds), Some(artifacts)) = (cli.blind, &cli.artifacts) else {
        for (path, bytes) in &files {
            println!("{}: {} bytes", path.display(), bytes.len());
            (target.run)(bytes);
        }
        println!("{} inputs, {} steps: nothing is wrong", files.len(), steps::taken());
        return Ok(());
    };
    let known: Vec<_> = files.into_iter().map(|(_, bytes)| bytes).collect();
    try_blind(target, &known, Duration::from_secs(seconds), artifacts, cli.seed)
}

fn files(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for path in paths {
        let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                let path = entry?.path();
                files.push((path.clone(), read(&path)?));
            }
        } else {
            files.push((path.clone(), read(path)?));
        }
    }
    files.sort();
    Ok(files)
}

fn try_blind(
    target: &Target,
    known: &[Vec<u8>],
    time: Duration,
    artifacts: &Path,
    first: u64,
) -> Result<()> {
    let (since, mut said) = (Instant::now(), Instant::now());
    let current = artifacts.join("current");
    let file = fs::File::create(&current).with_context(|| current.display().to_string())?;
    let mut tried = 0;
    while since.elapsed() < time {
        let seed = first.wrapping_add(tried);
        let input = blind::input(&mut blind::Rng::new(seed), known, MAX_LEN);
        // Whatever it dies of, the kernel has it.
        file.write_all_at(&input, 0)
            .and_then(|()| file.set_len(input.len() as u64))
            .with_context(|| current.display().to_string())?;
        if panic::catch_unwind(|| (target.run)(&input)).is_err() {
            let crash = artifacts.join(format!("crash-{seed}"));
            fs::rename(&current, &crash)?;
            eprintln!("Test unit written to {}", crash.display());
            std::process::exit(77);
        }
        tried += 1;
        if said.elapsed() > Duration::from_secs(1) {
            eprintln!("#{tried}\tblind");
            said = Instant::now();
        }
    }
    eprintln!("#{tried}\tblind");
    fs::remove_file(&current)?;
    Ok(())
}
