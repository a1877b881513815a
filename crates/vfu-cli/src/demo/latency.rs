//! What a register read costs: over vfu, and as bare messages of the same sizes.
//!
//! Where the scheduler puts the two threads matters more than all else: waking a thread on another
//! CPU can take ten times as long as on the same. So both are told where to run, vfu's and the bare
//! ones alike; else the ratio would be one of luck.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use vfu_bench::place::{cpus, run_on};

use super::stage::Seen;

/// The length of a REGION_READ, and of its answer with a register of 4 bytes.
const REQUEST: usize = 32;
const REPLY: usize = 36;
/// Each batch of one kind is followed by one of the other, so that both see the same weather.
const BATCH: usize = 250;
const BATCHES: usize = 12;
/// After this no new batch begins; a slow machine has fewer samples.
const BUDGET: Duration = Duration::from_secs(1);

/// Measures reads of a register with both threads on one CPU, and, if there is another, on two.
/// `connect` starts a server on a new thread and gives what reads a register of it.
pub(super) fn measure<R>(connect: impl Fn() -> anyhow::Result<R> + Sync) -> anyhow::Result<Seen>
where
    R: FnMut() -> anyhow::Result<()>,
{
    let cpus = cpus()?;
    let places =
        [("one_cpu", "on one CPU", cpus.first()), ("two_cpus", "on two CPUs", cpus.get(1))];
    let mut seen = Seen::default();
    for (key, place, far) in places {
        let (Some(near), Some(far)) = (cpus.first(), far) else { continue };
        let latency = thread::scope(|scope| {
            let thread = scope.spawn(|| measure_between(*near, *far, &connect));
            thread.join().unwrap_or_else(|_| Err(anyhow!("the measuring thread panicked")))
        })?;
        seen = latency.tell(seen, key, place);
    }
    Ok(seen)
}

/// Begins with the threads of the far side, which stay where they are started.
fn measure_between<R>(
    near: usize,
    far: usize,
    connect: impl Fn() -> anyhow::Result<R>,
) -> anyhow::Result<Latency>
where
    R: FnMut() -> anyhow::Result<()>,
{
    run_on(far)?;
    let mut read = connect()?;
    let mut raw_pair = RawPair::new()?;
    run_on(near)?;
    let (mut vfu, mut raw) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for _ in 0..BATCHES {
        sample(&mut vfu, &mut read)?;
        sample(&mut raw, || raw_pair.round_trip())?;
        if began.elapsed() > BUDGET {
            break;
        }
    }
    let samples = vfu.len();
    Ok(Latency { vfu: percentiles(&mut vfu)?, raw: percentiles(&mut raw)?, samples })
}

/// Two distributions, in nanoseconds.
struct Latency {
    vfu: Percentiles,
    raw: Percentiles,
    /// How many of each kind.
    samples: usize,
}

struct Percentiles {
    p50: u64,
    p99: u64,
}

impl Latency {
    /// Adds text and figures to what was seen at other places.
    fn tell(&self, mut seen: Seen, key: &str, place: &str) -> Seen {
        let (vfu, raw) = (&self.vfu, &self.raw);
        let ratio = vfu.p50 as f64 / raw.p50.max(1) as f64;
        let pair = |of: &Percentiles| {
            format!("p50 {:.1} us, p99 {:.1} us", of.p50 as f64 / 1e3, of.p99 as f64 / 1e3)
        };
        if !seen.text.is_empty() {
            seen.text.push('\n');
        }
        let (vfu_text, raw_text) = (pair(vfu), pair(raw));
        seen.text.push_str(&format!(
            "{place}: {vfu_text}; bare messages {raw_text}; {ratio:.2} times at p50"
        ));
        seen.figure(&format!("{key}_samples"), self.samples)
            .figure(&format!("{key}_read_p50_ns"), vfu.p50)
            .figure(&format!("{key}_read_p99_ns"), vfu.p99)
            .figure(&format!("{key}_raw_p50_ns"), raw.p50)
            .figure(&format!("{key}_raw_p99_ns"), raw.p99)
            .figure(&format!("{key}_ratio_p50"), ratio)
    }
}

fn sample(
    times: &mut Vec<u64>,
    mut step: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    step()?; // wakes the caches and the other thread
    for _ in 0..BATCH {
        let began = Instant::now();
        step()?;
        times.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(())
}

fn percentiles(times: &mut [u64]) -> anyhow::Result<Percentiles> {
    ensure!(!times.is_empty(), "nothing was measured");
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Ok(Percentiles { p50: at(50), p99: at(99) })
}

/// A socket pair with a thread at the other end that answers each request.
struct RawPair(UnixStream);

impl RawPair {
    fn new() -> anyhow::Result<Self> {
        let (near, mut far) = UnixStream::pair().context("a socket pair")?;
        thread::Builder::new().name("ping-pong".into()).spawn(move || {
            let (mut request, reply) = ([0; REQUEST], [0; REPLY]);
            // Ends when the near end is dropped.
            while far.read_exact(&mut request).is_ok() && far.write_all(&reply).is_ok() {}
        })?;
        Ok(RawPair(near))
    }

    fn round_trip(&mut self) -> anyhow::Result<()> {
        self.0.write_all(&[0; REQUEST])?;
        self.0.read_exact(&mut [0; REPLY])?;
        Ok(())
    }
}
