//! `vfu describe`: what a device is made of, without serving it.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use vfu::pci::{BARS, BarKind};
use vfu::regmap::RegisterMap;
use vfu_devices::Model;

use crate::serve::model_parser;

const EXAMPLES: &str = "\
Examples:
  vfu describe edu
  vfu describe edu --json | jq -r '.bars[].registers.registers[] | \"\\(.offset) \\(.name)\"'

--json prints one object. Its keys are: format (1), name, about, vendor, device, config_size, bars. \
A BAR has index, kind (io, memory32, memory64), prefetchable, size, and registers: null, or the \
object that the documentation of vfu::regmap::RegisterMap::to_json describes. Numbers are integers, \
sizes and offsets in bytes. Later versions may add keys; when one changes its meaning, `format` is \
counted up.";

/// Show what a device is made of: its ids, its BARs, and the registers in them
///
/// The text is Markdown.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// The device
    #[arg(value_parser = model_parser())]
    model: Model,

    /// Print it as JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Description {
    format: u32,
    name: &'static str,
    about: &'static str,
    vendor: u16,
    device: u16,
    config_size: usize,
    bars: Vec<Bar>,
}

#[derive(Serialize)]
struct Bar {
    index: usize,
    kind: &'static str,
    prefetchable: bool,
    size: u64,
    registers: Option<RegisterMap>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let description = describe(args.model)?;
    let text = if args.json {
        serde_json::to_string_pretty(&description).context("the description as JSON")? + "\n"
    } else {
        markdown(&description)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
        other => other.context("standard output")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(model: Model) -> anyhow::Result<Description> {
    let space = model.pci().build()?;
    let (vendor, device) = model.ids();
    let bars = (0..BARS).filter_map(|index| {
        let info = space.bar(index)?;
        Some(Bar {
            index,
            kind: match info.kind {
                BarKind::Io => "io",
                BarKind::Mem32 => "memory32",
                BarKind::Mem64 => "memory64",
            },
            prefetchable: info.prefetchable,
            size: info.size,
            registers: model.register_map(index),
        })
    });
    Ok(Description {
        format: 1,
        name: model.name(),
        about: model.description(),
        vendor,
        device,
        config_size: space.size(),
        bars: bars.collect(),
    })
}

fn markdown(description: &Description) -> String {
    let Description { name, about, vendor, device, config_size, bars, .. } = description;
    let mut text = format!("# {name}\n\n{vendor:04x}:{device:04x}, {about}.\n");
    // Into a String: nothing can fail.
    let _ = writeln!(text, "Configuration space has {config_size} bytes.");
    for Bar { index, kind, prefetchable, size, registers } in bars {
        let kind = match *kind {
            "io" => "I/O ports",
            "memory32" => "32-bit memory",
            _ => "64-bit memory",
        };
        let prefetchable = if *prefetchable { ", prefetchable" } else { "" };
        let _ = writeln!(text, "\n## BAR {index}: {size:#x} bytes of {kind}{prefetchable}");
        let _ = match registers {
            Some(map) => write!(text, "\n{}", map.to_markdown()),
            None => writeln!(text, "\nThere is no register map of it."),
        };
    }
    text
}
