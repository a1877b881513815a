//! Drives a device from inside the guest. Exit status 0 if it did what it must, 1 if not.
//!
//! `guest-program edu DIR TEST`, where DIR is the device's folder in sysfs, and TEST one of
//!
//! - `factorial`: liveness and factorials
//! - `dma`: copies both ways, polled, by physical address
//! - `intx`: interrupts and copies with interrupts, bound to `uio_pci_generic`
//! - `msi`: the same with MSI and by IOVA, bound to `vfio-pci` behind an IOMMU
//! - `dirty`, `clean`: fill registers before a reset, check them after it
//!
//! `guest-program irqtest DIR TEST`, where TEST is one of
//!
//! - `msix`: every vector, masked and unmasked by the kernel, bound to `vfio-pci` behind an IOMMU
//! - `err`: tells the VMM that the device has failed, which stops the machine
//!
//! `guest-program dmatest DIR TEST`, where TEST is one of the following. PLACE says where the device
//! copies: `on-thread`, `in-write` or `in-read`. Every byte is checked.
//!
//! - `basic PLACE LENGTH COPIES`: copies, polled
//! - `hammer PLACE LENGTH SECONDS READERS WRITERS`: copies while threads read and write registers
//! - `intx PLACE LENGTH COPIES`: copies with interrupts, bound to `uio_pci_generic`
//! - `flood WRITES`: writes registers without a read between, then compares
//! - `pile-up WRITES`: the same while the device's process is stopped
//! - `count N`: so many copies have ended since the last reset
//! - `limit PLACE LENGTH`: the copy ends with ETIMEDOUT, and those after it work
//!
//! `guest-program bartest DIR TEST`, where TEST is one of
//!
//! - `bar`: registers at both ends of a BAR of 8 GiB, memory beyond 4 GiB
//! - `doorbells ROUNDS`: each kind of doorbell
//! - `ring-alone`: doorbells in mapped memory, while the device's process is stopped

mod bartest;
mod dmatest;
mod edu;
mod irqtest;
mod memory;
mod sys;
mod uio;
mod vfio;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

use bartest::BarTest;
use dmatest::{DmaTest, Place};
use edu::{Edu, IRQ_DMA, IRQ_FACTORIAL};
use sys::{Mmio, Page};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How often each copy and each interrupt is done. All shapes of copies come up twice.
const ROUNDS: u32 = 10;
/// The size of BAR 0 of edu, in bytes.
const BAR: usize = 1 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["edu", dir, test] => edu_test(Path::new(dir), test),
        ["irqtest", dir, test] => irqtest_test(Path::new(dir), test),
        ["dmatest", dir, ref test @ ..] => dmatest_test(Path::new(dir), test),
        ["bartest", dir, ref test @ ..] => bartest_test(Path::new(dir), test),
        _ => Err(
            "usage: guest-program edu|irqtest|dmatest|bartest DIR TEST...; see the head of main.rs"
                .into(),
        ),
    };
    match result {
        Ok(said) => {
            println!("{}: {said}", args.join(" "));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}: FAILED: {error}", args.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn edu_test(dir: &Path, test: &str) -> Result<String> {
    match test {
        "factorial" => {
            let edu = open(dir)?;
            edu.liveness()?;
            edu.factorials()?;
            Ok("liveness and factorials are right".into())
        }
        "dma" => {
            let edu = open(dir)?;
            let mut page = Page::new()?;
            for round in 0..ROUNDS {
                let address = memory::physical(&page)?;
                edu.polled(&mut page, address, round)?;
            }
            Ok(format!("{ROUNDS} copies to the device and back, all bytes right"))
        }
        "intx" => intx(dir),
        "msi" => msi(dir),
        "dirty" => {
            open(dir)?.dirty();
            Ok("registers filled".into())
        }
        "clean" => {
            open(dir)?.is_reset()?;
            Ok("registers as after a reset".into())
        }
        _ => Err(format!("no test {test}").into()),
    }
}

fn irqtest_test(dir: &Path, test: &str) -> Result<String> {
    match test {
        "msix" => irqtest::msix(&vfio::Device::open(dir)?),
        "err" => Ok(irqtest::err(&registers(dir, irqtest::BAR)?)),
        _ => Err(format!("no test {test}").into()),
    }
}

fn dmatest_test(dir: &Path, test: &[&str]) -> Result<String> {
    let start = std::time::Instant::now();
    let registers = registers(dir, dmatest::BAR)?;
    let mut device = DmaTest::new(&registers)?;
    let said = match *test {
        ["basic", place, len, copies] => {
            device.basic(Place::parse(place)?, len.parse()?, copies.parse()?)?;
            "all bytes right".into()
        }
        ["hammer", place, len, seconds, readers, writers] => {
            let time = std::time::Duration::from_secs(seconds.parse()?);
            let (readers, writers) = (readers.parse()?, writers.parse()?);
            device.hammer(Place::parse(place)?, len.parse()?, time, readers, writers)?
        }
        ["intx", place, len, copies] => {
            let mut intx = uio::Intx::open(dir)?;
            device.interrupts(Place::parse(place)?, len.parse()?, copies.parse()?, &mut intx)?;
            "one interrupt for each copy, all bytes right".into()
        }
        ["flood", writes] => {
            dmatest::flood(&registers, writes.parse()?)?;
            "no write lost".into()
        }
        ["pile-up", writes] => {
            ask("stop")?;
            let writes = writes.parse()?;
            dmatest::write_all(&registers, writes);
            ask("go")?;
            dmatest::compare_all(&registers, writes)?;
            "no write lost".into()
        }
        ["count", expected] => {
            device.count(expected.parse()?)?;
            "the count is right".into()
        }
        ["limit", place, len] => {
            device.limit(Place::parse(place)?, len.parse()?)?;
            "an error in time, and all works afterwards".into()
        }
        _ => return Err("no such test".into()),
    };
    Ok(format!("{said} ({:.2?})", start.elapsed()))
}

fn bartest_test(dir: &Path, test: &[&str]) -> Result<String> {
    let device = BarTest::open(dir)?;
    match *test {
        ["bar"] => {
            device.bar()?;
            Ok("both ends and the memory between are right".into())
        }
        ["doorbells", rounds] => {
            device.doorbells(rounds.parse()?)?;
            Ok("every ring was counted".into())
        }
        ["ring-alone"] => {
            device.ring_alone()?;
            Ok("rings without a message were seen".into())
        }
        _ => Err("no such test".into()),
    }
}

/// Asks the test outside to do something, and waits until it has.
fn ask(word: &str) -> Result<()> {
    println!("VFU-ASK {word}");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

fn open(dir: &Path) -> Result<Edu> {
    Edu::new(registers(dir, BAR)?)
}

/// Enables memory and bus mastering.
fn enable(dir: &Path) -> Result<()> {
    let config = File::options().read(true).write(true).open(dir.join("config"))?;
    let mut command = [0; 2];
    config.read_exact_at(&mut command, 4)?;
    command[0] |= 6;
    config.write_all_at(&command, 4)?;
    Ok(())
}

/// The registers through sysfs, with memory and bus mastering enabled.
fn registers(dir: &Path, len: usize) -> Result<Mmio> {
    enable(dir)?;
    let bar = File::options().read(true).write(true).open(dir.join("resource0"))?;
    Ok(Mmio::map(&bar, 0, len)?)
}

fn intx(dir: &Path) -> Result<String> {
    let edu = open(dir)?;
    let mut page = Page::new()?;
    let mut intx = uio::Intx::open(dir)?;

    for n in 1..=ROUNDS {
        edu.raise(n);
        intx.wait()?;
        edu.acknowledge(n)?;
        intx.unmask()?;
    }
    edu.start_factorial(10, true)?;
    intx.wait()?;
    edu.acknowledge(IRQ_FACTORIAL)?;
    intx.unmask()?;
    edu.check_factorial(10)?;

    for round in 0..ROUNDS {
        let address = memory::physical(&page)?;
        edu.interrupted(&mut page, address, round, &mut |edu| {
            intx.wait()?;
            edu.acknowledge(IRQ_DMA)?;
            intx.unmask()
        })?;
    }
    intx.is_quiet()?;
    Ok(format!("{} interrupts, one for each cause", ROUNDS + 1 + 2 * ROUNDS))
}

fn msi(dir: &Path) -> Result<String> {
    /// Low enough for a device with 28 address bits.
    const IOVA: u64 = 0x10_0000;

    let device = vfio::Device::open(dir)?;
    let edu = Edu::new(device.registers()?)?;
    let mut page = Page::new()?;
    device.map(&page, IOVA)?;
    let msi = device.msi()?;

    for n in 1..=ROUNDS {
        edu.raise(n);
        msi.wait()?;
        edu.acknowledge(n)?;
    }
    edu.start_factorial(10, true)?;
    msi.wait()?;
    edu.acknowledge(IRQ_FACTORIAL)?;
    edu.check_factorial(10)?;

    for round in 0..ROUNDS {
        // Another address each time: the map of the peer changes under the device.
        let iova = IOVA + u64::from(round) * 0x3000;
        if round > 0 {
            device.map(&page, iova)?;
        }
        edu.interrupted(&mut page, iova, round, &mut |edu| {
            msi.wait()?;
            edu.acknowledge(IRQ_DMA)
        })?;
        device.unmap(iova)?;
    }
    Ok(format!("{} interrupts, one for each cause", ROUNDS + 1 + 2 * ROUNDS))
}
