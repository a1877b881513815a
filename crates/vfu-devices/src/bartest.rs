//! `bartest`: every way in which a driver reaches a BAR, in one BAR of 8 GiB, 1234:ba48.
//!
//! It is for testing clients: registers at both ends of a BAR that is larger than 32 bits can say,
//! memory beyond 4 GiB, and a doorbell of each kind, each with a counter.
//!
//! BAR 0 is 8 GiB of prefetchable 64-bit memory.
//!
//! | offset | bytes | access | what |
//! |---|---|---|---|
//! | 0x0000 | 4 | RO | identification: 0x54524142 |
//! | 0x0008 | 8 | RW | scratch |
//! | 0x0010 | 4 | WO | a doorbell by message: any value |
//! | 0x0018 | 8 | RO | how often that was written |
//! | 0x0020 | 4 | WO | a doorbell that is offered as ioeventfd: any value |
//! | 0x0028 | 8 | RO | how often that was rung |
//! | 0x0030 | 4 | WO | wakes the device to look at its doorbell page; offered as ioeventfd |
//! | 0x0038 | 8 | RO | changes of words of the page that the device has seen |
//! | 0x0040 | 8 | RO | the last of them: the word's number in bits 32 to 63, what it held in bits 0 to 31 |
//! | 0x1_0000 | 64 KiB | RW | the doorbell page, which a client may map: see below |
//! | 4 GiB | 1 MiB | RW | memory, which a client may map |
//! | 8 GiB - 4096 | 8 | RW | scratch at the end |
//! | 8 GiB - 4 | 4 | RO | identification |
//!
//! The first 16 words of 32 bits of the page are doorbells: the device sees that one has changed. While
//! it sleeps, the word at 0x800 of the page is 1, and a driver that sees that after its store and a
//! fence writes to 0x0030. For one that does not look there the device looks by itself, every
//! 10 ms.
//!
//! All else reads as ones. **Reset**, of any kind: scratch, counters and the page go to 0; the memory
//! stays.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;
use vfu::doorbell::{Ring, Watch, Watching};
use vfu::server::{Builder, Shareable};
use vfu::{
    Access, Bar, Device, Doorbell, Fault, Handle, IoEventFd, Pci, Reset, Server, SharedMemory,
};

/// Vendor id: QEMU's, for experiments.
pub const VENDOR: u16 = 0x1234;
/// Device id.
pub const DEVICE: u16 = 0xba48;
/// The length of BAR 0, in bytes.
pub const BAR_SIZE: u64 = 8 << 30;
/// What the registers of identification hold.
pub const IDENTIFICATION: u32 = 0x5452_4142;
/// Doorbells in the page.
pub const WORDS: u32 = 16;

/// Offsets in BAR 0.
pub mod register {
    /// Identification.
    pub const IDENTIFICATION: u64 = 0x0000;
    /// Scratch.
    pub const SCRATCH: u64 = 0x0008;
    /// A doorbell by message.
    pub const MESSAGE: u64 = 0x0010;
    /// How often it was written.
    pub const MESSAGES: u64 = 0x0018;
    /// A doorbell by ioeventfd.
    pub const EVENT: u64 = 0x0020;
    /// How often it was rung.
    pub const EVENTS: u64 = 0x0028;
    /// Wakes the device.
    pub const WAKE: u64 = 0x0030;
    /// Changes of the page that were seen.
    pub const SEEN: u64 = 0x0038;
    /// The last of them.
    pub const LAST: u64 = 0x0040;
    /// The doorbell page.
    pub const PAGE: u64 = 0x1_0000;
    /// The word that says that the device sleeps.
    pub const ASLEEP: u64 = PAGE + 0x800;
    /// Memory.
    pub const WINDOW: u64 = 4 << 30;
    /// Scratch at the end.
    pub const END_SCRATCH: u64 = super::BAR_SIZE - 4096;
    /// Identification at the end.
    pub const END_IDENTIFICATION: u64 = super::BAR_SIZE - 4;
}

/// The length of the doorbell page, in bytes; a page on every machine.
pub const PAGE_SIZE: u64 = 64 << 10;
/// The length of the memory, in bytes.
pub const WINDOW_SIZE: u64 = 1 << 20;
/// The last 8 bytes.
const END: u64 = BAR_SIZE - 8;
/// How long the device sleeps if nobody wakes it.
const INTERVAL: Duration = Duration::from_millis(10);

/// The configuration space.
pub fn pci() -> Pci {
    Pci::endpoint(VENDOR, DEVICE)
        .class(0xff_00_00)
        .subsystem(VENDOR, DEVICE)
        .bar(0, Bar::mem64(BAR_SIZE).prefetchable())
}

/// The server, with the memory and the doorbells that the device finds in its handle.
///
/// # Errors
/// The system has no memory or no descriptor left.
pub fn builder() -> std::io::Result<Builder> {
    let memory = SharedMemory::new(register::WINDOW + WINDOW_SIZE)?;
    let memory =
        Shareable::from(memory).area(register::PAGE, PAGE_SIZE).area(register::WINDOW, WINDOW_SIZE);
    Ok(Server::builder(pci())
        .mmap(0, memory)
        .ioeventfd(IoEventFd::at(0, register::EVENT).width(4))
        .ioeventfd(IoEventFd::at(0, register::WAKE).width(4)))
}

/// The device. Its thread, which watches the page, ends with it.
#[derive(Debug)]
pub struct BarTest {
    scratch: u64,
    end_scratch: u64,
    messages: u64,
    event: Option<Doorbell>,
    events: u64,
    seen: Arc<Seen>,
    watching: Option<Watching>,
}

/// What the thread has seen of the page.
#[derive(Debug, Default)]
struct Seen {
    changes: AtomicU64,
    last: Mutex<u64>,
}

impl BarTest {
    /// A device in its state after power-on. Served by another server than that of [`builder`] it
    /// has neither memory nor doorbells.
    pub fn new(handle: Handle) -> Self {
        let seen = Arc::<Seen>::default();
        BarTest {
            scratch: 0,
            end_scratch: 0,
            messages: 0,
            event: handle.doorbell(0, register::EVENT),
            events: 0,
            watching: watch(&handle, seen.clone()),
            seen,
        }
    }

    /// Rings that have come by now count.
    fn events(&mut self) -> u64 {
        let rings = self.event.as_ref().map_or(0, Doorbell::take);
        self.events = self.events.wrapping_add(rings);
        self.events
    }
}

fn watch(handle: &Handle, seen: Arc<Seen>) -> Option<Watching> {
    let (memory, wake) = (handle.memory(0)?, handle.doorbell(0, register::WAKE)?);
    let watch = Watch::over(&memory, register::PAGE, WORDS)
        .sleep_flag(register::ASLEEP)
        .doorbell(&wake)
        .interval(INTERVAL);
    let watching = watch.build().and_then(|watch| watch.spawn(move |ring| seen.note(ring)));
    watching.inspect_err(|e| warn!(error = %e, "nobody watches the doorbell page")).ok()
}

impl Seen {
    fn note(&self, Ring { index, value }: Ring) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = u64::from(index) << 32 | value;
        self.changes.fetch_add(1, Ordering::Release);
    }

    fn last(&self) -> u64 {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for BarTest {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        // Registers of 64 bits may be read in pieces.
        let value = match at.offset & !7 {
            register::IDENTIFICATION => IDENTIFICATION.into(),
            register::SCRATCH => self.scratch,
            register::MESSAGES => self.messages,
            register::EVENTS => self.events(),
            register::SEEN => self.seen.changes.load(Ordering::Acquire),
            register::LAST => self.seen.last(),
            register::END_SCRATCH => self.end_scratch,
            END => u64::from(IDENTIFICATION) << 32,
            _ => return Err(Fault::Unmodelled),
        };
        let piece = &value.to_le_bytes()[(at.offset & 7) as usize..];
        at.give(data, piece);
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        match at.offset {
            register::SCRATCH => self.scratch = at.u64(data)?,
            register::MESSAGE => self.messages = self.messages.wrapping_add(1),
            register::END_SCRATCH => self.end_scratch = at.u64(data)?,
            _ => return Err(Fault::Unmodelled),
        }
        Ok(())
    }

    fn reset(&mut self, _: Reset) {
        if let Some(watching) = &self.watching {
            watching.reset();
        }
        self.events();
        (self.scratch, self.end_scratch, self.messages, self.events) = (0, 0, 0, 0);
        let mut last = self.seen.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = 0;
        self.seen.changes.store(0, Ordering::Release);
    }
}
