//! Looks for input that breaks a fuzz target.

mod build;
mod corpus;
mod table;
mod worker;

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::build::root;
use build::Programs;
use worker::{Report, Worker};

/// How often progress is told.
const TELL: Duration = Duration::from_secs(10);
/// Less is no use for a target.
const LEAST: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// Targets; without any, all
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long it may take in all; the targets share the time
    #[arg(long, default_value_t = 5.0, value_name = "N")]
    minutes: f64,
    /// How many targets run at a time
    #[arg(long, default_value_t = 1, value_name = "N")]
    jobs: usize,
    /// Look for errors of memory, too, with AddressSanitizer: several times slower, needs nightly
    #[arg(long)]
    address: bool,
    /// Without a guide: input at random, at a tenth of the use. What is done where libFuzzer can't be
    /// built
    #[arg(long, conflicts_with = "address")]
    blind: bool,
    /// At the end, make fuzz/corpus what is needed to reach all that was reached, by this run and those
    /// before it: 400 inputs of 1 KiB a target at most. Inputs that a person has named stay
    #[arg(long, conflicts_with = "blind")]
    minimize: bool,
}

impl Fuzz {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let targets = self.chosen()?;
        let programs = self.programs()?;
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // A second one ends this at once.
            flag::register_conditional_default(signal, interrupted.clone())
                .and_then(|_| flag::register(signal, interrupted.clone()))
                .context("Ctrl-C can't be caught")?;
        }
        let jobs = self.jobs.clamp(1, targets.len());
        let share = self.minutes.max(0.0) * 60.0 * jobs as f64 / targets.len() as f64;
        let share = Duration::try_from_secs_f64(share).context("--minutes")?.max(LEAST);
        eprintln!(
            "{} targets, {jobs} at a time, {} s each, {}; Ctrl-C ends it with the table",
            targets.len(),
            share.as_secs(),
            programs.how(),
        );
        let reports = race(&programs, targets, jobs, share, &interrupted)?;
        print!("{}", table::table(&reports));
        let stopped = interrupted.load(Ordering::Relaxed);
        if self.minimize && stopped {
            eprintln!("xtask: fuzz/corpus stays as it is; --minutes 0 --minimize does little else");
        } else if self.minimize {
            for report in &reports {
                eprintln!("{}: {}", report.target, corpus::minimize(&programs, &report.target)?);
            }
        }
        let failed = reports.iter().any(|report| report.finding.is_some());
        Ok(match (failed, stopped) {
            (true, _) => ExitCode::FAILURE,
            // As of a program that a signal has ended.
            (false, true) => ExitCode::from(130),
            (false, false) => ExitCode::SUCCESS,
        })
    }

    fn programs(&self) -> Result<Programs> {
        if self.blind {
            return Programs::blind();
        }
        match Programs::libfuzzer(self.address) {
            Ok(programs) => Ok(programs),
            Err(e) => {
                eprintln!("xtask: WARNING: {e:#}");
                eprintln!("xtask: WARNING: going on without a guide, which finds far less");
                Programs::blind()
            }
        }
    }

    fn chosen(&self) -> Result<Vec<String>> {
        let all = targets()?;
        if let Some(unknown) = self.targets.iter().find(|name| !all.contains(name)) {
            bail!("there is no target '{unknown}'; there are: {}", all.join(" "));
        }
        Ok(if self.targets.is_empty() { all } else { self.targets.clone() })
    }
}

/// The folder of cargo-fuzz.
fn folder() -> PathBuf {
    root().join("fuzz")
}

/// The names of all targets, in alphabetical order.
fn targets() -> Result<Vec<String>> {
    let folder = folder().join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Runs all targets, so many at a time, until they have had their time.
fn race(
    programs: &Programs,
    targets: Vec<String>,
    jobs: usize,
    share: Duration,
    interrupted: &AtomicBool,
) -> Result<Vec<Report>> {
    let mut waiting = VecDeque::from(targets);
    let (mut running, mut reports) = (Vec::<Worker>::new(), Vec::new());
    let mut told = Instant::now();
    while !(waiting.is_empty() && running.is_empty()) {
        if interrupted.load(Ordering::Relaxed) {
            waiting.clear();
            running.iter_mut().for_each(Worker::stop);
        }
        while running.len() < jobs {
            let Some(target) = waiting.pop_front() else { break };
            running.push(Worker::start(programs, &target, share)?);
        }
        thread::sleep(Duration::from_millis(200));
        let tell = told.elapsed() >= TELL;
        let mut left = Vec::new();
        for mut worker in running {
            if let Some(report) = worker.ended()? {
                eprintln!("{}", table::progress(&report));
                reports.push(report);
                continue;
            }
            if tell {
                eprintln!("{}", table::progress(&worker.report()));
            }
            left.push(worker);
        }
        running = left;
        if tell {
            told = Instant::now();
        }
    }
    reports.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(reports)
}
