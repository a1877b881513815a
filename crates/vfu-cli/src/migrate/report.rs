//! What a move has taken, for people and for programs.

use anyhow::Context;
use indicatif::HumanBytes;
use serde::Serialize;
use vfu::client::Moved;
use vfu_devices::Model;

use super::Args;
use super::hammer::Hammered;

/// What `--json` prints.
///
/// Fields may be added; a change of what one means, or its loss, comes with a higher `format`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    format: u32,
    source: String,
    destination: String,
    /// Vendor and device id.
    device: String,
    state_bytes: u64,
    early_bytes: u64,
    rounds: u32,
    downtime_seconds: f64,
    total_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hammer: Option<Hammered>,
}

impl Report {
    pub(super) fn new(
        args: &Args,
        (vendor, device): (u16, u16),
        moved: &Moved,
        hammer: Option<Hammered>,
    ) -> Report {
        Report {
            format: 1,
            source: args.source.display().to_string(),
            destination: args.destination.display().to_string(),
            device: format!("{vendor:04x}:{device:04x}"),
            state_bytes: moved.bytes,
            early_bytes: moved.early_bytes,
            rounds: moved.rounds,
            downtime_seconds: moved.downtime.as_secs_f64(),
            total_seconds: moved.total.as_secs_f64(),
            hammer,
        }
    }

    pub(super) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self).context("the report as JSON")? + "\n")
    }

    pub(super) fn text(&self) -> String {
        let Report { source, destination, device, .. } = self;
        let known = Model::ALL.into_iter().find(|model| {
            let (vendor, id) = model.ids();
            format!("{vendor:04x}:{id:04x}") == *device
        });
        let name = known.map_or(String::new(), |model| format!("{model} "));
        let mut early = String::new();
        if self.rounds > 0 {
            let (bytes, rounds) = (HumanBytes(self.early_bytes), self.rounds);
            let rounds = if rounds == 1 { "one round".into() } else { format!("{rounds} rounds") };
            early = format!(", {bytes} of it in {rounds} while it ran");
        }
        let mut lines = vec![
            format!("moved {name}{device} from {source} to {destination}"),
            format!("  state     {}{early}", HumanBytes(self.state_bytes)),
            format!("  downtime  {}", milliseconds(self.downtime_seconds)),
            format!("  total     {}", milliseconds(self.total_seconds)),
        ];
        lines.extend(self.hammer.as_ref().map(|hammer| format!("  hammer    {hammer}")));
        lines.join("\n") + "\n"
    }
}

pub(super) fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1e3)
}
