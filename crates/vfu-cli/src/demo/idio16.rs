//! `idio16`, the digital I/O card that Linux has a driver for. Its inputs are wired to its outputs.

use anyhow::ensure;
use vfu::Server;
use vfu_devices::idio16::{self, Idio16};
use vfu_testkit::{Function, Served, Vmm, serve_in_process};

use super::stage::{Seen, Stage};

/// How many checks there are.
pub(super) const CHECKS: u64 = 3;

const LINES: u32 = 16;
const BAR: u32 = idio16::BAR as u32;

// The registers, a byte each.
const OUTPUTS: [u64; 2] = [0, 4];
const INPUTS: [u64; 2] = [1, 5];
const CLEAR_INTERRUPT: u64 = 1;
/// Read: enable; write: disable.
const INTERRUPT_CONTROL: u64 = 2;
const INTERRUPT_STATUS: u64 = 6;
const STATUS_INTERRUPT: u8 = 1 << 2;

/// The device and the one that drives it.
struct Rig {
    vmm: Vmm,
    function: Function,
    _served: Served<Idio16>,
}

/// Serves the device and shows it.
pub(super) fn show(stage: &mut Stage) {
    stage.about("idio16", "ACCES PCI-IDIO-16, 16 outputs wired to 16 inputs");
    let Some(rig) = stage.make("connect and enumerate", start) else { return };
    stage.say(&super::indented(&rig.function.to_string()));
    stage.check("outputs toggled, inputs read back", || toggle(&rig.vmm));
    stage.check("change interrupts counted", || interrupts(&rig.vmm));
}

fn start() -> anyhow::Result<(Rig, Seen)> {
    let served = serve_in_process(Server::builder(idio16::pci()), Idio16::new)?;
    let vmm = Vmm::connect(served.path())?;
    let function = vmm.enumerate()?;
    let (vendor, device) = (function.vendor, function.device);
    ensure!(
        (vendor, device) == (idio16::VENDOR, idio16::DEVICE),
        "found {vendor:04x}:{device:04x}"
    );
    Ok((Rig { vmm, function, _served: served }, format!("{vendor:04x}:{device:04x}").into()))
}

fn set_outputs(vmm: &Vmm, value: u16) -> anyhow::Result<()> {
    for (at, byte) in OUTPUTS.into_iter().zip(value.to_le_bytes()) {
        vmm.write8(BAR, at, byte)?;
    }
    Ok(())
}

fn inputs(vmm: &Vmm) -> anyhow::Result<u16> {
    let [low, high] = INPUTS;
    Ok(u16::from_le_bytes([vmm.read8(BAR, low)?, vmm.read8(BAR, high)?]))
}

fn toggle(vmm: &Vmm) -> anyhow::Result<Seen> {
    for line in 0..LINES {
        for level in [1u16 << line, 0] {
            set_outputs(vmm, level)?;
            let seen = inputs(vmm)?;
            ensure!(seen == level, "line {line}: outputs {level:#06x}, inputs {seen:#06x}");
        }
    }
    Ok(format!("{LINES} lines on and off, each seen at its input").into())
}

fn interrupts(vmm: &Vmm) -> anyhow::Result<Seen> {
    set_outputs(vmm, 0)?;
    let pin = vmm.enable_intx()?;
    vmm.read8(BAR, INTERRUPT_CONTROL)?;
    let (mut level, mut seen) = (0u16, 0);
    for line in (0..LINES).chain(0..LINES) {
        level ^= 1 << line;
        // One byte: a change of one output is one event.
        let half = usize::from(line >= 8);
        vmm.write8(BAR, OUTPUTS[half], level.to_le_bytes()[half])?;
        seen += pin.wait(0)?;
        let (status, expected) = (vmm.read8(BAR, INTERRUPT_STATUS)?, STATUS_INTERRUPT | 1 << half);
        ensure!(status == expected, "line {line}: status {status:#04x}, not {expected:#04x}");
        vmm.write8(BAR, CLEAR_INTERRUPT, 0)?;
        vmm.unmask_intx()?;
    }
    vmm.write8(BAR, INTERRUPT_CONTROL, 0)?;
    set_outputs(vmm, u16::MAX)?;
    seen += pin.count_now(0)?;
    let changes = u64::from(2 * LINES);
    ensure!(seen == changes, "{changes} changes, {seen} interrupts");
    let text = format!("{changes} changes, {seen} interrupts; none once they are disabled");
    Ok(Seen::from(text).figure("changes", changes).figure("interrupts", seen))
}
