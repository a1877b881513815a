//! `vfu demo`: devices and their driver in this process, to see that all of it works here.

mod crossing;
mod edu;
mod idio16;
mod latency;
mod stage;
mod throughput;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;

use crate::exit::Exit;
use stage::Stage;

const NOTES: &str = "\
Nothing needs to be installed and no virtual machine runs: the devices are served on sockets in a \
temporary folder, and driven by vfu's own client. It takes a few seconds.

--json prints one object: format (1), passed, seconds, and checks, a list with about, name, passed, \
seconds, seen and figures. The story goes to standard error then.

`vfu demo crossing` is another demonstration: both ends of a session speak at once, for as long as \
one likes.

The exit code is 0 if all passed, and 1 if anything failed.";

/// Serve devices in this process, drive them, and say what works and how fast
#[derive(Debug, clap::Args)]
#[command(after_long_help = NOTES)]
pub(crate) struct Args {
    /// Print the results as JSON, for programs
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    what: Option<What>,
}

/// Demonstrations of one thing.
#[derive(Debug, clap::Subcommand)]
enum What {
    Crossing(crossing::Args),
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let results = match args.what {
        None => {
            let mut stage = Stage::new(args.json, edu::CHECKS + idio16::CHECKS);
            edu::show(&mut stage);
            idio16::show(&mut stage);
            edu::measure(&mut stage);
            stage.end()
        }
        Some(What::Crossing(what)) => {
            let mut stage = Stage::new(args.json, crossing::CHECKS);
            crossing::show(&mut stage, &what);
            stage.end()
        }
    };
    if args.json {
        let text = serde_json::to_string_pretty(&results).context("the results as JSON")?;
        writeln!(std::io::stdout(), "{text}").context("standard output")?;
    }
    Ok(if results.passed { ExitCode::SUCCESS } else { Exit::Failure.into() })
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("        {line}")).collect::<Vec<_>>().join("\n")
}
