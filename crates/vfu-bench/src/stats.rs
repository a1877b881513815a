//! Distributions of times.

use serde::Serialize;

/// How long an operation took, in nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Half took no longer.
    pub p50_ns: f64,
    /// 99 of 100 took no longer.
    pub p99_ns: f64,
    /// 999 of 1000 took no longer.
    pub p999_ns: f64,
    /// The mean of the middle half: what a disturbance does not move.
    pub middle_ns: f64,
    /// How many times were noted. Where an operation is too short to be timed alone, each is the mean
    /// of a batch.
    pub samples: usize,
}

/// Ours by the limit, once for each pair of batches that ran one after the other.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratio {
    /// The one in the middle.
    pub median: f64,
    /// A quarter of the pairs was below.
    pub low: f64,
    /// A quarter of the pairs was above.
    pub high: f64,
}

/// The value below which `part` of the sorted values lie.
fn at(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = ((last as f64) * part).round() as usize;
    sorted.get(index.min(last)).copied().unwrap_or(f64::NAN)
}

/// The mean of what lies between the quartiles.
pub(crate) fn middle(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let quarter = values.len() / 4;
    let middle = &values[quarter..values.len() - quarter];
    middle.iter().sum::<f64>() / middle.len() as f64
}

impl Figures {
    pub(crate) fn of(mut samples: Vec<f64>) -> Figures {
        let middle_ns = middle(&mut samples);
        let [p50_ns, p99_ns, p999_ns] = [0.5, 0.99, 0.999].map(|part| at(&samples, part));
        Figures { p50_ns, p99_ns, p999_ns, middle_ns, samples: samples.len() }
    }
}

impl Ratio {
    pub(crate) fn of(mut pairs: Vec<f64>) -> Ratio {
        pairs.sort_unstable_by(f64::total_cmp);
        Ratio { median: at(&pairs, 0.5), low: at(&pairs, 0.25), high: at(&pairs, 0.75) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_hundred_numbers() {
        let figures = Figures::of((0..=100).rev().map(f64::from).collect());
        assert_eq!((figures.p50_ns, figures.p99_ns, figures.p999_ns), (50.0, 99.0, 100.0));
        assert_eq!(figures.middle_ns, 50.0);
        assert_eq!(figures.samples, 101);
    }

    #[test]
    fn one_value_is_all_percentiles() {
        let figures = Figures::of(vec![7.0]);
        assert_eq!((figures.p50_ns, figures.p999_ns, figures.middle_ns), (7.0, 7.0, 7.0));
    }

    #[test]
    fn a_disturbed_pair_does_not_move_the_ratio() {
        let ratio = Ratio::of(vec![1.1, 50.0, 1.0, 1.2, 1.1]);
        assert_eq!((ratio.median, ratio.low, ratio.high), (1.1, 1.1, 1.2));
    }
}
