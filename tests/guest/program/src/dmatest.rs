//! The DMA test device (1234:d3a0): copies in each place where a device can do them, with every byte
//! checked, while other threads keep its registers busy.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Result;
use crate::memory::{pattern, physical};
use crate::sys::{Mmio, PAGE, Page};
use crate::uio::Intx;

/// The length of BAR 0, in bytes.
pub(crate) const BAR: usize = 4096;
/// How long a copy may take. Far above what it takes: the guest is emulated, the machine busy.
const DEADLINE: Duration = Duration::from_secs(20);

const IDENTIFICATION: usize = 0x00;
const SOURCE: usize = 0x08;
const DESTINATION: usize = 0x10;
const LENGTH: usize = 0x18;
const COMMAND: usize = 0x20;
const COUNT: usize = 0x28;
const ERRNO: usize = 0x2c;
const COPY: usize = 0x30;
const SCRATCH: usize = 0x40;
const SCRATCH_END: usize = 0x100;

const IDENT: u32 = 0x5646_5544;
const INTERRUPT: u32 = 1 << 8;
const ETIMEDOUT: u32 = 110;

/// Where the device is asked to copy.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// Inside the handler of the write of the command.
    InWrite,
    /// On a thread of the device.
    OnThread,
    /// Inside the handler of a read.
    InRead,
}

impl Place {
    /// By its name on the command line.
    pub(crate) fn parse(name: &str) -> Result<Place> {
        match name {
            "in-write" => Ok(Place::InWrite),
            "on-thread" => Ok(Place::OnThread),
            "in-read" => Ok(Place::InRead),
            _ => Err(format!("no place {name}; there are in-write, on-thread, in-read").into()),
        }
    }
}

/// The device, and two pages for it to copy between.
pub(crate) struct DmaTest<'a> {
    registers: &'a Mmio,
    source: Page,
    destination: Page,
}

impl<'a> DmaTest<'a> {
    /// Checks that the device answers.
    pub(crate) fn new(registers: &'a Mmio) -> Result<DmaTest<'a>> {
        let ident = registers.read32(IDENTIFICATION);
        if ident != IDENT {
            return Err(format!("the identification is {ident:#010x}, not {IDENT:#010x}").into());
        }
        Ok(DmaTest { registers, source: Page::new()?, destination: Page::new()? })
    }

    /// Copies `copies` times and checks each.
    pub(crate) fn basic(&mut self, place: Place, len: usize, copies: u32) -> Result<()> {
        (0..copies).try_for_each(|n| self.copy(place, len, n))
    }

    /// Checks how many copies have ended since the last reset.
    pub(crate) fn count(&self, expected: u32) -> Result<()> {
        match self.registers.read32(COUNT) {
            count if count == expected => Ok(()),
            count => Err(format!("{count} copies are counted, not {expected}").into()),
        }
    }

    /// Has the copy that QEMU can't serve in that place end with an error, and checks that all works
    /// afterwards.
    pub(crate) fn limit(&mut self, place: Place, len: usize) -> Result<()> {
        let start = Instant::now();
        self.prepare(len, 0)?;
        let errno = self.run(place)?;
        if errno != ETIMEDOUT {
            return Err(format!("errno is {errno} and not {ETIMEDOUT}").into());
        }
        println!("the copy was given up after {:.2?}", start.elapsed());
        self.basic(Place::OnThread, PAGE, 50)
    }

    /// Copies for a time, while `readers` and `writers` threads use the registers. Every copy and
    /// every register is checked.
    pub(crate) fn hammer(
        &mut self,
        place: Place,
        len: usize,
        time: Duration,
        readers: usize,
        writers: usize,
    ) -> Result<String> {
        let (stop, reads, writes) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let registers = self.registers;
        let mut copies = 0;
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for _ in 0..readers {
                threads.push(scope.spawn(|| read_on(registers, &stop, &reads)));
            }
            for n in 0..writers {
                let (stop, writes) = (&stop, &writes);
                let register = SCRATCH + 4 * n;
                threads.push(scope.spawn(move || write_on(registers, register, stop, writes)));
            }
            let start = Instant::now();
            let mut result = Ok(());
            while result.is_ok() && start.elapsed() < time {
                result = self.copy(place, len, copies);
                copies += 1;
                if copies == 20 {
                    println!("hammering"); // who wants to disturb it waits for this
                }
            }
            stop.store(true, Ordering::Relaxed);
            for thread in threads {
                let said = thread.join().map_err(|_| "a thread panicked")?;
                said?;
            }
            result
        })?;
        let (reads, writes) = (reads.into_inner(), writes.into_inner());
        Ok(format!("{copies} copies, {reads} reads and {writes} writes in {time:?}, all right"))
    }

    /// Copies with an interrupt at each end.
    pub(crate) fn interrupts(
        &mut self,
        place: Place,
        len: usize,
        copies: u32,
        intx: &mut Intx,
    ) -> Result<()> {
        for n in 0..copies {
            let expected = self.prepare(len, n)?;
            let before = self.registers.read32(COUNT);
            self.start(place, INTERRUPT);
            intx.wait()?;
            // Before any register is read: the interrupt must not overtake the data.
            self.check(&expected, n)?;
            let count = self.registers.read32(COUNT);
            if count != before.wrapping_add(1) {
                return Err(format!("the count went from {before} to {count}").into());
            }
            self.errno_is_none(n)?;
            intx.unmask()?;
        }
        intx.is_quiet()
    }

    /// One copy, checked.
    fn copy(&mut self, place: Place, len: usize, n: u32) -> Result<()> {
        let expected = self.prepare(len, n)?;
        self.run(place)?;
        self.errno_is_none(n)?;
        self.check(&expected, n)
    }

    /// Fills both pages and tells the device about them. Gives what the second one must become.
    fn prepare(&mut self, len: usize, n: u32) -> Result<[u8; PAGE]> {
        let (from, mut to) = (pattern(n), pattern(!n));
        self.source.fill(&from);
        self.destination.fill(&to);
        self.registers.write64(SOURCE, physical(&self.source)?);
        self.registers.write64(DESTINATION, physical(&self.destination)?);
        self.registers.write32(LENGTH, len as u32);
        for (to, from) in to.iter_mut().zip(from).take(len) {
            *to = !from;
        }
        Ok(to)
    }

    /// Starts a copy, and waits for its end. Gives its errno.
    fn run(&self, place: Place) -> Result<u32> {
        let before = self.registers.read32(COUNT);
        self.start(place, 0);
        let start = Instant::now();
        while self.registers.read32(COUNT) == before {
            if start.elapsed() > DEADLINE {
                return Err(format!("the copy did not end within {DEADLINE:?}").into());
            }
            std::thread::yield_now();
        }
        Ok(self.registers.read32(ERRNO))
    }

    fn start(&self, place: Place, flags: u32) {
        match place {
            Place::InWrite => self.registers.write32(COMMAND, 1 | flags),
            Place::OnThread => self.registers.write32(COMMAND, 2 | flags),
            Place::InRead => {
                self.registers.read32(COPY);
            }
        }
    }

    fn errno_is_none(&self, n: u32) -> Result<()> {
        match self.registers.read32(ERRNO) {
            0 => Ok(()),
            errno => Err(format!("copy {n}: the device says errno {errno}").into()),
        }
    }

    fn check(&self, expected: &[u8; PAGE], n: u32) -> Result<()> {
        let bytes = self.destination.bytes();
        match (0..PAGE).find(|&at| bytes[at] != expected[at]) {
            None => Ok(()),
            Some(at) => {
                let (is, should) = (bytes[at], expected[at]);
                Err(format!("copy {n}: byte {at} is {is:#04x} and should be {should:#04x}").into())
            }
        }
    }
}

fn read_on(
    registers: &Mmio,
    stop: &AtomicBool,
    count: &AtomicU64,
) -> std::result::Result<(), String> {
    while !stop.load(Ordering::Relaxed) {
        let ident = registers.read32(IDENTIFICATION);
        if ident != IDENT {
            return Err(format!("the identification is {ident:#010x} all of a sudden"));
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Writes one register, and reads it back now and then.
fn write_on(
    registers: &Mmio,
    register: usize,
    stop: &AtomicBool,
    count: &AtomicU64,
) -> std::result::Result<(), String> {
    for value in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        registers.write32(register, value);
        if value % 64 == 0 {
            let back = registers.read32(register);
            if back != value {
                return Err(format!("wrote {value:#x}, read {back:#x}"));
            }
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Registers that hold what was written.
const REGISTERS: u32 = (SCRATCH_END - SCRATCH) as u32 / 4;

fn register(n: u32) -> usize {
    SCRATCH + 4 * (n % REGISTERS) as usize
}

/// Writes registers without a read between, then compares.
pub(crate) fn flood(registers: &Mmio, writes: u32) -> Result<()> {
    write_all(registers, writes);
    compare_all(registers, writes)
}

/// The writes of a flood.
pub(crate) fn write_all(registers: &Mmio, writes: u32) {
    for n in 0..writes {
        registers.write32(register(n), n);
    }
}

/// What a flood has left.
pub(crate) fn compare_all(registers: &Mmio, writes: u32) -> Result<()> {
    for n in writes.saturating_sub(REGISTERS)..writes {
        let value = registers.read32(register(n));
        if value != n {
            let at = register(n);
            return Err(format!("register {at:#x} is {value} and should be {n}").into());
        }
    }
    Ok(())
}
