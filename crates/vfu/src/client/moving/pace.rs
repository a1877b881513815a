//! How slowly a state may move.

use std::time::Duration;

use crate::sync::Instant;

/// The least that has to be moved in each piece of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// How fast it was of late.
#[derive(Debug)]
pub(super) struct Paced {
    least: Pace,
    since: Instant,
    /// Bytes that had been moved then.
    before: u64,
}

impl Paced {
    pub(super) fn begin(least: Pace, moved: u64) -> Paced {
        Paced { least, since: Instant::now(), before: moved }
    }

    /// Whether it is fast enough, when so many bytes have been moved.
    pub(super) fn check(&mut self, moved: u64) -> Result<(), String> {
        let Pace { bytes, time } = self.least;
        if self.since.elapsed() < time {
            return Ok(());
        }
        let came = moved.saturating_sub(self.before);
        if came < bytes {
            return Err(format!(
                "its state comes too slowly: {came} bytes in {time:?}, and no end of it; at least \
                 {bytes} are wanted"
            ));
        }
        *self = Paced::begin(self.least, moved);
        Ok(())
    }
}
