//! Two sides, measured in turns.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::row::Measured;
use crate::stats::{Figures, Ratio, middle};

/// How much time a row may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// About a fifth of a second: to see that all is well.
    Quick,
    /// About two seconds.
    Full,
}

impl Effort {
    fn budget(self) -> Duration {
        match self {
            Effort::Quick => Duration::from_millis(200),
            Effort::Full => Duration::from_secs(2),
        }
    }
}

/// Fewer pairs make no median.
const MIN_PAIRS: usize = 7;
/// How long a batch should take: long against a timer tick, short against the weather.
const BATCH: Duration = Duration::from_millis(4);

/// What is measured: it does its operation so many times and notes how long each took.
pub(crate) trait Side {
    fn batch(&mut self, times: usize, samples: &mut Vec<f64>) -> anyhow::Result<()>;
}

/// Operations that are timed one by one.
pub(crate) struct Each<F>(pub(crate) F);

impl<F: FnMut() -> anyhow::Result<()>> Side for Each<F> {
    fn batch(&mut self, times: usize, samples: &mut Vec<f64>) -> anyhow::Result<()> {
        for _ in 0..times {
            let began = Instant::now();
            (self.0)()?;
            samples.push(began.elapsed().as_nanos() as f64);
        }
        Ok(())
    }
}

/// Bursts of `count` operations, each timed as a whole, and followed by one that undoes it and is not.
pub(crate) struct Bursts<F, U> {
    pub(crate) count: usize,
    pub(crate) step: F,
    pub(crate) undo: U,
}

impl<F, U> Side for Bursts<F, U>
where
    F: FnMut() -> anyhow::Result<()>,
    U: FnMut() -> anyhow::Result<()>,
{
    fn batch(&mut self, times: usize, samples: &mut Vec<f64>) -> anyhow::Result<()> {
        for _ in 0..times.div_ceil(self.count) {
            let began = Instant::now();
            (self.step)()?;
            samples.push(began.elapsed().as_nanos() as f64 / self.count as f64);
            (self.undo)()?;
        }
        Ok(())
    }
}

/// Operations too short to be timed one by one: `F` does so many.
pub(crate) struct Bulk<F>(pub(crate) F);

impl<F: FnMut(usize) -> anyhow::Result<()>> Side for Bulk<F> {
    fn batch(&mut self, times: usize, samples: &mut Vec<f64>) -> anyhow::Result<()> {
        let began = Instant::now();
        black_box(&mut self.0)(times)?;
        samples.push(began.elapsed().as_nanos() as f64 / times as f64);
        Ok(())
    }
}

/// Operations of which another clock tells what they cost, in nanoseconds: the CPU of another process.
pub(crate) struct Clocked<F, C> {
    pub(crate) step: F,
    pub(crate) clock: C,
}

impl<F, C> Side for Clocked<F, C>
where
    F: FnMut() -> anyhow::Result<()>,
    C: FnMut() -> anyhow::Result<u64>,
{
    fn batch(&mut self, times: usize, samples: &mut Vec<f64>) -> anyhow::Result<()> {
        let began = (self.clock)()?;
        for _ in 0..times {
            (self.step)()?;
        }
        let took = (self.clock)()?.saturating_sub(began);
        samples.push(took as f64 / times as f64);
        Ok(())
    }
}

/// Measures both in turns, until the time is up.
pub(crate) fn compare(
    effort: Effort,
    limit: &mut dyn Side,
    ours: &mut dyn Side,
) -> anyhow::Result<Measured> {
    let sizes = [batch_size(limit)?, batch_size(ours)?];
    let (mut limits, mut all) = (Vec::new(), Vec::new());
    let mut pairs = Vec::new();
    let began = Instant::now();
    while pairs.len() < MIN_PAIRS || began.elapsed() < effort.budget() {
        let (from_limit, from_ours) = (limits.len(), all.len());
        // Neither side always goes first.
        if pairs.len() % 2 == 0 {
            limit.batch(sizes[0], &mut limits)?;
            ours.batch(sizes[1], &mut all)?;
        } else {
            ours.batch(sizes[1], &mut all)?;
            limit.batch(sizes[0], &mut limits)?;
        }
        let of_limit = middle(&mut limits[from_limit..]);
        pairs.push(middle(&mut all[from_ours..]) / of_limit);
    }
    Ok(Measured {
        pairs: pairs.len(),
        ratio: Ratio::of(pairs),
        limit: Figures::of(limits),
        ours: Figures::of(all),
        note: None,
    })
}

/// How many operations make a batch; warms up what there is to be warmed.
fn batch_size(side: &mut dyn Side) -> anyhow::Result<usize> {
    let mut times = 1;
    loop {
        let began = Instant::now();
        side.batch(times, &mut Vec::new())?;
        let took = began.elapsed();
        if took * 2 >= BATCH || times >= 1 << 24 {
            return Ok(times);
        }
        let missing = BATCH.as_nanos() / took.as_nanos().max(1);
        times *= usize::try_from(missing).unwrap_or(16).clamp(2, 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A side whose clock is the test's.
    struct Fixed(f64);

    impl Side for Fixed {
        fn batch(&mut self, times: usize, samples: &mut Vec<f64>) -> anyhow::Result<()> {
            samples.extend(std::iter::repeat_n(self.0, times.min(4)));
            Ok(())
        }
    }

    #[test]
    fn the_ratio_is_ours_by_the_limit() {
        let measured = compare(Effort::Quick, &mut Fixed(100.0), &mut Fixed(110.0)).unwrap();
        assert!((measured.ratio.median - 1.1).abs() < 1e-9, "{:?}", measured.ratio);
        assert_eq!(measured.limit.p50_ns, 100.0);
        assert_eq!(measured.ours.p999_ns, 110.0);
        assert!(measured.pairs >= MIN_PAIRS);
    }

    #[test]
    fn what_fails_is_not_measured() {
        let mut fails = Each(|| anyhow::bail!("no"));
        assert!(compare(Effort::Quick, &mut Fixed(1.0), &mut fails).is_err());
    }
}
