//! What the log of dirty pages costs, for a gigabyte in pages of 4 KiB:
//!
//!     cargo bench -p vfu --bench dirty
//!
//! First criterion measures each piece, to be compared with earlier runs. Then each piece is timed
//! in turn with the plain loop that is its limit, call by call, and the medians are divided: what
//! the machine does meanwhile falls on both.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;

use dirty::{Grid, Log, Pages, Picture};

/// The log itself, which is not public.
#[allow(dead_code, unused_imports)] // not all of it is measured
#[path = "../src/dma/dirty/mod.rs"]
mod dirty;

#[allow(dead_code, unused_imports)] // as above
#[path = "../src/sync/barrier.rs"]
mod barrier;

/// What the log takes from its crate.
mod sync {
    pub(crate) use super::barrier;
    pub(crate) use std::sync::{Mutex, RwLock, atomic};
}

const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;
const WORDS: usize = (GIB / PAGE / 64) as usize;
/// Where the memory begins, as the device sees it.
const BASE: u64 = 4 << 30;
/// How often each call is timed for the table.
const CALLS: usize = 4000;

/// A gigabyte that is logged, and a bitmap of the same size for the loops that it is measured by.
struct Subject {
    pages: Pages,
    plain: Vec<AtomicU64>,
    _log: Log,
}

impl Subject {
    fn new() -> Subject {
        let (log, pages) = (Log::default(), Pages::new(BASE, GIB));
        log.start(PAGE, [&pages]).expect("a page size that can be");
        let plain = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        Subject { pages, plain, _log: log }
    }

    fn mark(&self) {
        self.pages.mark(black_box(BASE), black_box(GIB as usize));
    }

    /// What a server does for a report: it appends it to a buffer that it has used before.
    fn report(&self, out: &mut Vec<u8>) {
        out.clear();
        let grid = Grid::new(black_box(BASE), GIB, PAGE).expect("a range that can be");
        let mut picture = Picture::append(grid, out).unwrap();
        self.pages.report(&mut picture);
        picture.finish();
    }

    fn store(&self) {
        black_box(&self.plain).iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
    }

    /// Every word is read, and used.
    fn read(&self) -> u64 {
        black_box(&self.plain).iter().fold(0, |sum, word| sum ^ word.load(Ordering::Relaxed))
    }

    /// Every word is read, and put into a buffer that was used before.
    fn read_out(&self, out: &mut Vec<u64>) {
        out.clear();
        out.extend(black_box(&self.plain).iter().map(|word| word.load(Ordering::Relaxed)));
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

fn median(mut times: Vec<Duration>, clock: Duration) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].saturating_sub(clock).as_secs_f64() * 1e9
}

/// The medians of two calls that are made in turn, each after its preparation, in ns.
fn in_turn<A, B, C, D>(
    mut before_limit: impl FnMut() -> A,
    mut limit: impl FnMut() -> B,
    mut before_ours: impl FnMut() -> C,
    mut ours: impl FnMut() -> D,
) -> (f64, f64) {
    let (mut limits, mut all, mut clocks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CALLS {
        black_box(before_limit());
        limits.push(timed(&mut limit));
        black_box(before_ours());
        all.push(timed(&mut ours));
        clocks.push(timed(|| ()));
    }
    clocks.sort_unstable();
    let clock = clocks[clocks.len() / 2];
    (median(limits, clock), median(all, clock))
}

fn row(what: &str, limit: &str, (limit_ns, ours_ns): (f64, f64), target: Option<f64>) {
    let ratio = ours_ns / limit_ns;
    let target = match target {
        Some(most) if ratio <= most => format!("at most {most}: met"),
        Some(most) => format!("at most {most}: MISSED"),
        None => "-".into(),
    };
    println!("{what:<34} {limit:<34} {limit_ns:>9.0} {ours_ns:>9.0} {ratio:>6.2}  {target}");
}

fn table(subject: &Subject) {
    let head = "1 GiB, pages of 4 KiB";
    println!("\n{head:<34} {:<34} limit ns   ours ns  ratio  target", "limit");
    let clean = || subject.plain.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    let (mut bits, mut words) = (Vec::new(), Vec::new());
    let mark = in_turn(clean, || subject.store(), || subject.report(&mut bits), || subject.mark());
    row("mark all, all clean before", "64-bit atomic stores", mark, Some(2.0));
    let again = in_turn(|| (), || subject.store(), || (), || subject.mark());
    row("mark all, all dirty before", "64-bit atomic stores", again, Some(2.0));
    let (store, mark) = (|| subject.store(), || subject.mark());
    let read = in_turn(store, || subject.read(), mark, || subject.report(&mut bits));
    row("report and clear, all dirty", "64-bit atomic loads", read, Some(1.3));
    let out = in_turn(store, || subject.read_out(&mut words), mark, || subject.report(&mut bits));
    row("report and clear, all dirty", "the same, and stores to a buffer", out, Some(1.3));
}

fn main() {
    let subject = Subject::new();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    criterion.bench_function("mark a dirty GiB", |b| b.iter(|| subject.mark()));
    let mut bits = Vec::new();
    criterion.bench_function("mark and report a GiB", |b| {
        b.iter(|| {
            subject.mark();
            subject.report(&mut bits);
        });
    });
    criterion.bench_function("mark a page", |b| b.iter(|| subject.pages.mark(black_box(BASE), 64)));
    let off = Pages::new(BASE, GIB);
    criterion.bench_function("mark a page, off", |b| b.iter(|| off.mark(black_box(BASE), 64)));
    criterion.final_summary();
    if !std::env::args().any(|arg| arg == "--test") {
        table(&subject);
    }
}
