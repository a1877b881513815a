//! A target at work, in a process of its own: whatever it dies of is a finding.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::build::Programs;
use super::folder;
use crate::toolchain;

/// How long a target may take to end after it was told to.
const STOPS: Duration = Duration::from_secs(10);
/// So much later than it should have ended, it hangs.
const HANGS: Duration = Duration::from_secs(60);

/// What a target has done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) target: String,
    pub(crate) time: Duration,
    pub(crate) executions: u64,
    pub(crate) steps: u64,
    /// Edges of the control flow that were reached; none are counted for blind input.
    pub(crate) edges: Option<u64>,
    /// New inputs, each of which reached something new.
    pub(crate) new: Option<u64>,
    /// The input that broke it, or the log if there is none.
    pub(crate) finding: Option<PathBuf>,
}

#[derive(Debug)]
pub(crate) struct Worker {
    target: String,
    child: Child,
    since: Instant,
    share: Duration,
    log: PathBuf,
    steps: PathBuf,
    artifacts: PathBuf,
    /// When it was told to end.
    stopped: Option<Instant>,
}

impl Worker {
    pub(super) fn start(programs: &Programs, target: &str, share: Duration) -> Result<Worker> {
        let logs = toolchain::target_folder().join("fuzz/logs");
        let artifacts = folder().join("artifacts").join(target);
        for folder in [&logs, &artifacts] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let command = programs.command(target, share.as_secs(), &artifacts)?;
        Worker::spawn(command, target, share, &logs, artifacts)
    }

    fn spawn(
        mut command: Command,
        target: &str,
        share: Duration,
        logs: &Path,
        artifacts: PathBuf,
    ) -> Result<Worker> {
        let log = logs.join(format!("{target}.log"));
        let steps = logs.join(format!("{target}.steps"));
        for of_another_run in [&steps, &artifacts.join("current")] {
            let _none = fs::remove_file(of_another_run);
        }
        let out = File::create(&log).with_context(|| log.display().to_string())?;
        // Ctrl-C is for us: what dies of it would be taken for a finding.
        command.process_group(0);
        command.env("VFU_FUZZ_STEPS", &steps).env("RUST_BACKTRACE", "1").stdin(Stdio::null());
        command.stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("target {target} does not start"))?;
        let (target, since) = (target.to_owned(), Instant::now());
        Ok(Worker { target, child, since, share, log, steps, artifacts, stopped: None })
    }

    /// Has it end, and say what it has done; ends it if it does not. To be called again until it has.
    pub(super) fn stop(&mut self) {
        match self.stopped {
            None => {
                let _it_has_ended = kill_process(Pid::from_child(&self.child), Signal::INT);
                self.stopped = Some(Instant::now());
            }
            Some(since) if since.elapsed() < STOPS => {}
            Some(_) => drop(self.child.kill()),
        }
    }

    /// What it has done, once it has ended.
    pub(super) fn ended(&mut self) -> Result<Option<Report>> {
        let hangs = self.since.elapsed() > self.share + HANGS;
        if hangs {
            let _it_has_ended = self.child.kill();
        }
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        let mut report = self.report();
        if hangs || (self.stopped.is_none() && is_finding(status)) {
            report.finding = Some(self.finding());
        }
        Ok(Some(report))
    }

    /// What it has done until now.
    pub(super) fn report(&self) -> Report {
        let said = tail(&self.log);
        let mut report = Report {
            target: self.target.clone(),
            time: self.since.elapsed(),
            steps: fs::read_to_string(&self.steps).ok().and_then(|n| n.parse().ok()).unwrap_or(0),
            ..Report::default()
        };
        said.lines().for_each(|line| report.hear(line));
        report
    }

    /// The input that it named, or was at.
    fn finding(&self) -> PathBuf {
        let said = tail(&self.log);
        let named = said.lines().rev().find_map(|line| line.split("Test unit written to ").nth(1));
        let current = self.artifacts.join("current");
        match named {
            Some(path) => path.trim().into(),
            None if current.exists() => {
                let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
                let kept = self.artifacts.join(format!("death-{seconds}"));
                if fs::rename(&current, &kept).is_ok() { kept } else { current }
            }
            None => self.log.clone(),
        }
    }
}

fn is_finding(status: ExitStatus) -> bool {
    !status.success()
}

impl Report {
    /// Takes what a line of the log says: `#2048  pulse  cov: 430 ft: 1200 ...`
    fn hear(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { return };
        let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
        match first {
            "stat::number_of_executed_units:" => {
                self.executions = number(words.next()).unwrap_or(self.executions);
            }
            "stat::new_units_added:" => self.new = number(words.next()),
            _ => {
                let count = first.strip_prefix('#').and_then(|count| count.parse().ok());
                let Some(count) = count else { return };
                self.executions = self.executions.max(count);
                if words.any(|word| word == "cov:") {
                    self.edges = number(words.next()).or(self.edges);
                }
            }
        }
    }
}

/// The end of a file: as much as has the last lines in it.
fn tail(path: &Path) -> String {
    const ENOUGH: u64 = 16 << 10;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(len.saturating_sub(ENOUGH)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What became of a shell script in place of a target, which was stopped once it said `#1`.
    fn ended(script: &str, stop: bool) -> Report {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("env");
        // A shell can not trap what was ignored when it began, as SIGINT is in the background.
        command.args(["--default-signal=INT", "sh", "-c"]).arg(script);
        let path = folder.path();
        let share = Duration::from_secs(600);
        let mut worker = Worker::spawn(command, "t", share, path, path.to_owned()).unwrap();
        loop {
            if stop && worker.report().executions > 0 {
                worker.stop();
            }
            if let Some(report) = worker.ended().unwrap() {
                return report;
            }
            // The end of a process has no event here.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_that_is_stopped_says_what_it_has_done_and_is_no_finding() {
        let report = "trap 'echo stat::number_of_executed_units: 9; exit 72' INT; echo '#1'; \
            while :; do sleep 0.01; done";
        let report = ended(report, true);
        assert_eq!((report.executions, report.finding), (9, None));
        let report = ended("echo '#1'; exec sleep 600", true);
        assert_eq!((report.executions, report.finding), (1, None));
    }

    #[test]
    fn one_that_dies_is_a_finding() {
        let report = ended("echo '#1'; kill -SEGV $$", false);
        assert!(report.finding.is_some_and(|log| log.ends_with("t.log")));
        assert!(ended("echo '#1'", false).finding.is_none());
    }

    #[test]
    fn lines_of_libfuzzer_are_understood() {
        let mut report = Report::default();
        let lines = "INFO: Seed: 1\n#2\tINITED cov: 5 ft: 6 corp: 1/1b\n#2048\tpulse  cov: 430 ft: 1200\n\
            #2100\tNEW    cov: 431 ft: 9 corp: 3/4Kb\nstat::number_of_executed_units: 3000\n\
            stat::new_units_added:          12\n";
        lines.lines().for_each(|line| report.hear(line));
        assert_eq!((report.executions, report.edges, report.new), (3000, Some(431), Some(12)));
        report.hear("#4000\tblind");
        assert_eq!((report.executions, report.edges), (4000, Some(431)));
        report.hear("#no number");
        report.hear("");
        assert_eq!(report.executions, 4000);
    }
}
