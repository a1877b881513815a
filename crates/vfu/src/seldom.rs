//! Warnings that a client can cause as often as it likes, written seldom.
//!
//! The count is the device's, not the session's: a client that leaves and comes again gets no more of them.

use std::fmt;
// A model knows nothing of this: nobody waits for it.
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

/// So many of a kind are written in each interval.
const BURST: u32 = 5;
const INTERVAL: Duration = Duration::from_secs(10);

/// For warnings whose device is not known where they are written.
pub(crate) static OF_THE_PROCESS: Seldom = Seldom::new();

/// What was written, and what was not.
#[derive(Debug)]
pub(crate) struct Seldom(Mutex<Vec<Kind>>);

#[derive(Debug)]
struct Kind {
    name: &'static str,
    /// The start of the interval.
    since: Instant,
    /// Since then.
    written: u32,
    kept: u64,
}

/// Warnings that were not written; made by [`Handle::seldom`](crate::Handle::seldom). Shown, it is
/// ` (17 more like this in the last 12 s)`, or nothing if there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many.
    pub count: u64,
    /// How long ago they began.
    pub time: Duration,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => Ok(()),
            count => write!(f, " ({count} more like this in the last {} s)", self.time.as_secs()),
        }
    }
}

impl Kind {
    /// Begins the next interval.
    fn take(&mut self, now: Instant) -> Kept {
        let time = now.saturating_duration_since(self.since);
        (self.since, self.written) = (now, 1);
        Kept { count: std::mem::take(&mut self.kept), time }
    }
}

impl Seldom {
    pub(crate) const fn new() -> Seldom {
        Seldom(Mutex::new(Vec::new()))
    }

    /// Whether to write one more of a kind, and what to add to it. Kinds are few, and known to the
    /// program: they are kept for ever.
    pub(crate) fn ask(&self, name: &'static str) -> Option<Kept> {
        self.ask_at(name, Instant::now())
    }

    fn ask_at(&self, name: &'static str, now: Instant) -> Option<Kept> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kind) = kinds.iter_mut().find(|kind| kind.name == name) else {
            kinds.push(Kind { name, since: now, written: 1, kept: 0 });
            return Some(Kept { count: 0, time: Duration::ZERO });
        };
        if now.saturating_duration_since(kind.since) >= INTERVAL {
            return Some(kind.take(now));
        }
        if kind.written < BURST {
            kind.written += 1;
            return Some(Kept { count: 0, time: Duration::ZERO });
        }
        kind.kept = kind.kept.saturating_add(1);
        None
    }

    /// Writes how many there were of which nothing was written: of kinds whose interval is over, or, at
    /// the end, of all.
    pub(crate) fn tell_rest(&self, at_the_end: bool) {
        for (name, kept) in self.rest(at_the_end) {
            warn!("{} more in the last {} s: {name}", kept.count, kept.time.as_secs());
        }
    }

    /// As [`tell_rest`](Self::tell_rest), for one who writes elsewhere.
    pub(crate) fn rest(&self, at_the_end: bool) -> Vec<(&'static str, Kept)> {
        self.rest_at(at_the_end, Instant::now())
    }

    fn rest_at(&self, at_the_end: bool, now: Instant) -> Vec<(&'static str, Kept)> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |kind: &&mut Kind| {
            let is_over = now.saturating_duration_since(kind.since) >= INTERVAL;
            kind.kept > 0 && (is_over || at_the_end)
        };
        kinds.iter_mut().filter(is_due).map(|kind| (kind.name, kind.take(now))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_few_are_written() {
        let seldom = Seldom::new();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        // One each 10 ms, for 35 s.
        let asked = (0..3500).filter_map(|n| seldom.ask_at("flood", at(10 * n)));
        let asked: Vec<u64> = asked.map(|kept| kept.count).collect();
        let interval = [995, 0, 0, 0, 0];
        assert_eq!(asked, [[0; 5], interval, interval, interval].concat());
        let [("flood", rest)] = seldom.rest_at(true, at(35_000))[..] else { panic!("one kind") };
        assert_eq!(rest, Kept { count: 495, time: Duration::from_secs(5) });
        assert_eq!(seldom.rest_at(true, at(35_000)), []);
    }

    #[test]
    fn a_few_now_and_then_are_all_written() {
        let seldom = Seldom::new();
        let start = Instant::now();
        for n in 0..1000 {
            let now = start + n * INTERVAL / BURST;
            assert_eq!(seldom.ask_at("a slip", now).map(|kept| kept.count), Some(0));
        }
    }

    #[test]
    fn kinds_do_not_hide_each_other() {
        let (seldom, now) = (Seldom::new(), Instant::now());
        while seldom.ask_at("loud", now).is_some() {}
        assert!(seldom.ask_at("quiet", now).is_some());
        assert_eq!(seldom.rest_at(false, now), [], "more may come");
        let later = now + INTERVAL;
        let rest = seldom.rest_at(false, later);
        assert_eq!(rest, [("loud", Kept { count: 1, time: INTERVAL })]);
        let text = format!("loud{}", rest[0].1);
        assert_eq!(text, "loud (1 more like this in the last 10 s)");
    }
}
