//! Runs tests and says how they went.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::cases;
use crate::lab::{Bench, Lab};

/// One test.
#[derive(Debug)]
pub struct Test {
    /// Its name, on the command line and for its folder of logs.
    pub name: &'static str,
    /// What it shows, in a line.
    pub what: &'static str,
    /// The test itself.
    pub run: fn(&Bench<'_>) -> Result<()>,
}

/// Runs the named tests, or all but the long ones, one after another. A name may end in `*`, for all
/// that begin so. Returns how many failed.
///
/// # Errors
///
/// If there is no test of that name, or the guests cannot be set up.
pub fn run(names: &[String]) -> Result<usize> {
    for name in names {
        if !cases::all().any(|test| fits(name, test)) {
            bail!("there is no test {name:?}; `vfu-guest list` shows all");
        }
    }
    let chosen: Vec<&Test> = match names {
        [] => cases::by_default().collect(),
        _ => cases::all().filter(|test| names.iter().any(|name| fits(name, test))).collect(),
    };
    let lab = Lab::open()?;
    let (mut passed, mut failed) = (0, 0);
    let begun = Instant::now();
    for test in chosen {
        let start = Instant::now();
        let bench = lab.bench(test.name)?;
        match (test.run)(&bench).and_then(|()| bench.no_complaints()) {
            Ok(()) => {
                passed += 1;
                println!("ok {} {:.1}s", test.name, start.elapsed().as_secs_f32());
            }
            Err(error) => {
                failed += 1;
                println!("FAIL {}: {error:#} (log: {})", test.name, bench.logs().display());
                show_tails(bench.logs());
            }
        }
    }
    crate::say(format!("{:.0} s in all", begun.elapsed().as_secs_f32()));
    println!("{passed} passed, {failed} failed");
    Ok(failed)
}

fn fits(name: &str, test: &Test) -> bool {
    match name.strip_suffix('*') {
        Some(beginning) => test.name.starts_with(beginning),
        None => test.name == name,
    }
}

/// The last lines of every log of a test.
pub fn show_tails(logs: &Path) {
    const LINES: usize = 25;
    let Ok(entries) = fs::read_dir(logs) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            continue;
        }
        println!("---- {} (last lines)", path.file_name().unwrap_or_default().to_string_lossy());
        for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
            println!("{}", line.trim_end());
        }
    }
}
