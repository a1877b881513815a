//! Fewer interrupts than there are reasons for one.

use std::time::Duration;

/// How often a vector signals at most.
///
/// A vector that was quiet for `interval`, or whose rule is new, signals at once. What is raised less than `interval` after
/// that is held, and signalled when the interval is over, once for all of it; so the last
/// interrupt is never lost, and late by `interval` at most. As soon as `max_held` are held they are
/// signalled without waiting for that.
///
/// The end of an interval is looked after by whoever waits for the session anyway: the server's
/// loop, or the event loop that calls [`Server::process`](crate::Server::process). So it is late by as
/// long as a handler runs. A vector that is masked meanwhile shows what is held as pending.
///
/// ```
/// use std::time::Duration;
/// use vfu::irq::Coalescing;
///
/// let coalescing = Coalescing::every(Duration::from_micros(50)).max_held(16);
/// # assert_eq!(coalescing.interval, Duration::from_micros(50));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalescing {
    /// The least time between two signals, but for `max_held`.
    pub interval: Duration,
    /// How many interrupts are held at most; 0 and 1 hold none.
    pub max_held: u32,
}

impl Coalescing {
    /// At most one signal in `interval`, however many interrupts there are.
    pub fn every(interval: Duration) -> Coalescing {
        Coalescing { interval, max_held: u32::MAX }
    }

    /// Signals as soon as `interrupts` are held.
    pub fn max_held(self, interrupts: u32) -> Coalescing {
        Coalescing { max_held: interrupts, ..self }
    }
}

/// What a vector does with an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Signal it.
    Now,
    /// Hold it until then.
    At(Duration),
}

/// One vector. Time is counted from any origin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    pub(super) rule: Option<Coalescing>,
    /// When it has last been signalled.
    last: Option<Duration>,
    held: u32,
}

impl Pace {
    pub(super) fn new(rule: Option<Coalescing>) -> Pace {
        Pace { rule, ..Pace::default() }
    }

    /// An interrupt is raised.
    pub(super) fn raise(&mut self, now: Duration) -> Verdict {
        let Some(rule) = self.rule else { return Verdict::Now };
        let until = self.last.map_or(now, |last| last.saturating_add(rule.interval));
        if until > now {
            self.held = self.held.saturating_add(1);
            if self.held < rule.max_held {
                return Verdict::At(until);
            }
        }
        self.signalled(now);
        Verdict::Now
    }

    /// The vector has been signalled.
    pub(super) fn signalled(&mut self, now: Duration) {
        self.last = Some(now);
        self.held = 0;
    }

    /// Whether anything is held.
    pub(super) fn holds(&self) -> bool {
        self.held > 0
    }

    /// Takes what is held out of here: the caller sees to it.
    pub(super) fn take_held(&mut self) -> bool {
        std::mem::take(&mut self.held) > 0
    }

    /// When what is held has to be signalled.
    pub(super) fn due(&self) -> Option<Duration> {
        let (rule, last) = (self.rule?, self.last?);
        self.holds().then(|| last.saturating_add(rule.interval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn pace(max_held: u32) -> Pace {
        Pace::new(Some(Coalescing::every(at(100)).max_held(max_held)))
    }

    #[test]
    fn the_first_is_never_held_and_the_last_never_lost() {
        let mut pace = pace(u32::MAX);
        assert_eq!(pace.raise(at(5)), Verdict::Now);
        for time in [6, 50, 104] {
            assert_eq!(pace.raise(at(time)), Verdict::At(at(105)));
            assert_eq!(pace.due(), Some(at(105)));
        }
        assert!(pace.take_held());
        pace.signalled(at(105));
        assert_eq!(pace.due(), None);
        assert_eq!(pace.raise(at(110)), Verdict::At(at(205)), "that was a signal, too");
    }

    #[test]
    fn after_a_quiet_interval_nothing_is_held() {
        let mut pace = pace(u32::MAX);
        for time in [0, 100, 200, 1000] {
            assert_eq!(pace.raise(at(time)), Verdict::Now);
            assert!(!pace.holds());
        }
    }

    #[test]
    fn so_many_are_held_and_no_more() {
        let mut pace = pace(3);
        let verdicts: Vec<_> = (0..7).map(|time| pace.raise(at(time))).collect();
        let (now, held) = (Verdict::Now, |time| Verdict::At(at(time)));
        assert_eq!(verdicts, [now, held(100), held(100), now, held(103), held(103), now]);
    }

    #[test]
    fn without_a_rule_and_with_rules_that_hold_nothing() {
        for mut pace in [Pace::default(), pace(0), pace(1)] {
            for time in [0, 0, 1, 2] {
                assert_eq!(pace.raise(at(time)), Verdict::Now);
                assert_eq!(pace.due(), None);
            }
        }
    }

    #[test]
    fn an_interval_without_end() {
        let mut pace = Pace::new(Some(Coalescing::every(Duration::MAX)));
        assert_eq!(pace.raise(at(1)), Verdict::Now);
        assert_eq!(pace.raise(at(2)), Verdict::At(Duration::MAX));
    }
}
