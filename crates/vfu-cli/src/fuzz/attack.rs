//! A hostile client: the run, and where its scripts go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, anyhow};
use vfu_fuzz::{Event, Found, FuzzError, Options, Report, Script, Shape, SurveyError, Target};

use super::report::{self, Broken, Summary};
use super::shown::Shown;
use super::{Args, read_script};
use crate::connect;
use crate::exit::Exit;

pub(super) fn run(args: &Args, socket: &Path, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
    let script: Option<Script> = args.replay.as_deref().map(read_script).transpose()?;
    let seed = args.seed();
    let mut options = Options {
        seed,
        cases: args.cases,
        time: args.time(),
        timeout: args.timeout,
        minimise: args.minimise(),
        ignore: args.ignore.clone(),
        may_exit: args.may_exit,
        memory_kib: u64::from(args.max_growth) << 10,
        ..Options::default()
    };
    if !args.only.is_empty() {
        options.areas = args.only.clone();
    }
    if args.restart.is_none() {
        // Says what is wrong with the path, and waits for one that has just been started.
        drop(connect::open(socket, args.wait, Some(args.timeout))?);
    }
    let mut shown = Shown::new(options.time, options.cases);
    if script.is_none() {
        shown.say(&format!("seed {seed}"));
    }
    let mut unsaved = None;
    let mut show = |event: Event<'_>| {
        match event {
        Event::Progress(stats) => shown.progress(stats.cases, || {
            let errors = stats.replies() - stats.answers;
            let (connections, messages) = (stats.connections, stats.messages);
            let (answers, closes) = (stats.answers, stats.closes);
            format!(
                "{connections} connections, {messages} messages; {answers} answers, {errors} errors, \
                 {closes} closed"
            )
        }),
        Event::New(finding) => shown.say(&format!("found {finding}")),
        Event::Found(found) => {
            unsaved = unsaved.take().or(save(args, seed, found).err());
            shown.say(&format!("  {}", shape(found)));
        }
    }
    };
    let target = Target::new(socket).restart(args.restart.clone());
    let report = match &script {
        Some(script) => target.replay(script, &options, stop, &mut show),
        None => target.attack(&options, stop, &mut show),
    };
    shown.end();
    let report = report.map_err(|e| explain(socket, e))?;
    if let Some(e) = unsaved {
        return Err(e);
    }
    let summary = summary(args, socket, (script.is_none()).then_some(seed), &report);
    report::print(&summary, args.json)
}

fn explain(socket: &Path, e: FuzzError) -> anyhow::Error {
    let exit = match &e {
        FuzzError::Survey(SurveyError::Connect(_) | SurveyError::Silent(_)) => Exit::Peer,
        FuzzError::Survey(SurveyError::Wrong(..)) => Exit::Peer,
        FuzzError::Program(_) => Exit::Failure,
    };
    exit.with(anyhow!("{}: {e}", socket.display()))
}

/// How the script of a finding came to be, in words.
fn shape(found: &Found) -> String {
    let steps: usize = found.script.connections.iter().map(|c| c.steps.len()).sum();
    let connections = found.script.connections.len();
    let size = match connections {
        1 if steps == 1 => "1 step".into(),
        1 => format!("{steps} steps"),
        n => format!("{n} connections of {steps} steps"),
    };
    match found.shape {
        Shape::Minimised => format!("minimised to {size}"),
        Shape::Shortened => format!("shortened to {size}; there was no time for more"),
        Shape::NotAgain => format!("it did not happen again with these {size}"),
        Shape::Untried => format!("{size}, not minimised"),
    }
}

/// Where the script of what was found is saved.
fn file(args: &Args, seed: u64, found: &Found) -> PathBuf {
    let kind = found.finding.kind;
    let command = found.finding.command.map_or_else(String::new, |command| format!("-{command}"));
    let name = match (found.case, &args.replay) {
        // It came from a file, which is as good.
        (None, Some(file)) if found.shape != Shape::Minimised => return file.clone(),
        (None, _) => format!("vfu-fuzz-minimised-{kind}{command}.txt"),
        (Some(_), _) => format!("vfu-fuzz-{seed}-{kind}{command}.txt"),
    };
    args.save.join(name)
}

/// Saves it, with what it is as a comment.
fn save(args: &Args, seed: u64, found: &Found) -> anyhow::Result<()> {
    let path = file(args, seed, found);
    if args.replay.as_ref() == Some(&path) {
        return Ok(());
    }
    let case = found.case.map_or_else(String::new, |case| format!("seed {seed}, case {case}; "));
    let words: String = found.last_words.lines().map(|line| format!("#   {line}\n")).collect();
    let said = if words.is_empty() { words } else { format!("# what the server said:\n{words}") };
    let text = format!("# {}\n# {case}{}\n{said}{}", found.finding, shape(found), found.script);
    fs::create_dir_all(&args.save)
        .and_then(|()| fs::write(&path, text))
        .with_context(|| format!("--save: {}", path.display()))
}

fn summary(args: &Args, socket: &Path, seed: Option<u64>, report: &Report) -> Summary {
    let restart = args.restart.as_ref();
    let broken = report.found.iter().map(|found| Broken {
        kind: found.finding.kind.name().to_owned(),
        command: found.finding.command,
        text: found.finding.text.clone(),
        times: found.times,
        case: found.case,
        minimised: found.shape == Shape::Minimised,
        shape: shape(found),
        script: found.script.to_string(),
        file: file(args, seed.unwrap_or(0), found),
        last_words: found.last_words.clone(),
    });
    Summary {
        format: 1,
        socket: socket.to_owned(),
        seed,
        seconds: report.took.as_secs_f64(),
        ended: report.ended,
        stats: Some(report.stats.clone()),
        clients: None,
        process: report.process.as_ref().ok().map(|p| (p.pid(), p.name().to_owned()).into()),
        unwatched: report.process.as_ref().err().cloned(),
        first: report.usage.map(|(first, _)| first),
        last: report.usage.map(|(_, last)| last),
        again: match restart {
            Some(command) => {
                format!("vfu fuzz {} --restart '{command}' --replay", socket.display())
            }
            None => format!("vfu fuzz {} --replay", socket.display()),
        },
        found: broken.collect(),
    }
}
