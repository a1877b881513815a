//! The registers of the edu device (1234:11e8), and what they must do.

use std::time::{Duration, Instant};

use crate::Result;
use crate::memory::pattern;
use crate::sys::{Mmio, PAGE, Page};

/// How long anything may take. Far above what it takes: the guest is emulated, the machine busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What the completion of a DMA sets in the interrupt status.
pub(crate) const IRQ_DMA: u32 = 0x100;
/// What the completion of a factorial sets in the interrupt status.
pub(crate) const IRQ_FACTORIAL: u32 = 0x001;

const IDENT: usize = 0x00;
const LIVENESS: usize = 0x04;
const FACTORIAL: usize = 0x08;
const STATUS: usize = 0x20;
const IRQ_STATUS: usize = 0x24;
const IRQ_RAISE: usize = 0x60;
const IRQ_ACK: usize = 0x64;
const DMA_SOURCE: usize = 0x80;
const DMA_DESTINATION: usize = 0x88;
const DMA_COUNT: usize = 0x90;
const DMA_COMMAND: usize = 0x98;

const STATUS_COMPUTING: u32 = 0x01;
const STATUS_INTERRUPT: u32 = 0x80;
const DMA_RUN: u32 = 1;
const DMA_TO_RAM: u32 = 2;
const DMA_INTERRUPT: u32 = 4;

/// Where the device's own buffer of 4096 bytes is, as its DMA engine counts.
const BUFFER: u64 = 0x40000;

/// The device.
pub(crate) struct Edu(pub(crate) Mmio);

impl Edu {
    /// Checks that an edu answers.
    pub(crate) fn new(registers: Mmio) -> Result<Edu> {
        let edu = Edu(registers);
        let ident = edu.0.read32(IDENT);
        if ident != 0x0100_00ed {
            return Err(format!("the identification is {ident:#010x}, not 0x010000ed").into());
        }
        Ok(edu)
    }

    /// The liveness register answers with the inverse of what it was given.
    pub(crate) fn liveness(&self) -> Result<()> {
        for value in [0, 1, 0x8000_0000, 0xdead_beef, u32::MAX] {
            self.0.write32(LIVENESS, value);
            same(&format!("liveness of {value:#x}"), self.0.read32(LIVENESS), !value)?;
        }
        Ok(())
    }

    /// Computes some factorials, modulo 2^32.
    pub(crate) fn factorials(&self) -> Result<()> {
        for n in [0, 1, 2, 5, 10, 12, 13, 20] {
            self.start_factorial(n, false)?;
            self.wait("the factorial", || self.0.read32(STATUS) & STATUS_COMPUTING == 0)?;
            self.check_factorial(n)?;
        }
        Ok(())
    }

    /// Starts a factorial, with or without an interrupt at its end.
    pub(crate) fn start_factorial(&self, n: u32, interrupt: bool) -> Result<()> {
        self.wait("the device to be idle", || self.0.read32(STATUS) & STATUS_COMPUTING == 0)?;
        self.0.write32(STATUS, if interrupt { STATUS_INTERRUPT } else { 0 });
        self.0.write32(FACTORIAL, n);
        Ok(())
    }

    /// Compares the result.
    pub(crate) fn check_factorial(&self, n: u32) -> Result<()> {
        let expected = (1..=n).fold(1u32, u32::wrapping_mul);
        same(&format!("{n}!"), self.0.read32(FACTORIAL), expected)
    }

    /// Raises the interrupt with these bits of status.
    pub(crate) fn raise(&self, bits: u32) {
        self.0.write32(IRQ_RAISE, bits);
    }

    /// Checks the interrupt status, acknowledges it, and checks that it is gone.
    pub(crate) fn acknowledge(&self, bits: u32) -> Result<()> {
        same("the interrupt status", self.0.read32(IRQ_STATUS), bits)?;
        self.0.write32(IRQ_ACK, bits);
        same("the interrupt status after the acknowledgement", self.0.read32(IRQ_STATUS), 0)
    }

    /// Checks that all registers hold what a reset leaves.
    pub(crate) fn is_reset(&self) -> Result<()> {
        for (name, register) in [
            ("liveness", LIVENESS),
            ("status", STATUS),
            ("interrupt status", IRQ_STATUS),
            ("DMA source", DMA_SOURCE),
            ("DMA destination", DMA_DESTINATION),
            ("DMA count", DMA_COUNT),
            ("DMA command", DMA_COMMAND),
        ] {
            // After a reset the liveness register holds 0, and so may its inverse.
            let value = self.0.read32(register);
            if value != 0 {
                return Err(format!("{name} is {value:#x} after a reset").into());
            }
        }
        Ok(())
    }

    /// Leaves something in many registers, for a reset to clear.
    pub(crate) fn dirty(&self) {
        self.0.write32(LIVENESS, 0x1234_5678);
        self.0.write32(STATUS, STATUS_INTERRUPT);
        self.0.write64(DMA_SOURCE, 0x11_1000);
        self.0.write64(DMA_DESTINATION, 0x22_2000);
        self.0.write64(DMA_COUNT, 0x33);
    }

    /// Copies by polling, both ways; see [`Edu::round`].
    pub(crate) fn polled(&self, page: &mut Page, address: u64, round: u32) -> Result<()> {
        self.round(page, address, round, |command| {
            self.0.write32(DMA_COMMAND, command);
            self.wait("the DMA", || self.0.read32(DMA_COMMAND) & DMA_RUN == 0)
        })
    }

    /// Copies with an interrupt at each end, which `interrupted` waits for and acknowledges.
    pub(crate) fn interrupted(
        &self,
        page: &mut Page,
        address: u64,
        round: u32,
        interrupted: &mut dyn FnMut(&Edu) -> Result<()>,
    ) -> Result<()> {
        self.round(page, address, round, |command| {
            self.0.write32(DMA_COMMAND, command | DMA_INTERRUPT);
            interrupted(self)
        })
    }

    /// Copies a part of the page to the device's buffer and back to another place in the page, and
    /// compares every byte of the page, also of the parts that must not have changed.
    fn round(
        &self,
        page: &mut Page,
        address: u64,
        round: u32,
        mut run: impl FnMut(u32) -> Result<()>,
    ) -> Result<()> {
        // Length, place in the page to read, in the buffer, and in the page to write.
        const SHAPES: [(usize, usize, usize, usize); 5] =
            [(PAGE, 0, 0, 0), (1, 5, 7, 9), (64, 0, 4032, 2048), (1000, 3, 96, 3096), (4, 8, 4, 0)];
        let (len, from, middle, to) = SHAPES[round as usize % SHAPES.len()];

        let original = pattern(round);
        page.fill(&original);
        self.transfer(address + from as u64, BUFFER + middle as u64, len);
        run(DMA_RUN)?;
        if page.bytes() != original {
            return Err(format!("round {round}: a copy out of memory changed the memory").into());
        }

        let mut expected = pattern(!round);
        page.fill(&expected);
        self.transfer(BUFFER + middle as u64, address + to as u64, len);
        run(DMA_RUN | DMA_TO_RAM)?;
        expected[to..to + len].copy_from_slice(&original[from..from + len]);
        let bytes = page.bytes();
        if let Some(at) = (0..PAGE).find(|&at| bytes[at] != expected[at]) {
            let (is, should) = (bytes[at], expected[at]);
            return Err(format!(
                "round {round}: {len} bytes to the device and back: byte {at} of the page is \
                 {is:#04x} and should be {should:#04x}"
            )
            .into());
        }
        Ok(())
    }

    fn transfer(&self, source: u64, destination: u64, count: usize) {
        self.0.write64(DMA_SOURCE, source);
        self.0.write64(DMA_DESTINATION, destination);
        self.0.write64(DMA_COUNT, count as u64);
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        while !done() {
            if start.elapsed() > DEADLINE {
                return Err(format!("waited {DEADLINE:?} for {what}").into());
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// An error that says what was read and what was expected, if they differ.
fn same(what: &str, value: u32, expected: u32) -> Result<()> {
    if value == expected {
        return Ok(());
    }
    Err(format!("{what} is {value:#x} and should be {expected:#x}").into())
}
