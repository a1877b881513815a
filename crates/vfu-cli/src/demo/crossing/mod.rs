//! `vfu demo crossing`: both ends speak at once, on one socket and on two, and nothing is lost.

mod flight;
mod rig;
mod traffic;

use std::time::Duration;

use super::stage::{Seen, Stage};
use rig::Rig;

/// How many checks there are.
pub(super) const CHECKS: u64 = 2 * 5;

const NOTES: &str = "\
A device reads and writes its client's memory by messages from two threads, and copies on command, \
while the client reads a register as fast as it can: on a single socket, where the messages of both \
sides cross, and on two. Every register and every byte is checked, and every message counted. Then \
the same while the device is reset and its memory unmapped. At last: reads of 4 KiB one after the \
other, and 32 at a time.

Rates are told, not judged: they depend on the machine and its load.";

/// Have both ends speak at once, and check that nothing is lost
#[derive(Debug, clap::Args)]
#[command(after_long_help = NOTES)]
pub(crate) struct Args {
    /// How long all of it takes, about
    #[arg(long, value_name = "N", default_value = "8", value_parser = parse_seconds)]
    seconds: Duration,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let seconds = seconds.filter(|time| (MIN_TIME..=MAX_TIME).contains(time));
    seconds.ok_or_else(|| format!("not a number of seconds from 0.1 to 86400: '{text}'"))
}

const MIN_TIME: Duration = Duration::from_millis(100);
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs all checks.
pub(super) fn show(stage: &mut Stage, args: &Args) {
    // Sixteen pieces of time, eight for each arrangement.
    let piece = args.seconds / 16;
    for (about, heading, twin) in [
        ("1 socket", "requests of both ends cross on it", false),
        ("2 sockets", "the device's requests have a socket of their own", true),
    ] {
        stage.about(about, heading);
        let Some(rig) = stage.make("connect", || connect(twin)) else { continue };
        stage.check("reads, and nothing else", || traffic::alone(&rig, piece));
        stage.check("reads while DMA crosses", || traffic::crossing(&rig, piece * 3));
        stage.check("resets and unmaps in between", || traffic::disturbed(&rig, piece * 2));
        stage.check("4 KiB reads, 32 at a time", || flight::measure(&rig, piece));
    }
}

fn connect(twin: bool) -> anyhow::Result<(Rig, Seen)> {
    let rig = Rig::new(twin)?;
    Ok((rig, "the DMA test device, memory by messages".into()))
}
