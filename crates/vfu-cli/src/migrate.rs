//! `vfu migrate`: a device with its state, from one server to another.

mod hammer;
mod progress;
mod report;

use std::error::Error;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use vfu::Client;
use vfu::client::{ClientError, Migrate, MigrateError, MigrateStep, Side};

use crate::connect::{self, Timeout, parse_timeout, parse_wait};
use crate::exit::Exit;
use hammer::Hammer;
use progress::Shown;
use report::Report;

const NOTES: &str = "\
Examples:
  vfu serve edu --socket-path /tmp/a &
  vfu serve edu --socket-path /tmp/b --incoming &
  vfu migrate /tmp/a /tmp/b

  See that nothing is lost while four threads work on the device's registers:

    vfu migrate /tmp/a /tmp/b --hammer

What happens: if the source offers it (PRE_COPY), state is copied in rounds while the device runs. \
Then the source stops, the rest is copied, the destination checks all of it and goes on. The \
downtime is the time between that stop and that start. Afterwards the source is stopped for good; \
DEVICE_RESET makes a fresh device of it. The destination keeps the state for its next client.

Both devices have to be of the same kind. A destination that was not started with --incoming is \
taken, too, and loses its own state.

A server serves one client at a time, and here that is this command: it can't move a device that a \
virtual machine is using. For that the machine's monitor has to do it, with the same library: \
`vfu::client::Migrate`.

If anything fails, or at SIGINT or SIGTERM, the destination is reset and the source goes on; the \
message says so. If this command is killed meanwhile, the source is left stopped or running, but \
never are both running with the state.

--json prints one object: format (1), source, destination, device, state_bytes, early_bytes, rounds, \
downtime_seconds, total_seconds, and with --hammer: hammer, an object with device, threads, \
accesses_before, accesses_after, events, longest_access_seconds.";

/// The least of a state that has to be moved in the time that two answers may take, in bytes.
const PACE: u64 = 1 << 20;

/// Move a device with its state from one server to another
#[derive(Debug, clap::Args)]
#[command(after_long_help = NOTES)]
pub(crate) struct Args {
    /// The UNIX socket that the device is served at
    #[arg(value_name = "SOURCE")]
    source: PathBuf,

    /// The UNIX socket that it is to be served at: `vfu serve MODEL --incoming`
    #[arg(value_name = "DESTINATION")]
    destination: PathBuf,

    /// Print the figures as JSON, for programs
    #[arg(long)]
    json: bool,

    /// Stop the source when a round took no longer than this, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "0.3", value_parser = parse_wait)]
    downtime_limit: Duration,

    /// The most rounds while the device runs; 0: stop it at once
    #[arg(long, value_name = "N", default_value = "30")]
    max_rounds: u32,

    /// Work on the device's registers meanwhile, and check that no access is lost or done twice
    ///
    /// For edu and dmatest. Threads write and read registers of the source, and then of the
    /// destination, and count its interrupts or copies. They wait from just before the source stops
    /// until the destination runs, as the processors of a virtual machine would.
    #[arg(long, value_name = "THREADS", num_args = 0..=1, default_missing_value = "4")]
    #[arg(require_equals = true, value_parser = clap::value_parser!(u32).range(1..=16))]
    hammer: Option<u32>,

    /// How long to wait for each server to listen, in seconds: one that was just started may not yet
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_wait)]
    wait: Duration,

    /// How long a server may take for each answer, in seconds; 0: for ever
    ///
    /// In twice that time, 1 MiB of the state has to be moved, or its end has to come.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_timeout)]
    timeout: Timeout,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (source, destination) = (&args.source, &args.destination);
    let from = connect::open(source, args.wait, args.timeout.0)?;
    check_other(source, destination)?;
    let to = connect::open(destination, args.wait, args.timeout.0)?;
    let device = ids(&from).map_err(|e| connect::failed(source, e))?;
    let (shown, canceled) = (Shown::new(), cancel_by_signal()?);
    let (pace, time) = args.timeout.0.map_or((0, Duration::ZERO), |time| (PACE, time * 2));
    let migrate = Migrate::new(&from, &to)
        .min_pace(pace, time)
        .cancel_if(|| canceled.load(Ordering::Relaxed))
        .downtime_limit(args.downtime_limit)
        .max_rounds(args.max_rounds)
        .on_progress(|progress| shown.show(progress));
    let moved = match args.hammer {
        None => migrate.run().map(|moved| (moved, None)),
        Some(threads) => {
            let hammer = Hammer::new(device, &from, &to, threads)?;
            hammer.during(migrate)?.map(|(moved, hammered)| (moved, Some(hammered)))
        }
    };
    shown.end();
    let (moved, hammer) = moved.map_err(|e| explain(&e, &args))?;
    let report = Report::new(&args, device, &moved, hammer);
    let text = if args.json { report.json()? } else { report.text() };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// One socket can't be both: it serves one client at a time, so that would wait in vain.
fn check_other(source: &Path, destination: &Path) -> anyhow::Result<()> {
    let file = |path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    match (file(source), file(destination)) {
        (Some(a), Some(b)) if a == b => Err(Exit::Usage.with(anyhow!(
            "{} and {} are the same socket; the destination is another server, started with \
             `vfu serve MODEL --socket-path PATH --incoming`",
            source.display(),
            destination.display()
        ))),
        _ => Ok(()),
    }
}

/// What the first signal sets; the second one ends the process.
fn cancel_by_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let canceled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, canceled.clone())
            .and_then(|_| flag::register(signal, canceled.clone()))
            .context("can't handle signals")?;
    }
    Ok(canceled)
}

/// Vendor and device id.
fn ids(client: &Client) -> Result<(u16, u16), ClientError> {
    let mut bytes = [0; 4];
    client.region_read(7, 0, &mut bytes)?;
    let [a, b, c, d] = bytes;
    Ok((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
}

/// The error of a move, with the sockets and what can be done.
fn explain(error: &MigrateError, args: &Args) -> anyhow::Error {
    let Args { source, destination, .. } = args;
    let refused_state = error.step == MigrateStep::Load && error.side == Some(Side::Destination);
    let cause = error.source().and_then(|e| e.downcast_ref::<ClientError>());
    let refused = matches!(cause, Some(ClientError::Refused { .. }));
    let exit = match cause {
        Some(_) if !refused => Exit::Peer,
        _ => Exit::Failure,
    };
    let (source, destination) = (source.display(), destination.display());
    let mut context = format!("{source} to {destination}: {error}");
    if let Some(cause) = error.source() {
        context = format!("{context}: {cause}");
    }
    if refused_state && refused {
        context.push_str("; the destination's log says what it did not like");
    }
    exit.with(anyhow!(context))
}
