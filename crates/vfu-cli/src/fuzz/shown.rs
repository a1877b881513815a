//! How far a run has come, on standard error.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the bar changes.
const EACH: Duration = Duration::from_millis(100);

/// A bar on a terminal. Nothing elsewhere, but what was found.
pub(super) struct Shown {
    bar: Option<ProgressBar>,
    timed: bool,
    began: Instant,
    next: Instant,
}

impl Shown {
    /// The bar goes to the end of `cases`, or of `time`.
    pub(super) fn new(time: Option<Duration>, cases: Option<u64>) -> Shown {
        let timed = cases.is_none() && time.is_some();
        let bar = stderr().is_terminal().then(|| {
            let whole = cases.or(time.map(|time| time.as_millis() as u64));
            let bar = whole.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let part = if whole.is_some() { "{bar:24} {percent}%" } else { "{spinner}" };
            let template = format!("[{{elapsed_precise}}] {part} {{msg}}");
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style);
            }
            bar
        });
        let began = Instant::now();
        Shown { bar, timed, began, next: began }
    }

    /// Shows how many cases are done, and some words.
    pub(super) fn progress(&mut self, cases: u64, words: impl FnOnce() -> String) {
        let Some(bar) = &self.bar else { return };
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + EACH;
        let took = now.duration_since(self.began);
        bar.set_position(if self.timed { took.as_millis() as u64 } else { cases });
        let rate = cases as f64 / took.as_secs_f64().max(0.001);
        bar.set_message(format!("{cases} cases, {rate:.0}/s; {}", words()));
    }

    /// A line above the bar.
    pub(super) fn say(&self, line: &str) {
        let print = || {
            let _nobody_reads = writeln!(stderr(), "{line}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
