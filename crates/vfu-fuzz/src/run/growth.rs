//! When a server holds more than it should.

use super::Run;
use crate::finding::{Finding, Kind};
use crate::script::Script;
use crate::stats::Stats;
use crate::watch::{Usage, Watch};

/// So many more descriptors or mappings than at first are no accident.
const LEAK: u64 = 16;

/// How often a script is played to see whether it leaks: as often as it must show.
const ROUNDS: u64 = 16;

/// A page in each round: so much is more than what an allocator takes now and then.
const ROUNDS_KIB: u64 = 4 * ROUNDS;

/// With so much more than at first, a server is near its limits.
const MUCH: u64 = 256;

impl Run<'_> {
    /// What the server holds now.
    pub(super) fn look(&self) -> Option<Usage> {
        self.process.as_ref().ok().and_then(Watch::usage_with_client)
    }

    /// What the server holds more than at first.
    pub(super) fn grown(&mut self) -> Vec<Finding> {
        let (Some(usage), Some(baseline)) = (self.look(), self.baseline) else { return Vec::new() };
        self.last = Some(usage);
        let mut found = grown(&baseline, &usage, self.options.memory_kib);
        if !found.is_empty() {
            // From now on it is about what comes on top.
            self.baseline = Some(usage);
        }
        found.retain(|finding| !self.options.ignore.contains(&finding.kind));
        found
    }

    /// Whether a script leaves something in the server each time.
    pub(super) fn leaks(&mut self, script: &Script) -> Vec<Finding> {
        self.relieve();
        let then = self.look();
        match (self.rounds(script), then, self.look()) {
            (Some(fatal), ..) => vec![fatal],
            (None, Some(then), Some(now)) => {
                let mut found = left(&then, &now);
                found.retain(|finding| finding.kind != Kind::Memory);
                found
            }
            _ => Vec::new(),
        }
    }

    /// Whether the server's memory grows each time, also once it has what it keeps for later.
    pub(super) fn hoards(&mut self, script: &Script) -> Vec<Finding> {
        self.relieve();
        let mut found = Vec::new();
        let mut then = None;
        for _ in 0..3 {
            if let Some(fatal) = self.rounds(script) {
                return vec![fatal];
            }
            let Some(now) = self.look() else { return Vec::new() };
            if let Some(then) = then {
                found = left(&then, &now);
                found.retain(|finding| finding.kind == Kind::Memory);
                if found.is_empty() {
                    return found;
                }
            }
            then = Some(now);
        }
        found
    }

    /// Plays a script many times. Gives what the server died of.
    fn rounds(&mut self, script: &Script) -> Option<Finding> {
        (0..ROUNDS).find_map(|_| {
            let found = self.quiet(script, &mut Stats::default());
            found.into_iter().find(Finding::is_fatal)
        })
    }

    /// Starts a server again that has ended, or that holds so much that it may refuse more.
    fn relieve(&mut self) {
        if !self.wake() {
            return; // as playing the next script will find
        }
        let (Some(usage), Some(baseline)) = (self.look(), self.baseline) else { return };
        let is_full = is_full(&baseline, &usage, self.options.memory_kib);
        if self.target.program.is_some() && is_full {
            self.revive();
        }
    }
}

/// What is more after many cases than before them. `limit` is for the memory, in KiB.
fn grown(then: &Usage, now: &Usage, limit: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut more = |kind, what: &str, now: u64, then: u64, limit: u64, unit: &str| {
        if now > then.saturating_add(limit) {
            let text = format!("{what} of the server: {now}{unit}, and {then}{unit} before");
            found.push(Finding::new(kind, None, text));
        }
    };
    more(Kind::DescriptorLeak, "descriptors", now.descriptors, then.descriptors, LEAK, "");
    more(Kind::MappingLeak, "mappings", now.mappings, then.mappings, 4 * LEAK, "");
    more(Kind::Memory, "memory", now.memory_kib, then.memory_kib, limit, " KiB");
    found
}

/// What is left of a script after [`ROUNDS`] times.
fn left(then: &Usage, now: &Usage) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut more = |kind, what: &str, now: u64, then: u64, least: u64| {
        if now >= then.saturating_add(least) {
            let text = format!("{} {what} more after {ROUNDS} times", now - then);
            found.push(Finding::new(kind, None, text));
        }
    };
    more(Kind::DescriptorLeak, "descriptors", now.descriptors, then.descriptors, ROUNDS);
    more(Kind::MappingLeak, "mappings", now.mappings, then.mappings, ROUNDS);
    more(Kind::Memory, "KiB of memory", now.memory_kib, then.memory_kib, ROUNDS_KIB);
    found
}

/// Whether a server holds so much that it should be started again. `limit` is for the memory.
fn is_full(then: &Usage, now: &Usage, limit: u64) -> bool {
    now.descriptors > then.descriptors + MUCH
        || now.mappings > then.mappings + 16 * MUCH
        || now.memory_kib > then.memory_kib.saturating_add(limit)
}
