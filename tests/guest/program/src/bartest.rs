//! The BAR test device (1234:ba48): registers and memory of a BAR of 8 GiB, and its doorbells.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crate::sys::{Mmio, PAGE};
use crate::{Result, ask};

/// The length of BAR 0, in bytes.
const BAR: u64 = 8 << 30;
const WINDOW: u64 = 4 << 30;
const WINDOW_LEN: usize = 1 << 20;
const DOORBELLS: u64 = 0x1_0000;
/// How long the device may take. Far above what it takes: the guest is emulated, the machine busy.
const DEADLINE: Duration = Duration::from_secs(20);

const IDENTIFICATION: usize = 0x00;
const SCRATCH: usize = 0x08;
const MESSAGE: usize = 0x10;
const MESSAGES: usize = 0x18;
const EVENT: usize = 0x20;
const EVENTS: usize = 0x28;
const WAKE: usize = 0x30;
const SEEN: usize = 0x38;
const LAST: usize = 0x40;
const IDENT: u32 = 0x5452_4142;
/// In the last page of the BAR.
const END_IDENTIFICATION: usize = PAGE - 4;
const END_SCRATCH: usize = 0x000;
/// In the page of doorbells.
const ASLEEP: usize = 0x800;
const WORDS: u32 = 16;

/// The pieces of the BAR that have something in them, mapped.
pub(crate) struct BarTest {
    registers: Mmio,
    end: Mmio,
    window: Mmio,
    page: Mmio,
}

impl BarTest {
    /// Maps them, each at its own offset, and checks both ends.
    pub(crate) fn open(dir: &Path) -> Result<BarTest> {
        let resource = fs::read_to_string(dir.join("resource"))?;
        let mut numbers = resource
            .split_whitespace()
            .map(|n| u64::from_str_radix(n.trim_start_matches("0x"), 16));
        let (start, last) = (numbers.next().ok_or("no BAR")??, numbers.next().ok_or("no BAR")??);
        if start == 0 || last - start + 1 != BAR {
            return Err(format!("BAR 0 is at {start:#x}..={last:#x}, not {BAR:#x} bytes").into());
        }
        println!("BAR 0 is at {start:#x}");
        crate::enable(dir)?;
        let bar = File::options().read(true).write(true).open(dir.join("resource0"))?;
        let map = |offset, len| Mmio::map(&bar, offset, len);
        let device = BarTest {
            registers: map(0, PAGE)?,
            end: map(BAR - PAGE as u64, PAGE)?,
            window: map(WINDOW, WINDOW_LEN)?,
            page: map(DOORBELLS, PAGE)?,
        };
        for ident in
            [device.registers.read32(IDENTIFICATION), device.end.read32(END_IDENTIFICATION)]
        {
            same("the identification", ident, IDENT)?;
        }
        Ok(device)
    }

    /// Registers at both ends, memory in between.
    pub(crate) fn bar(&self) -> Result<()> {
        for value in [1u32, 0x8000_0000, 0xdead_beef] {
            self.registers.write64(SCRATCH, value.into());
            self.end.write64(END_SCRATCH, (!value).into());
            same("scratch", self.registers.read32(SCRATCH), value)?;
            same("scratch at the end", self.end.read32(END_SCRATCH), !value)?;
        }
        let value = |at: usize| (at as u32).wrapping_mul(0x9e37_79b9);
        for at in (0..WINDOW_LEN).step_by(4) {
            self.window.write32(at, value(at));
        }
        for at in (0..WINDOW_LEN).step_by(4) {
            same(&format!("memory at 4 GiB + {at:#x}"), self.window.read32(at), value(at))?;
        }
        same("scratch", self.registers.read32(SCRATCH), 0xdead_beef)
    }

    /// Every kind of doorbell, as often as `rounds` says.
    pub(crate) fn doorbells(&self, rounds: u32) -> Result<()> {
        let (messages, events) = (self.registers.read32(MESSAGES), self.registers.read32(EVENTS));
        let seen = self.registers.read32(SEEN);
        let mut woken = 0;
        for n in 1..=rounds {
            self.registers.write32(MESSAGE, n);
            self.registers.write32(EVENT, n);
            self.ring(n % WORDS, n);
            fence(Ordering::SeqCst);
            if self.page.read32(ASLEEP) != 0 {
                self.registers.write32(WAKE, 1);
                woken += 1;
            }
            self.wait(seen + n)?;
            same("the last ring's value", self.registers.read32(LAST), n)?;
            same("the last ring's word", self.registers.read32(LAST + 4), n % WORDS)?;
        }
        same("rings by message", self.registers.read32(MESSAGES), messages + rounds)?;
        same("rings of the ioeventfd", self.registers.read32(EVENTS), events + rounds)?;
        println!("{woken} of {rounds} rings had to wake the device");
        Ok(())
    }

    /// Rings while the device's process stands still. A write that took a message would stand still
    /// too, and QEMU with it.
    pub(crate) fn ring_alone(&self) -> Result<()> {
        let seen = self.registers.read32(SEEN);
        ask("stop")?;
        for word in 0..WORDS {
            self.ring(word, 0x5a5a_0000 + word);
        }
        self.window.write32(0, 0x1234_5678);
        same("memory beside", self.window.read32(0), 0x1234_5678)?;
        ask("go")?;
        self.wait(seen + WORDS)
    }

    fn ring(&self, word: u32, value: u32) {
        self.page.write32(4 * word as usize, value);
    }

    fn wait(&self, seen: u32) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = self.registers.read32(SEEN);
            if now == seen {
                return Ok(());
            }
            if now > seen || start.elapsed() > DEADLINE {
                return Err(format!("the device has seen {now} rings, and not {seen}").into());
            }
            std::thread::yield_now();
        }
    }
}

fn same(what: &str, value: u32, expected: u32) -> Result<()> {
    if value == expected {
        return Ok(());
    }
    Err(format!("{what} is {value:#x} and should be {expected:#x}").into())
}
