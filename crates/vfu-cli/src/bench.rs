//! `vfu bench`: what things cost, beside their limits.

use std::fs::File;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vfu_bench::machine::Machine;
use vfu_bench::report::{Report, heading, line, markdown, page};
use vfu_bench::{Effort, Row, rows};

use crate::exit::Exit;

const EXAMPLES: &str = "\
Each row is an operation, measured in turns with its limit: the least that this machine takes for the
same. `ratio` is the median of ours by the limit, with its quartiles behind it; `ok` or `above` says
whether the target is met. On a machine that does something else at the same time look at the
quartiles, and run it again.

Examples:
  vfu bench --quick                    all rows but the slowest, in about half a minute
  vfu bench --html report.html         all rows, more exactly, and a page with plots
  vfu bench --markdown > table.md      tables for a page of documentation
  vfu bench read4 map                  rows whose names contain read4, or map
  vfu bench --socket /tmp/other.sock   what any vfio-user server costs: reads of its configuration
                                       space, memory that is mapped and taken back";

/// Measure what accesses, DMA and interrupts cost, beside what the machine takes at the least
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only rows whose names contain one of these
    filters: Vec<String>,

    /// Spend about a fifth of a second on each row instead of two
    #[arg(long, short)]
    quick: bool,

    /// List the rows, with their limits and targets, and end
    #[arg(long)]
    list: bool,

    /// Measure the server at this socket instead of our own
    ///
    /// Configuration space is read, and memory mapped and taken back, which harms no device. Have both
    /// run on one CPU, by `taskset`, to compare servers.
    #[arg(long, short = 's', value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Print JSON to standard output, and the table to standard error
    #[arg(long)]
    json: bool,

    /// Print tables in Markdown to standard output, and the table to watch to standard error
    #[arg(long, conflicts_with = "json")]
    markdown: bool,

    /// Write a page with plots; it needs no network to be looked at
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Exit with 1 if a target is missed
    #[arg(long)]
    strict: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut all = match &args.socket {
        Some(socket) => rows::of_server(socket),
        None => rows::all(),
    };
    let wanted = |row: &Row| args.filters.iter().any(|part| row.name.contains(part.as_str()));
    all.retain(|row| args.filters.is_empty() || wanted(row));
    if all.is_empty() {
        let filters = args.filters.join(" ");
        let why = anyhow!("no row's name contains any of: {filters}; see vfu bench --list");
        return Err(Exit::Usage.with(why));
    }
    if args.list {
        return list(&all);
    }
    let left_out = if args.quick { leave_out_slow(&mut all, &args.filters) } else { Vec::new() };
    // The file is made first: it would be a pity to measure and have no place for it.
    let html = args.html.as_deref().map(create).transpose()?;
    let effort = if args.quick { Effort::Quick } else { Effort::Full };
    let mut report = Report::new(Machine::here());
    let elsewhere = args.json || args.markdown;
    measure(&all, effort, elsewhere, &mut report)?;
    for name in left_out {
        say(elsewhere, &format!("left out, as it takes long: {name} (name it to have it)"))?;
    }
    if args.socket.is_none() && args.filters.is_empty() {
        report.counted = rows::counted()?;
        for counted in &report.counted {
            say(elsewhere, &format!("{}: {} {}", counted.name, counted.value, counted.unit))?;
        }
    }
    if args.json {
        serde_json::to_writer_pretty(stdout(), &report)?;
        writeln!(stdout())?;
    } else if args.markdown {
        write!(stdout(), "{}", markdown(&report))?;
    }
    if let (Some(mut file), Some(path)) = (html, &args.html) {
        let written = file.write_all(page(&report).as_bytes());
        written.with_context(|| format!("writing {}", path.display()))?;
        say(elsewhere, &format!("wrote {}", path.display()))?;
    }
    Ok(verdict(&report, args.strict))
}

/// Takes those out that take long to set up, unless they are asked for by their names.
fn leave_out_slow(all: &mut Vec<Row>, filters: &[String]) -> Vec<String> {
    let (slow, rest) =
        std::mem::take(all).into_iter().partition(|row| row.slow && !filters.contains(&row.name));
    *all = rest;
    let slow: Vec<Row> = slow;
    slow.into_iter().map(|row| row.name).collect()
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("--html {}", path.display()))
}

fn list(all: &[Row]) -> anyhow::Result<ExitCode> {
    let mut out = stdout().lock();
    for row in all {
        let target = row.target.map_or("-".into(), |target| format!("{target:.2}"));
        writeln!(
            out,
            "{:32} {target:>5}  {}\n{:40}against {}",
            row.name, row.about, "", row.limit
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The table goes where people look: standard output, unless that is for a program.
fn say(elsewhere: bool, text: &str) -> anyhow::Result<()> {
    if elsewhere {
        writeln!(stderr(), "{text}")?
    } else {
        writeln!(stdout(), "{text}")?
    }
    Ok(())
}

fn measure(
    all: &[Row],
    effort: Effort,
    elsewhere: bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let machine = &report.machine;
    let (cpu, cpus, load) = (&machine.processor, machine.cpus, machine.load);
    say(elsewhere, &format!("vfu {} on {cpu}, {cpus} CPUs, load {load:.2}", machine.vfu))?;
    let bar = ProgressBar::with_draw_target(Some(all.len() as u64), draw_target());
    bar.set_style(ProgressStyle::with_template("{spinner} [{pos}/{len}] {msg}")?);
    let mut group = None;
    for row in all {
        if group != Some(row.group) {
            group = Some(row.group);
            bar.suspend(|| say(elsewhere, &format!("\n{}", heading(row.group))))?;
        }
        bar.set_message(row.about.clone());
        let text = line(report.add(row, row.measure(effort)));
        bar.suspend(|| say(elsewhere, &text))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    say(elsewhere, "")
}

fn draw_target() -> ProgressDrawTarget {
    if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

/// A row that could not be measured is a failure; a target that was missed is one if that is asked.
fn verdict(report: &Report, strict: bool) -> ExitCode {
    let failed = report.rows.iter().any(|line| line.result.is_err());
    let missed = report.rows.iter().any(|line| line.met == Some(false));
    if failed || (strict && missed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
