//! What `lspci -vvv` says of every device, compared with its golden file.
//!
//! `crates/vfu-devices/tests/lspci` has two files of each device, and a README about them:
//! `NAME.hex`, which is what `vfu probe --lspci` prints, and `NAME.lspci`, which is what lspci makes of
//! that, and of the device inside the guest.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::guest::{Device, Machine};
use crate::lab::Bench;
use crate::suite::Test;

/// All devices that `vfu serve --list` has.
pub(super) const LSPCI: Test = Test {
    name: "lspci",
    what: "lspci -vvv of every device, from outside and in the guest, equals its golden file",
    run,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/vfu-devices/tests/lspci");

fn run(bench: &Bench<'_>) -> Result<()> {
    let list = bench.vfu(&["serve", "--list"].map(OsStr::new))?;
    let names: Vec<&str> = list.lines().filter_map(|line| line.split(' ').next()).collect();
    let (mut servers, mut devices, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for (slot, name) in (1..).zip(&names) {
        let server = bench.serve(name)?;
        let socket = server.socket();
        let dump = bench.vfu(&["probe".as_ref(), socket.as_ref(), "--lspci".as_ref()])?;
        compare_or_bless(name, "hex", "vfu probe --lspci", &dump)?;
        files.push((format!("{name}.dump"), dump.into_bytes()));
        // Each behind a port of its own: on the root bus QEMU would make it an integrated endpoint.
        let port = format!("port{slot}");
        devices.push(Device::root_port(&port, slot));
        devices.push(Device::vfio_user(name, socket).with("bus", port.into()));
        servers.push(server);
    }
    let script = include_str!("../../inside/lspci.sh");
    let machine = Machine { files, ..Machine::new(script, devices) };
    let texts = bench.boot(&machine)?.finish_with_files()?;
    for name in names {
        let text = |of: &str| texts.get(&format!("{name}.{of}")).context("lspci said nothing");
        let inside = normalized(text("guest")?);
        compare_or_bless(name, "lspci", "lspci in the guest", &inside)?;
        let probe = normalized(text("probe")?);
        compare(name, "lspci", "lspci of `vfu probe --lspci`", &probe, without_regions)?;
    }
    servers.iter_mut().try_for_each(|server| server.is_alive())
}

/// Compares a text with a golden file; or makes it that, with `VFU_BLESS` set.
fn compare_or_bless(name: &str, kind: &str, what: &str, text: &str) -> Result<()> {
    if env::var_os("VFU_BLESS").is_some() {
        fs::write(golden(name, kind), text)?;
    }
    compare(name, kind, what, text, ToOwned::to_owned)
}

fn golden(name: &str, kind: &str) -> PathBuf {
    PathBuf::from(GOLDEN).join(format!("{name}.{kind}"))
}

/// Compares a text with a golden file, both in the form that `form` gives them.
fn compare(
    name: &str,
    kind: &str,
    what: &str,
    text: &str,
    form: impl Fn(&str) -> String,
) -> Result<()> {
    let path = golden(name, kind);
    let golden = fs::read_to_string(&path).with_context(|| {
        format!("{name} has no golden file {}; see the README there", path.display())
    })?;
    let (golden, text) = (form(&golden), form(text));
    if golden == text {
        return Ok(());
    }
    let (mut expected, mut found) = (golden.lines(), text.lines());
    let (expected, found) = loop {
        match (expected.next(), found.next()) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => break (a.unwrap_or("the end"), b.unwrap_or("the end")),
        }
    };
    bail!("{name}, {what}: {} has {expected:?}, and here is {found:?}", path.display())
}

/// Lines about where a device is and who drives it.
const PLACE: [&str; 7] = [
    "Physical Slot:",
    "IOMMU group:",
    "NUMA node:",
    "Latency:",
    "Kernel driver in use:",
    "Kernel modules:",
    // Said only where lspci sees the port above.
    "AtomicOpsCap:",
];

/// What lspci says, without what the platform and its software decide: the device's place, addresses,
/// the number of its interrupt, and what Linux has written to Command and Device Control.
fn normalized(text: &str) -> String {
    let mut normal = String::new();
    for (number, line) in text.lines().enumerate() {
        let content = line.trim_start();
        let is_place = PLACE.iter().any(|begin| content.starts_with(begin));
        if is_place || content.starts_with("Control:") || content.is_empty() {
            continue;
        }
        let line = match content.split_once(' ') {
            Some((_bus_number, rest)) if number == 0 => rest.to_owned(),
            _ if content.starts_with("DevCtl:") => line.replace('+', "-"),
            _ if content.starts_with("RlxdOrd") => line.replace("ExtTag+", "ExtTag-"),
            _ if content.starts_with("Interrupt:") => before(line, " routed to"),
            _ => without_address(line),
        };
        normal.push_str(&line);
        normal.push('\n');
    }
    normal
}

fn before(line: &str, mark: &str) -> String {
    line.split_once(mark).map_or(line, |(before, _)| before).to_owned()
}

/// `Region 0: Memory at fe200000 (32-bit) [size=4K]`, without the number.
fn without_address(line: &str) -> String {
    let is_region = ["Region ", "Expansion ROM "].iter().any(|b| line.trim_start().starts_with(b));
    match line.split_once(" at ").filter(|_| is_region) {
        Some((before, after)) => {
            let rest = after.split_once(' ').map_or("", |(_address, rest)| rest);
            format!("{before} {rest}").replace(" [disabled]", "").trim_end().to_owned()
        }
        None => line.to_owned(),
    }
}

/// A dump tells no sizes of BARs, and those without an address are not seen in it.
fn without_regions(text: &str) -> String {
    let kept = text.lines().filter(|line| {
        let line = line.trim_start();
        !line.starts_with("Region ") && !line.starts_with("Expansion ROM ")
    });
    kept.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_platform_decides_is_left_out() {
        let text = "02:00.0 00ff: 1234:11e8 (rev 10)\n\
            \tPhysical Slot: 0-2\n\
            \tControl: I/O- Mem+ BusMaster- DisINTx-\n\
            \tStatus: Cap+ 66MHz-\n\
            \tInterrupt: pin A routed to IRQ 11\n\
            \tRegion 0: Memory at fe000000 (32-bit, non-prefetchable) [disabled] [size=1M]\n\
            \tRegion 2: I/O ports at c000 [size=8]\n\
            \tCapabilities: [48] Express (v2) Endpoint, IntMsgNum 0\n\
            \t\tDevCtl:\tCorrErr+ NonFatalErr- FatalErr- UnsupReq-\n\
            \t\t\tRlxdOrd+ ExtTag+ PhantFunc- AuxPwr-\n\n";
        let normal = "00ff: 1234:11e8 (rev 10)\n\
            \tStatus: Cap+ 66MHz-\n\
            \tInterrupt: pin A\n\
            \tRegion 0: Memory (32-bit, non-prefetchable) [size=1M]\n\
            \tRegion 2: I/O ports [size=8]\n\
            \tCapabilities: [48] Express (v2) Endpoint, IntMsgNum 0\n\
            \t\tDevCtl:\tCorrErr- NonFatalErr- FatalErr- UnsupReq-\n\
            \t\t\tRlxdOrd+ ExtTag- PhantFunc- AuxPwr-\n";
        assert_eq!(normalized(text), normal);
        let first = "\tRegion 2: I/O ports at <unassigned> [disabled]\n\tInterrupt: pin A\n";
        assert_eq!(without_regions(first), "\tInterrupt: pin A\n");
    }
}
