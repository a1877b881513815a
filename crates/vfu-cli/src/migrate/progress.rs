//! How far a move has come, on standard error.

use std::cell::Cell;
use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use vfu::client::{MigrateStep, Progress};

/// A bar on a terminal, else a line for each step.
pub(super) struct Shown {
    bar: Option<ProgressBar>,
    last: Cell<Option<MigrateStep>>,
}

impl Shown {
    pub(super) fn new() -> Shown {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Shown { bar, last: Cell::new(None) }
    }

    pub(super) fn show(&self, progress: &Progress) {
        let (step, rounds) = (progress.step, progress.rounds);
        let in_rounds = if rounds > 0 { format!(", round {rounds}") } else { String::new() };
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{step}: {}{in_rounds}", HumanBytes(progress.bytes)));
            }
            None if self.last.get() != Some(step) => {
                let _nobody_reads = writeln!(stderr(), "{step}");
            }
            None => {}
        }
        self.last.set(Some(step));
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
