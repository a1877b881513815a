//! `vfu probe`: what is behind a socket.
//!
//! Reads only. It opens a session, asks for what the server describes, reads configuration space and
//! leaves. Sizes of BARs come from DEVICE_GET_REGION_INFO and not from writing to the registers.

mod capabilities;
mod collect;
mod dump;
mod extended;
mod header;
mod human;
mod names;
mod report;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::connect::{self, Timeout, parse_timeout, parse_wait};
use crate::exit::Exit;
use report::Report;

const EXAMPLES: &str = "\
Examples:
  vfu probe /tmp/edu.sock
  vfu probe /tmp/edu.sock --lspci | lspci -vv -F /dev/stdin
  vfu probe /tmp/edu.sock --json | jq '.config.bars'

Nothing is written to the device, and it is not reset. But a server serves one client at a time: \
while a virtual machine has the device, the probe waits in vain; and a device may take the end of \
the probe, like that of any client, as a reason to go back to its state at power-on.

--json prints one object. Its keys are: format (1), socket, session, device, moving, regions, \
interrupts, config, problems. Numbers are integers, sizes and offsets in bytes; flags are lists of names. Later \
versions may add keys; when one changes its meaning, `format` is counted up.";

/// Show what is behind a socket: capabilities, regions, interrupts, configuration space
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// The UNIX socket that the device is served at
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,

    /// Print everything as JSON, for programs
    #[arg(long, group = "form")]
    json: bool,

    /// Print configuration space in the form that `lspci -F` reads
    #[arg(long, group = "form")]
    lspci: bool,

    /// Print the bytes of configuration space
    #[arg(long, group = "form")]
    hex: bool,

    /// How long to wait for the server to listen, in seconds: one that was just started may not yet
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_wait)]
    wait: Duration,

    /// How long the server may take for each answer, in seconds; 0: for ever
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_timeout)]
    timeout: Timeout,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let path = &args.socket;
    let client = connect::open(path, args.wait, args.timeout.0)?;
    let report = collect::collect(path, &client).map_err(|e| connect::failed(path, e))?;
    drop(client); // the next client need not wait until our reader has read
    let text = if args.json {
        serde_json::to_string_pretty(&report).context("the report as JSON")? + "\n"
    } else if args.lspci {
        dump::lspci(config(&report)?)
    } else if args.hex {
        dump::hex(&config(&report)?.bytes)
    } else {
        human::text(&report)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {} // `vfu probe ... | head` is no failure
        other => other.context("standard output")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn config(report: &Report) -> anyhow::Result<&report::Config> {
    report.config.as_ref().ok_or_else(|| {
        let problems = report.problems.join("; ");
        let why = format!("{}: no configuration space to read: {problems}", report.socket);
        Exit::Peer.with(anyhow::Error::msg(why))
    })
}
