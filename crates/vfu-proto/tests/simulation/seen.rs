//! A simulation in which nothing happens finds nothing: what happened is counted.

use std::collections::BTreeMap;

use vfu_proto::session::Closed;

use super::side::Side;

/// How often the rarer things happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    pub(super) fn add(&mut self, what: &'static str, times: u64) {
        if times > 0 {
            *self.0.entry(what).or_default() += times;
        }
    }

    pub(crate) fn merge(&mut self, other: &Seen) {
        other.0.iter().for_each(|(what, times)| self.add(what, *times));
    }

    /// Adds what a side can tell of its life.
    pub(super) fn add_side(&mut self, side: &Side) {
        let counters = side.engine.counters();
        self.add("a request without room", side.refused);
        self.add("a late reply", counters.late_replies);
        self.add("a timeout", counters.timeouts);
        self.add("a request given up", counters.canceled);
        self.add("a stray reply", counters.stray_replies);
        self.add("a misplaced command", counters.misplaced_commands);
        let full = counters.queue_peak >= side.book.limits.queued_commands;
        self.add("a full queue", u64::from(full));
        let cut = side.framers.iter().any(|framer| framer.is_mid_message());
        self.add("an end within a message", u64::from(cut));
        let end = match &side.book.closed {
            Some(Closed::Disconnected) => "the peer gone",
            Some(Closed::Stopped) => "a stop",
            Some(Closed::Framing(_)) => "a broken stream",
            Some(Closed::Limit("owes too many replies")) => "too many zombies",
            Some(Closed::Limit("sent too many replies to nothing")) => "too many stray replies",
            Some(Closed::Limit(_)) => "too many misplaced commands",
            _ => "another end",
        };
        self.add(end, 1);
    }

    /// # Panics
    /// Something never happened.
    pub(crate) fn require(&self, all: &[&str]) {
        for what in all {
            assert!(self.0.contains_key(what), "the simulation never saw {what:?}: {self:#?}");
        }
    }
}
