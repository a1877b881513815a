//! Runs the steps of the demonstration, says what happens, and keeps the results.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// What `--json` prints.
///
/// Fields may be added; a change of what one means, or its loss, comes with a higher `format`.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) format: u32,
    /// Everything passed.
    pub(super) passed: bool,
    pub(super) seconds: f64,
    pub(super) checks: Vec<Check>,
}

/// One step.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// What it was about: a device, or `speed`.
    pub(super) about: &'static str,
    pub(super) name: &'static str,
    pub(super) passed: bool,
    pub(super) seconds: f64,
    /// What was seen; of a failure, what went wrong.
    pub(super) seen: String,
    /// Figures, by name; the unit is the end of the name.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub(super) figures: serde_json::Map<String, serde_json::Value>,
}

/// What a step has to tell when it went well.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) text: String,
    pub(super) figures: serde_json::Map<String, serde_json::Value>,
}

impl Seen {
    /// Adds a figure for `--json`.
    pub(super) fn figure(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.figures.insert(name.into(), value.into());
        self
    }
}

impl<T: Into<String>> From<T> for Seen {
    fn from(text: T) -> Self {
        Seen { text: text.into(), ..Seen::default() }
    }
}

/// The step that is under way, and those that were.
pub(super) struct Stage {
    /// Standard output belongs to the JSON, so the story goes to standard error.
    json: bool,
    /// Drawn on standard error, if that is a terminal and the story is not piped elsewhere.
    bar: ProgressBar,
    began: Instant,
    about: &'static str,
    checks: Vec<Check>,
}

const STYLE: &str = "{spinner} [{pos}/{len}] {msg}";

impl Stage {
    /// `steps`: how many checks there will be.
    pub(super) fn new(json: bool, steps: u64) -> Self {
        let drawn = std::io::stderr().is_terminal() && (json || std::io::stdout().is_terminal());
        let target =
            if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style);
        }
        if drawn {
            bar.enable_steady_tick(Duration::from_millis(80));
        }
        Stage { json, bar, began: Instant::now(), about: "", checks: Vec::new() }
    }

    /// Begins a part, with a heading.
    pub(super) fn about(&mut self, about: &'static str, heading: &str) {
        self.about = about;
        self.say(&format!("\n{about}: {heading}"));
    }

    /// Prints a text, as it is, and a newline.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| {
            // Nobody listens any more: the results count, not the story.
            let _closed = match self.json {
                true => writeln!(std::io::stderr(), "{text}"),
                false => writeln!(std::io::stdout(), "{text}"),
            };
        });
    }

    /// Does a step and prints how it went. `false` if it failed.
    pub(super) fn check(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> anyhow::Result<Seen>,
    ) -> bool {
        self.attempt(name, step).is_some()
    }

    /// As [`check`](Self::check), for a step that makes something.
    pub(super) fn make<T>(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> anyhow::Result<(T, Seen)>,
    ) -> Option<T> {
        let mut made = None;
        self.attempt(name, || {
            let (value, seen) = step()?;
            made = Some(value);
            Ok(seen)
        })?;
        made
    }

    fn attempt(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> anyhow::Result<Seen>,
    ) -> Option<()> {
        self.bar.set_message(format!("{}: {name}", self.about));
        let began = Instant::now();
        let result = step();
        let seconds = began.elapsed().as_secs_f64();
        let passed = result.is_ok();
        let seen = result.unwrap_or_else(|e| format!("{e:#}").into());
        let mark = if passed { "ok  " } else { "FAIL" };
        match seen.text.contains('\n') {
            true => self.say(&format!("  {mark}  {name}:\n{}", super::indented(&seen.text))),
            false => self.say(&format!("  {mark}  {name}: {}", seen.text)),
        }
        let Seen { text: seen, figures } = seen;
        self.checks.push(Check { about: self.about, name, passed, seconds, seen, figures });
        self.bar.inc(1);
        passed.then_some(())
    }

    /// Prints the table of all steps and gives the results.
    pub(super) fn end(self) -> Results {
        self.bar.finish_and_clear();
        let seconds = self.began.elapsed().as_secs_f64();
        let mut table = String::from("\nSummary\n");
        for check in &self.checks {
            let mark = if check.passed { "ok" } else { "FAIL" };
            let (about, name, time) = (check.about, check.name, milliseconds(check.seconds));
            table.push_str(&format!("  {mark:<5} {about:<8} {name:<40} {time:>12}\n"));
        }
        let failed = self.checks.iter().filter(|check| !check.passed).count();
        let all = self.checks.len();
        let verdict = match failed {
            0 => format!("all {all} passed"),
            _ => format!("{failed} of {all} FAILED"),
        };
        table.push_str(&format!("  {verdict}, in {seconds:.1} s"));
        self.say(&table);
        Results { format: 1, passed: failed == 0 && all > 0, seconds, checks: self.checks }
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_fails_all_and_is_told() {
        let mut stage = Stage::new(true, 3);
        stage.about("stage", "a test");
        assert!(stage.check("good", || Ok(Seen::from("well").figure("count", 3))));
        assert!(!stage.check("bad", || Err(anyhow::anyhow!("inner").context("outer"))));
        assert_eq!(stage.make("more", || Ok((7, "seven".into()))), Some(7));
        let results = stage.end();
        assert!(!results.passed);
        let passed: Vec<_> = results.checks.iter().map(|check| check.passed).collect();
        assert_eq!(passed, [true, false, true]);
        assert_eq!(results.checks[0].figures["count"], 3);
        assert_eq!(results.checks[1].seen, "outer: inner");
    }

    #[test]
    fn nothing_done_is_not_passed() {
        assert!(!Stage::new(true, 0).end().passed);
    }
}
