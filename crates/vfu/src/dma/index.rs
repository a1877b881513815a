//! Regions in the order of their addresses, quick to search and to change.

use super::entry::Entry;
use crate::sync::Counted;

/// The most entries of a chunk.
const FULL: usize = if cfg!(test) { 4 } else { 256 };

/// Regions that do not overlap, in chunks: a search is two binary searches over addresses that lie side by
/// side, and a change moves the entries of one chunk.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The first address of each chunk.
    firsts: Vec<u64>,
    /// None of them is empty.
    chunks: Vec<Chunk>,
    len: usize,
}

#[derive(Debug, Default)]
struct Chunk {
    /// The first address of each region.
    firsts: Vec<u64>,
    entries: Vec<Counted<Entry>>,
}

/// The index of the last of `firsts` that is not behind `address`.
#[inline]
fn floor(firsts: &[u64], address: u64) -> Option<usize> {
    firsts.partition_point(|first| *first <= address).checked_sub(1)
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The last region that does not begin behind `address`.
    #[inline]
    pub(super) fn floor(&self, address: u64) -> Option<&Counted<Entry>> {
        let chunk = self.chunks.get(floor(&self.firsts, address)?)?;
        chunk.entries.get(floor(&chunk.firsts, address)?)
    }

    /// Enters a region, which overlaps no other.
    pub(super) fn insert(&mut self, entry: Counted<Entry>) {
        let address = entry.address;
        if self.chunks.is_empty() {
            self.firsts.push(address);
            self.chunks.push(Chunk::default());
        }
        let mut at = floor(&self.firsts, address).unwrap_or(0);
        let mut behind = self.chunks[at].firsts.partition_point(|first| *first <= address);
        if self.chunks[at].firsts.len() >= FULL {
            // At the end of the whole, a new chunk: who counts upwards leaves full ones behind.
            let is_last = at + 1 == self.chunks.len();
            let cut = if is_last && behind == FULL { FULL } else { FULL / 2 };
            let upper = self.chunks[at].split_off(cut);
            self.firsts.insert(at + 1, upper.firsts.first().copied().unwrap_or(address));
            self.chunks.insert(at + 1, upper);
            if behind >= cut && (behind > cut || cut == FULL) {
                at += 1;
                behind -= cut;
            }
        }
        let chunk = &mut self.chunks[at];
        chunk.firsts.insert(behind, address);
        chunk.entries.insert(behind, entry);
        self.firsts[at] = chunk.firsts[0];
        self.len += 1;
    }

    /// Takes out the region that begins at `address`.
    pub(super) fn remove(&mut self, address: u64) -> Option<Counted<Entry>> {
        let at = floor(&self.firsts, address)?;
        let chunk = &mut self.chunks[at];
        let here = chunk.firsts.binary_search(&address).ok()?;
        chunk.firsts.remove(here);
        let entry = chunk.entries.remove(here);
        match chunk.firsts.first() {
            Some(first) => self.firsts[at] = *first,
            None => {
                self.firsts.remove(at);
                self.chunks.remove(at);
            }
        }
        self.len -= 1;
        Some(entry)
    }

    /// The regions from the one that `address` lies in, or the next, on.
    pub(super) fn from(&self, address: u64) -> impl Iterator<Item = &Counted<Entry>> {
        let first = floor(&self.firsts, address).unwrap_or(0);
        let entries = self.chunks.iter().skip(first).flat_map(|chunk| &chunk.entries);
        entries.skip_while(move |entry| entry.last() < address)
    }
}

impl Chunk {
    fn split_off(&mut self, at: usize) -> Chunk {
        let mut upper =
            Chunk { firsts: Vec::with_capacity(FULL), entries: Vec::with_capacity(FULL) };
        upper.firsts.extend(self.firsts.drain(at..));
        upper.entries.extend(self.entries.drain(at..));
        upper
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests;
