//! Points in time that the caller hands in.

use std::ops::Add;
use std::time::Duration;

/// A point in time, in nanoseconds since an origin that the caller chose for the session.
///
/// The engine never asks for the time: deadlines are data, so a test can let hours pass at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The origin.
    pub const ZERO: Time = Time(0);

    /// The point so many nanoseconds after the origin.
    #[inline]
    pub fn from_nanos(since_origin: u64) -> Time {
        Time(since_origin)
    }

    /// The point `since_origin` after the origin. Saturates after 584 years.
    #[inline]
    pub fn at(since_origin: Duration) -> Time {
        Time(nanoseconds(since_origin))
    }

    /// The first of two points in time that may never come.
    #[inline]
    pub fn first(a: Option<Time>, b: Option<Time>) -> Option<Time> {
        match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    #[inline]
    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(nanoseconds(d)))
    }
}

/// Without the 128 bits of [`Duration::as_nanos`].
#[inline]
fn nanoseconds(d: Duration) -> u64 {
    d.as_secs().saturating_mul(1_000_000_000).saturating_add(d.subsec_nanos().into())
}
