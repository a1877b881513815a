//! `vfu fuzz`: a hostile client for any server, and a hostile server for any client.

mod attack;
mod listen;
mod report;
mod shown;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::ArgGroup;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use vfu_fuzz::{Area, Kind};

use crate::connect::parse_wait;
use crate::exit::Exit;

const NOTES: &str = "\
Examples:
  vfu serve edu --socket-path /tmp/edu.sock &
  vfu fuzz /tmp/edu.sock --seconds 60

  A server that may die: it is started, and started again, so that what killed it can be made small:

    vfu fuzz /tmp/dev.sock --restart './my-device /tmp/dev.sock'

  The same run again; one part of it; what was found in it:

    vfu fuzz /tmp/edu.sock --seed 1234
    vfu fuzz /tmp/edu.sock --seed 1234 --only dma,irqs --cases 1000
    vfu fuzz /tmp/edu.sock --replay vfu-fuzz-1234-hung.txt

  A hostile server for whoever connects; and for a client that is started again and again:

    vfu fuzz --listen /tmp/bad.sock
    vfu fuzz --listen /tmp/bad.sock --client 'vfu probe --timeout 1 {}'

A client plays cases, each a connection or some. A case is what a client may send, with something wrong \
in it: numbers, sizes, types, descriptors, JSON, pieces, ends. The device is used as it is found, \
registers are written: do not do this to a device that somebody needs. What each command is answered is \
compared with what was asked, and afterwards the server must serve well-formed commands, on the same \
connection if it kept it open and on a new one.

What counts as broken:
{kinds}
If the server's process can be found (SO_PEERCRED), its descriptors, mappings and memory are watched.

What is found is made smaller as long as it happens again, and saved as a text file that --replay \
plays. Lines are steps; change them at will. A server that dies is found once, unless --restart says how \
to start it again.

A hostile server behaves well up to some message of the client, and then answers one wrongly, sends what \
nobody asked for, closes, or says nothing more. A client fails if a signal or a panic (exit code 101) ends \
it, or if it runs for longer than --timeout; its other exit codes are its own.

--json prints one object when the run ends; the chapter \"Fuzzing\" of the guide lists its keys.

Exit codes: 0 nothing found, 5 something found, 4 there is no such server, others as for all commands.";

/// Attack a vfio-user server or client until it breaks
#[derive(Debug, clap::Args)]
#[command(after_long_help = notes())]
#[command(group(ArgGroup::new("whom").required(true)))]
pub(crate) struct Args {
    /// The UNIX socket of the server to attack
    #[arg(value_name = "SOCKET", group = "whom")]
    socket: Option<PathBuf>,

    /// Be a server at this path instead, and attack each client
    #[arg(long, value_name = "PATH", group = "whom")]
    listen: Option<PathBuf>,

    /// How long, in seconds; 0: until Ctrl-C
    #[arg(long, value_name = "N", value_parser = parse_wait)]
    #[arg(
        default_value = "60",
        default_value_if("replay", clap::builder::ArgPredicate::IsPresent, "0")
    )]
    #[arg(default_value_if("cases", clap::builder::ArgPredicate::IsPresent, "0"))]
    seconds: Duration,

    /// How many cases (with --listen: clients) [default: no limit]
    #[arg(long, value_name = "N")]
    cases: Option<u64>,

    /// Which cases: the same seed gives the same ones [default: a new one, which is printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Attack only this: framing, fds, version, dma, regions, irqs, migration, life
    #[arg(long, value_name = "AREAS", value_delimiter = ',', conflicts_with = "listen")]
    only: Vec<Area>,

    /// Do not report these kinds of findings
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    ignore: Vec<Kind>,

    /// Play this script once instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cases", "seed", "only"])]
    replay: Option<PathBuf>,

    /// Where to save scripts of what was found
    #[arg(long, value_name = "DIR", default_value = ".")]
    save: PathBuf,

    /// Start the server by this shell command, and again whenever it has died or hangs
    ///
    /// A socket that is left at SOCKET is removed before. What the server writes at last is part of
    /// the report.
    #[arg(long, value_name = "COMMAND", conflicts_with = "listen")]
    restart: Option<String>,

    /// The server may end by itself, e.g. with each client: only a crash is a finding
    ///
    /// A crash is an end by a signal, or exit code 101 or 129 to 192. Sanitizers of C programs crash
    /// with ASAN_OPTIONS=abort_on_error=1.
    #[arg(long, requires = "restart")]
    may_exit: bool,

    /// Start a client by this shell command for each case; {} is the socket's path
    #[arg(long, value_name = "COMMAND", conflicts_with = "socket")]
    client: Option<String>,

    /// How long an answer may take, or a client run, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_timeout)]
    timeout: Duration,

    /// How long to make each script smaller, in seconds; 0: not at all [default: 60; --replay: 0]
    #[arg(long, value_name = "SECONDS", value_parser = parse_wait)]
    minimise: Option<Duration>,

    /// How much the memory of the server may grow, in MiB
    #[arg(long, value_name = "MIB", default_value = "256", conflicts_with = "listen")]
    max_growth: u32,

    /// Print the report as JSON, for programs
    #[arg(long)]
    json: bool,

    /// How long to wait for the server to listen, in seconds: one that was just started may not yet
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_wait)]
    wait: Duration,
}

impl Args {
    fn minimise(&self) -> Duration {
        let default = if self.replay.is_some() { 0 } else { 60 };
        self.minimise.unwrap_or(Duration::from_secs(default))
    }

    fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)))
    }

    fn time(&self) -> Option<Duration> {
        Some(self.seconds).filter(|time| !time.is_zero())
    }
}

fn notes() -> String {
    let kinds = Kind::ALL.iter().map(|kind| format!("  {kind:18}{}\n", kind.meaning()));
    NOTES.replace("{kinds}", &kinds.collect::<String>())
}

/// An answer that may take no time, or for ever, would say nothing.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_wait(text) {
        Ok(timeout) if timeout >= Duration::from_millis(10) => Ok(timeout),
        _ => Err("a number of seconds from 0.01 to 86400".into()),
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, stop.clone())
            .and_then(|_| flag::register(signal, stop.clone()))
            .context("can't handle signals")?;
    }
    match (&args.socket, &args.listen) {
        (Some(socket), _) => attack::run(args, socket, &stop),
        (None, Some(path)) => listen::run(args, path, &stop),
        (None, None) => Err(Exit::Usage.with(anyhow!("neither SOCKET nor --listen is given"))),
    }
}

/// The script of `--replay`.
fn read_script<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    file: &Path,
) -> anyhow::Result<T> {
    let wrong =
        |e: anyhow::Error| Exit::Usage.with(e.context(format!("--replay {}", file.display())));
    let text = std::fs::read_to_string(file).map_err(|e| wrong(e.into()))?;
    text.parse().map_err(|e: T::Err| wrong(e.into()))
}
