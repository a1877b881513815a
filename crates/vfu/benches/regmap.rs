//! What a register map adds to an access, against a device that matches offsets by hand:
//!
//!     cargo bench -p vfu --bench regmap
//!
//! First criterion measures each, to be compared with earlier runs. Then both are timed in turn, and
//! the medians are subtracted: what the machine does meanwhile falls on both. The limit is 30 ns an
//! access.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use vfu::regmap::{RegisterBank, RegisterDevice, RegisterRead, RegisterWrite};
use vfu::{Access, Fault};

const SIZE: u64 = 1 << 20;
const LIMIT_NS: f64 = 30.0;
/// Accesses of one timing: far more than the clock takes.
const ACCESSES: u32 = 10_000;
const ROUNDS: usize = 300;

vfu::registers! {
    fn map("bench", SIZE);

    0x00 IDENTIFICATION: Ro<u32> = 0x0100_00ed;
    0x04 CONTROL: Rw<u32> { 0 START; 4..=5 RATE; };
    0x08 STATUS: W1c<u32> { 0 DONE; };
    0x10 ADDRESS: Rw<u64>;
    0x100 QUEUE[64; 8]: Rw<u32>;
}

struct Declared {
    bank: RegisterBank,
    started: u64,
}

impl RegisterDevice for Declared {
    fn bank(&mut self) -> &mut RegisterBank {
        &mut self.bank
    }

    fn on_read(&mut self, read: RegisterRead) -> Result<u64, Fault> {
        Ok(read.value)
    }

    fn on_write(&mut self, write: RegisterWrite) -> Result<u64, Fault> {
        if write.register == CONTROL && write.value & START != 0 {
            self.started += 1;
        }
        Ok(write.value)
    }
}

/// The same by hand, for accesses of 4 bytes.
#[derive(Default)]
struct ByHand {
    control: u32,
    status: u32,
    started: u64,
}

impl ByHand {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Fault> {
        let at = Access { region: 0, offset };
        match offset {
            IDENTIFICATION => at.give(data, &0x0100_00ed_u32.to_le_bytes()),
            CONTROL => at.give(data, &self.control.to_le_bytes()),
            STATUS => at.give(data, &self.status.to_le_bytes()),
            _ => return Err(Fault::Unmodelled),
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let value = Access { region: 0, offset }.u32(data)?;
        match offset {
            CONTROL => {
                self.control = value;
                if u64::from(value) & START != 0 {
                    self.started += 1;
                }
            }
            STATUS => self.status &= !value,
            _ => return Err(Fault::Unmodelled),
        }
        Ok(())
    }
}

fn timed<T>(mut access: impl FnMut(u32) -> T) -> Duration {
    let start = Instant::now();
    (0..ACCESSES).for_each(|n| {
        black_box(access(n));
    });
    start.elapsed()
}

/// Nanoseconds an access.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_nanos() as f64 / f64::from(ACCESSES))
}

/// Times both in turn. Whether the map keeps the limit.
fn compare<T>(
    what: &str,
    mut by_hand: impl FnMut(u32) -> T,
    mut declared: impl FnMut(u32) -> T,
) -> bool {
    let both = (0..ROUNDS).map(|_| (timed(&mut by_hand), timed(&mut declared)));
    let (by_hand, declared): (Vec<_>, Vec<_>) = both.unzip();
    let (by_hand, declared) = (median(by_hand), median(declared));
    let added = declared - by_hand;
    println!("{what:<8} {by_hand:8.1} ns by hand {declared:8.1} ns declared {added:8.1} ns added");
    added < LIMIT_NS
}

fn main() {
    let mut declared = Declared { bank: RegisterBank::new(map()), started: 0 };
    let mut by_hand = ByHand::default();
    let mut data = [0; 4];
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    criterion.bench_function("read by hand", |b| {
        b.iter(|| by_hand.read(black_box(CONTROL), black_box(&mut data)));
    });
    criterion.bench_function("read, declared", |b| {
        b.iter(|| declared.bar_read(black_box(CONTROL), black_box(&mut data)));
    });
    criterion.bench_function("write by hand", |b| {
        b.iter(|| by_hand.write(black_box(CONTROL), black_box(&[1, 0, 0, 0])));
    });
    criterion.bench_function("write, declared", |b| {
        b.iter(|| declared.bar_write(black_box(CONTROL), black_box(&[1, 0, 0, 0])));
    });
    criterion.bench_function("read an element, declared", |b| {
        b.iter(|| declared.bar_read(black_box(QUEUE + 8 * 37), black_box(&mut data)));
    });
    criterion.final_summary();
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    // Not the same value each time: a driver that spins is another matter.
    let offset = |n| if n % 2 == 0 { CONTROL } else { IDENTIFICATION };
    let mut other = [0; 4];
    let read = compare(
        "read",
        |n| by_hand.read(black_box(offset(n)), &mut data),
        |n| declared.bar_read(black_box(offset(n)), &mut other),
    );
    let write = compare(
        "write",
        |n| by_hand.write(black_box(CONTROL), &n.to_le_bytes()),
        |n| declared.bar_write(black_box(CONTROL), &n.to_le_bytes()),
    );
    println!("limit: {LIMIT_NS} ns, {}", if read && write { "kept" } else { "NOT KEPT" });
    black_box((by_hand.started, declared.started));
}
