//! What was sent, and what came back, in numbers.

use std::collections::BTreeMap;

use serde::Serialize;
use vfu_proto::wire::{Header, Kind};

/// Counters of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Cases that were played, those for minimising not among them.
    pub cases: u64,
    /// Connections that were tried.
    pub connections: u64,
    /// Messages that were sent, the checks not among them.
    pub messages: u64,
    /// Replies that say that a command succeeded.
    pub answers: u64,
    /// Replies that say that it failed, by their error.
    pub errors: BTreeMap<String, u64>,
    /// Connections that the server closed.
    pub closes: u64,
    /// DMA commands of the server.
    pub dma: u64,
    /// Those of them that were not served as asked, at once.
    pub dma_hostile: u64,
    /// Ways to make the device send them that were found by trying.
    pub doorbells: u64,
}

impl Stats {
    /// Replies of both kinds.
    pub fn replies(&self) -> u64 {
        self.answers + self.errors.values().sum::<u64>()
    }

    pub(crate) fn count(&mut self, header: &Header) {
        if header.kind() != Some(Kind::Reply) {
            return;
        }
        if !header.is_error() {
            self.answers += 1;
            return;
        }
        let errno = header.errno();
        let name = errno.name().map_or_else(|| errno.raw().to_string(), str::to_owned);
        // A server may know very many numbers.
        let full = self.errors.len() >= 64 && !self.errors.contains_key(&name);
        *self.errors.entry(if full { "others".into() } else { name }).or_default() += 1;
    }
}
