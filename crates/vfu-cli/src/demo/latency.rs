//! What a register read costs: over vfu, and as bare messages of the same sizes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// The length of a REGION_READ, and of its answer with a register of 4 bytes.
const REQUEST: usize = 32;
const REPLY: usize = 36;
/// Each batch of one kind is followed by one of the other, so that both see the same weather.
const BATCH: usize = 250;
const BATCHES: usize = 20;
/// After this no new batch begins; a slow machine has fewer samples.
const BUDGET: Duration = Duration::from_secs(2);

/// Two distributions, in nanoseconds.
pub(super) struct Latency {
    pub(super) vfu: Percentiles,
    pub(super) raw: Percentiles,
    /// How many of each kind.
    pub(super) samples: usize,
}

#[derive(Clone, Copy)]
pub(super) struct Percentiles {
    pub(super) p50: u64,
    pub(super) p99: u64,
}

/// Measures `read`, which reads a register once, against a pair of sockets.
pub(super) fn measure(mut read: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Latency> {
    let mut raw_pair = RawPair::new()?;
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
