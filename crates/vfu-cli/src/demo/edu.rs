//! `edu`, the teaching device of QEMU, driven as its driver would.

use anyhow::{Context, bail, ensure};
use vfu::Server;
use vfu_devices::edu::{self, Edu};
use vfu_testkit::{Function, Interrupts, Served, Vmm, serve_in_process};

use super::stage::{Seen, Stage};
use super::{latency, throughput};

/// How many checks there are.
pub(super) const CHECKS: u64 = 10;
/// How often each kind of interrupt is raised.
const INTERRUPTS: u64 = 100;

// The registers, all in BAR 0.
const BAR: u32 = 0;
const IDENTIFICATION: u64 = 0x00;
const LIVENESS: u64 = 0x04;
const FACTORIAL: u64 = 0x08;
const STATUS: u64 = 0x20;
const INTERRUPT_STATUS: u64 = 0x24;
const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;

const VERSION: u32 = 0x0100_00ed;
const STATUS_INTERRUPT: u32 = 0x80;
const COMMAND_RUN: u64 = 0x1;
const COMMAND_TO_RAM: u64 = 0x2;
const COMMAND_INTERRUPT: u64 = 0x4;

/// The device and the one that drives it.
struct Rig {
    vmm: Vmm,
    served: Served<Edu>,
    function: Function,
}

/// Serves the device and shows it.
pub(super) fn show(stage: &mut Stage) {
    stage.about("edu", "QEMU's teaching device, in this process, behind a UNIX socket");
    let Some(rig) = stage.make("connect and enumerate", start) else { return };
    stage.say(&super::indented(&rig.function.to_string()));
    stage.check("identification", || identification(&rig.vmm));
    stage.check("liveness", || liveness(&rig.vmm));
    stage.check("factorial, announced by INTx", || factorial(&rig.vmm));
    stage.check("INTx counted", || intx(&rig.vmm));
    let Some(messages) = stage.make("MSI counted", || msi(&rig)) else { return };
    stage.check("DMA round trip, shared memory", || shared_dma(&rig.vmm, &messages));
    stage.check("DMA round trip, messages", || message_dma(&rig.vmm, &messages));
}

/// What it all costs, in sessions of their own: one that serves memory by messages has a thread
/// more. The figures are told, not judged.
pub(super) fn measure(stage: &mut Stage) {
    stage.about("speed", "told, not judged: it depends on the machine and its load");
    stage.check("latency of a register read", latency::measure);
    stage.check("throughput of DMA", || {
        let (rig, _) = start()?;
        throughput::measure(&rig.vmm, rig.served.handle())
    });
}

fn start() -> anyhow::Result<(Rig, Seen)> {
    let served = serve_in_process(Server::builder(edu::pci()), Edu::new)?;
    let vmm = Vmm::connect(served.path())?;
    let function = vmm.enumerate()?;
    let sockets = if vmm.client().has_twin_socket() { "two sockets" } else { "one socket" };
    let (vendor, device) = (function.vendor, function.device);
    ensure!((vendor, device) == (edu::VENDOR, edu::DEVICE), "found {vendor:04x}:{device:04x}");
    let seen = format!("{vendor:04x}:{device:04x}, {sockets}");
    Ok((Rig { vmm, served, function }, seen.into()))
}

fn identification(vmm: &Vmm) -> anyhow::Result<Seen> {
    let id = vmm.read32(BAR, IDENTIFICATION)?;
    ensure!(id == VERSION, "{id:#010x} instead of {VERSION:#010x}");
    Ok(format!("{id:#010x}").into())
}

fn liveness(vmm: &Vmm) -> anyhow::Result<Seen> {
    for value in [0, 1, 0x1234_5678, u32::MAX] {
        vmm.write32(BAR, LIVENESS, value)?;
        let back = vmm.read32(BAR, LIVENESS)?;
        ensure!(back == !value, "wrote {value:#010x}, read {back:#010x}");
    }
    Ok("what is written comes back inverted".into())
}

fn factorial(vmm: &Vmm) -> anyhow::Result<Seen> {
    let pin = vmm.enable_intx()?;
    vmm.write32(BAR, STATUS, STATUS_INTERRUPT)?;
    vmm.write32(BAR, FACTORIAL, 10)?;
    pin.wait(0)?;
    acknowledge(vmm, edu::IRQ_FACTORIAL)?;
    vmm.write32(BAR, STATUS, 0)?;
    vmm.unmask_intx()?;
    let result = vmm.read32(BAR, FACTORIAL)?;
    ensure!(result == 3_628_800, "10! = {result}");
    Ok(format!("10! = {result}, then 1 interrupt").into())
}

fn intx(vmm: &Vmm) -> anyhow::Result<Seen> {
    let pin = vmm.enable_intx()?;
    let mut seen = 0;
    for _ in 0..INTERRUPTS {
        vmm.write32(BAR, RAISE, 1)?;
        seen += pin.wait(0)?;
        acknowledge(vmm, 1)?;
        vmm.unmask_intx()?;
    }
    counted(seen + pin.count_now(0)?)
}

/// Leaves MSI on.
fn msi(rig: &Rig) -> anyhow::Result<(Interrupts, Seen)> {
    let (vmm, pin) = (&rig.vmm, rig.vmm.enable_intx()?);
    let messages = vmm.enable_msi(&rig.function, 1)?;
    let mut seen = 0;
    for _ in 0..INTERRUPTS {
        vmm.write32(BAR, RAISE, 1)?;
        seen += messages.wait(0)?;
        acknowledge(vmm, 1)?;
    }
    let by_pin = pin.count_now(0)?;
    ensure!(by_pin == 0, "{by_pin} interrupts by pin, though MSI is on");
    let told = counted(seen + messages.count_now(0)?)?;
    Ok((messages, told))
}

fn counted(seen: u64) -> anyhow::Result<Seen> {
    ensure!(seen == INTERRUPTS, "raised {INTERRUPTS}, seen {seen}");
    let text = format!("{INTERRUPTS} raised, {seen} seen");
    Ok(Seen::from(text).figure("raised", INTERRUPTS).figure("seen", seen))
}

fn acknowledge(vmm: &Vmm, bits: u32) -> anyhow::Result<()> {
    let status = vmm.read32(BAR, INTERRUPT_STATUS)?;
    ensure!(status == bits, "interrupt status {status:#x} instead of {bits:#x}");
    vmm.write32(BAR, ACKNOWLEDGE, bits)?;
    Ok(())
}

/// Has the device fetch its buffer from RAM, or store it there, and waits for the interrupt.
fn dma(vmm: &Vmm, messages: &Interrupts, to_ram: bool, ram: u64) -> anyhow::Result<()> {
    let (source, destination, direction) = match to_ram {
        true => (edu::BUFFER_ADDRESS, ram, COMMAND_TO_RAM),
        false => (ram, edu::BUFFER_ADDRESS, 0),
    };
    vmm.write64(BAR, DMA_SOURCE, source)?;
    vmm.write64(BAR, DMA_DESTINATION, destination)?;
    vmm.write64(BAR, DMA_COUNT, edu::BUFFER_SIZE as u64)?;
    vmm.write64(BAR, DMA_COMMAND, COMMAND_RUN | COMMAND_INTERRUPT | direction)?;
    messages.wait(0)?;
    acknowledge(vmm, edu::IRQ_DMA)
}

/// What moves, and never looks like memory that nobody wrote.
fn pattern(seed: u8) -> Vec<u8> {
    (0..edu::BUFFER_SIZE).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

const PAGE: u64 = edu::BUFFER_SIZE as u64;
const RAM_SIZE: u64 = 1 << 20;
const SHARED_AT: u64 = 0x10_0000;
const MESSAGES_AT: u64 = 0x100_0000;

fn shared_dma(vmm: &Vmm, messages: &Interrupts) -> anyhow::Result<Seen> {
    let ram = vmm.share_ram(SHARED_AT, RAM_SIZE)?;
    let (from, to, sent) = (SHARED_AT + PAGE, SHARED_AT + 3 * PAGE, pattern(7));
    let before = vmm.client().counters().commands;
    ram.write(from, &sent)?;
    dma(vmm, messages, false, from)?;
    dma(vmm, messages, true, to)?;
    same(&sent, &ram.bytes(to, sent.len())?)?;
    let count = vmm.client().counters().commands - before;
    vmm.client().dma_unmap(SHARED_AT, RAM_SIZE)?;
    if count != 0 {
        bail!("{count} DMA messages for memory that is shared");
    }
    let text = "4096 bytes to the device and back, equal; 0 messages";
    Ok(Seen::from(text).figure("dma_messages", count))
}

fn message_dma(vmm: &Vmm, messages: &Interrupts) -> anyhow::Result<Seen> {
    let ram = vmm.message_ram(MESSAGES_AT, RAM_SIZE as usize)?;
    let (from, to, sent) = (MESSAGES_AT + PAGE, MESSAGES_AT + 3 * PAGE, pattern(9));
    ram.store(from, &sent).context("the pattern is outside of the memory")?;
    dma(vmm, messages, false, from)?;
    dma(vmm, messages, true, to)?;
    same(&sent, &ram.bytes(to, sent.len()).context("the copy is outside of the memory")?)?;
    let (reads, writes) = (ram.reads(), ram.writes());
    vmm.client().dma_unmap(MESSAGES_AT, RAM_SIZE)?;
    ensure!(reads == 1 && writes == 1, "{reads} DMA_READ and {writes} DMA_WRITE, not 1 and 1");
    let text =
        format!("4096 bytes to the device and back, equal; {reads} DMA_READ, {writes} DMA_WRITE");
    Ok(Seen::from(text).figure("dma_messages", reads + writes))
}

fn same(sent: &[u8], back: &[u8]) -> anyhow::Result<()> {
    match sent.iter().zip(back).position(|(sent, back)| sent != back) {
        Some(at) => bail!("the copy differs from byte {at} on"),
        None => Ok(()),
    }
}
