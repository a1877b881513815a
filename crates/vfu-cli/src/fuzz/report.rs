//! What a run gave, as text and as JSON.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use vfu_fuzz::{Ended, Stats, Usage};

use crate::exit::Exit;

/// Scripts of more lines are not printed: they are in their files.
const SHORT: usize = 24;

#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) format: u32,
    pub(super) socket: PathBuf,
    pub(super) seed: Option<u64>,
    pub(super) seconds: f64,
    pub(super) ended: Ended,
    #[serde(flatten)]
    pub(super) stats: Option<Stats>,
    #[serde(flatten)]
    pub(super) clients: Option<Clients>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unwatched: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<Usage>,
    #[serde(skip)]
    pub(super) again: String,
    pub(super) found: Vec<Broken>,
}

/// What clients did with a hostile server.
#[derive(Debug, Serialize)]
pub(super) struct Clients {
    /// Clients that connected.
    pub(super) cases: u64,
    /// Messages of clients that were answered well.
    pub(super) answered: u64,
    /// Connections that got as far as the wrong thing.
    pub(super) attacked: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Process {
    pid: i32,
    name: String,
}

impl From<(i32, String)> for Process {
    fn from((pid, name): (i32, String)) -> Process {
        Process { pid, name }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Broken {
    pub(super) kind: String,
    pub(super) command: Option<u16>,
    pub(super) text: String,
    pub(super) times: u64,
    pub(super) case: Option<u64>,
    pub(super) minimised: bool,
    #[serde(skip)]
    pub(super) shape: String,
    pub(super) script: String,
    pub(super) file: PathBuf,
    pub(super) last_words: String,
}

/// Prints the summary, and gives the exit code.
pub(super) fn print(summary: &Summary, json: bool) -> anyhow::Result<ExitCode> {
    let text = if json {
        serde_json::to_string_pretty(summary).context("the report as JSON")? + "\n"
    } else {
        human(summary)
    };
    match stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
        other => other.context("standard output")?,
    }
    Ok(if summary.found.is_empty() { ExitCode::SUCCESS } else { Exit::Found.into() })
}

fn human(summary: &Summary) -> String {
    let mut text = String::new();
    for broken in &summary.found {
        describe(&mut text, broken, &summary.again);
    }
    let _infallible = numbers(&mut text, summary);
    text
}

fn describe(text: &mut String, broken: &Broken, again: &str) {
    let times =
        if broken.times == 1 { String::new() } else { format!(" ({} times)", broken.times) };
    let case = broken.case.map_or_else(String::new, |case| format!("case {case}, "));
    let _infallible = write!(
        text,
        "{}{times}: {}\n  {case}{}; again: {again} {}\n",
        broken.kind,
        broken.text,
        broken.shape,
        broken.file.display()
    );
    if broken.script.lines().count() <= SHORT {
        broken.script.lines().for_each(|line| *text += &format!("    {}\n", shortened(line)));
    }
    if !broken.last_words.is_empty() {
        *text += "  what it said:\n";
        broken.last_words.lines().for_each(|line| *text += &format!("    {line}\n"));
    }
    text.push('\n');
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(160) {
        Some((at, _)) => format!("{}...", line.get(..at).unwrap_or_default()),
        None => line.to_owned(),
    }
}

fn numbers(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let seconds = summary.seconds;
    let cases = match (&summary.stats, &summary.clients) {
        (Some(stats), _) => stats.cases,
        (None, clients) => clients.as_ref().map_or(0, |clients| clients.cases),
    };
    if let Some(seed) = summary.seed {
        write!(text, "seed {seed}: ")?;
    }
    let s = if cases == 1 { "" } else { "s" };
    let rate = cases as f64 / seconds.max(0.001);
    let digits = if rate < 10.0 { 2 } else { 0 };
    write!(text, "{cases} case{s} in {seconds:.1} s ({rate:.digits$}/s)")?;
    if let Some(stats) = &summary.stats {
        let Stats { connections, messages, answers, closes, dma, dma_hostile, .. } = stats;
        writeln!(text, ", {connections} connections, {messages} messages")?;
        write!(
            text,
            "the server: {answers} answers, {closes} connections closed, {dma} DMA commands \
             ({dma_hostile} answered wrongly or late)"
        )?;
        for (errno, count) in &stats.errors {
            write!(text, ", {count} {errno}")?;
        }
    }
    if let Some(clients) = &summary.clients {
        let Clients { answered, attacked, .. } = clients;
        write!(text, ", {answered} messages answered well, {attacked} clients attacked")?;
    }
    text.push('\n');
    if let (Some(process), Some(first), Some(last)) =
        (&summary.process, summary.first, summary.last)
    {
        let Process { pid, name } = process;
        writeln!(
            text,
            "process {pid} ({name}): {} descriptors (at first {}), {} mappings ({}), {} KiB ({})",
            last.descriptors,
            first.descriptors,
            last.mappings,
            first.mappings,
            last.memory_kib,
            first.memory_kib
        )?;
    }
    if let Some(why) = &summary.unwatched {
        writeln!(text, "the server's process was not watched: {why}")?;
    }
    match summary.ended {
        Ended::Done => {}
        Ended::Stopped => writeln!(text, "stopped by a signal")?,
        Ended::ServerLost => writeln!(
            text,
            "ended early: the server serves nobody any more; --restart COMMAND starts it again"
        )?,
    }
    match summary.found.len() {
        0 => writeln!(text, "nothing found"),
        1 => writeln!(text, "1 thing found"),
        n => writeln!(text, "{n} things found"),
    }
}
