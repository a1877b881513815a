//! A hostile server: the run, and where its scripts go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, anyhow};
use vfu_fuzz::{ClientFound, Clients, Hunt, HuntError, Outcome, Plan, Shape};

use super::report::{self, Broken, Summary};
use super::shown::Shown;
use super::{Args, read_script};
use crate::exit::Exit;

pub(super) fn run(args: &Args, path: &Path, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
    let only: Option<Plan> = args.replay.as_deref().map(read_script).transpose()?;
    let clients = Clients {
        seed: args.seed(),
        cases: args.cases,
        time: args.time(),
        timeout: args.timeout,
        minimise: args.minimise(),
        command: args.client.clone(),
        ignore: args.ignore.clone(),
    };
    let hunt = Hunt::new(path).map_err(|e| Exit::Socket.with(e))?;
    let mut shown = Shown::new(clients.time, clients.cases);
    let seed = only.is_none().then_some(clients.seed);
    shown.say(&match seed {
        Some(seed) => format!("listening on {}, seed {seed}", path.display()),
        None => format!("listening on {}", path.display()),
    });
    let alone = clients.command.is_none();
    let report = hunt.run(&clients, only.as_ref(), stop, &mut |number, plan, outcome| {
        if alone {
            shown.say(&told(number, plan, outcome));
        }
        shown.progress(number + 1, String::new);
    });
    shown.end();
    let report = report.map_err(|e| match e {
        e @ HuntError::Listen { .. } => Exit::Socket.with(e),
        HuntError::Program(e) => anyhow!(e),
    })?;
    let found = report.found.iter().map(|found| broken(args, clients.seed, found));
    let client = args.client.as_deref().unwrap_or_default();
    let summary = Summary {
        format: 1,
        socket: path.to_owned(),
        seed,
        seconds: report.took.as_secs_f64(),
        ended: report.ended,
        stats: None,
        clients: Some(report::Clients {
            cases: report.clients,
            answered: report.answered,
            attacked: report.attacked,
        }),
        process: None,
        unwatched: None,
        first: None,
        last: None,
        again: format!("vfu fuzz --listen {} --client '{client}' --replay", path.display()),
        found: found.collect::<anyhow::Result<_>>()?,
    };
    report::print(&summary, args.json)
}

/// A line on a client, and its plan.
fn told(number: u64, plan: &Plan, outcome: &Outcome) -> String {
    let end = if outcome.left { "the client left" } else { "we closed" };
    let acts: Vec<_> = plan.acts.iter().map(ToString::to_string).collect();
    let far = match outcome.attacked {
        Some(command) => format!("attacked first at command {command}"),
        None => "not attacked: it left before".into(),
    };
    let answered = outcome.answered;
    format!("client {number}: {}; {answered} answered well, {far}; {end}", acts.join(", "))
}

fn broken(args: &Args, seed: u64, found: &ClientFound) -> anyhow::Result<Broken> {
    let acts = match found.plan.acts.len() {
        1 => "1 act".into(),
        n => format!("{n} acts"),
    };
    let shape = match found.shape {
        Shape::Minimised => format!("minimised to {acts}"),
        Shape::Shortened => format!("shortened to {acts}; there was no time for more"),
        Shape::NotAgain => format!("it did not happen again with these {acts}"),
        Shape::Untried => format!("{acts}, not minimised"),
    };
    let file = match (found.case, &args.replay) {
        (None, Some(file)) if found.shape != Shape::Minimised => file.clone(),
        _ => save(args, seed, found, &shape)?,
    };
    Ok(Broken {
        kind: found.finding.kind.name().to_owned(),
        command: found.finding.command,
        text: found.finding.text.clone(),
        times: found.times,
        case: found.case,
        minimised: found.shape == Shape::Minimised,
        shape,
        script: found.plan.to_string(),
        file,
        last_words: found.last_words.clone(),
    })
}

fn save(args: &Args, seed: u64, found: &ClientFound, shape: &str) -> anyhow::Result<PathBuf> {
    let (kind, text) = (found.finding.kind, &found.finding);
    let at = found.finding.command.map_or_else(String::new, |command| format!("-{command}"));
    let name = match found.case {
        Some(_) => format!("vfu-fuzz-{seed}-{kind}{at}.txt"),
        None => format!("vfu-fuzz-minimised-{kind}{at}.txt"),
    };
    let path = args.save.join(name);
    let words: String = found.last_words.lines().map(|line| format!("#   {line}\n")).collect();
    let said =
        if words.is_empty() { words } else { format!("# what the client said last:\n{words}") };
    let text = format!("# {text}\n# {shape}\n{said}{}", found.plan);
    fs::create_dir_all(&args.save)
        .and_then(|()| fs::write(&path, text))
        .with_context(|| format!("--save: {}", path.display()))?;
    Ok(path)
}
