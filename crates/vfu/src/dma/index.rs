//! Regions in the order of their addresses, quick to search and to change.

use super::entry::{Entry, Key};
use crate::sync::Counted;

/// So many addresses are compared at once: a line of the cache, and two of keys.
const LINE: usize = if cfg!(test) { 2 } else { 8 };
/// The most regions of a chunk.
const FULL: usize = LINE * LINE;

/// Regions that do not overlap, in chunks: a search is one over addresses that lie side by side, then one in
/// a chunk, and a change moves what is in one chunk.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The first address of each chunk.
    firsts: Vec<u64>,
    /// None of them is empty.
    #[allow(clippy::vec_box)] // a new one in between moves those behind it
    chunks: Vec<Box<Chunk>>,
    len: usize,
}

/// A search touches the first line, and then one of those of keys: not the entries.
#[derive(Debug)]
#[repr(align(64))]
struct Chunk {
    /// The first address of each line of keys.
    firsts: [u64; LINE],
    /// One for each entry, and then [`Key::NONE`].
    keys: [[Key; LINE]; LINE],
    entries: Vec<Counted<Entry>>,
}

/// A region in the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) key: Key,
    pub(super) entry: &'a Counted<Entry>,
}

/// The index of the last of `firsts` that is not behind `address`.
#[inline]
fn floor(firsts: &[u64], address: u64) -> Option<usize> {
    firsts.partition_point(|first| *first <= address).checked_sub(1)
}

/// How many of `firsts` are not behind `address`: without a branch, as none could be foretold.
#[inline]
fn count(firsts: impl Iterator<Item = u64>, address: u64) -> usize {
    firsts.map(|first| usize::from(first <= address)).sum()
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The last region that does not begin behind `address`.
    #[inline]
    pub(super) fn floor(&self, address: u64) -> Option<Found<'_>> {
        self.chunks.get(floor(&self.firsts, address)?)?.floor(address)
    }

    /// Enters a region, which overlaps no other.
    pub(super) fn insert(&mut self, entry: Counted<Entry>) {
        let address = entry.region.address;
        if self.chunks.is_empty() {
            self.firsts.push(address);
            self.chunks.push(Box::default());
        }
        let mut at = floor(&self.firsts, address).unwrap_or(0);
        let mut behind = self.chunks[at].keys().partition_point(|key| key.address <= address);
        if self.chunks[at].entries.len() == FULL {
            // At the end of the whole, a new chunk: who counts upwards leaves full ones behind.
            let is_last = at + 1 == self.chunks.len();
            let cut = if is_last && behind == FULL { FULL } else { FULL / 2 };
            let upper = self.chunks[at].split_off(cut);
            self.firsts.insert(at + 1, upper.keys().first().map_or(address, |key| key.address));
            self.chunks.insert(at + 1, upper);
            if behind >= cut && (behind > cut || cut == FULL) {
                at += 1;
                behind -= cut;
            }
        }
        self.chunks[at].insert(behind, entry);
        self.firsts[at] = self.chunks[at].firsts[0];
        self.len += 1;
    }

    /// Takes out the region that begins at `address`.
    pub(super) fn remove(&mut self, address: u64) -> Option<Counted<Entry>> {
        let at = floor(&self.firsts, address)?;
        let chunk = &mut self.chunks[at];
        let here = chunk.keys().binary_search_by_key(&address, |key| key.address).ok()?;
        let entry = chunk.remove(here);
        if chunk.entries.is_empty() {
            self.firsts.remove(at);
            self.chunks.remove(at);
        } else {
            self.firsts[at] = chunk.firsts[0];
        }
        self.len -= 1;
        Some(entry)
    }

    /// The regions from the one that `address` lies in, or the next, on.
    pub(super) fn from(&self, address: u64) -> impl Iterator<Item = &Counted<Entry>> {
        let first = floor(&self.firsts, address).unwrap_or(0);
        let entries = self.chunks.iter().skip(first).flat_map(|chunk| &chunk.entries);
        entries.skip_while(move |entry| entry.region.last() < address)
    }
}

impl Default for Chunk {
    fn default() -> Chunk {
        let (firsts, keys) = ([u64::MAX; LINE], [[Key::NONE; LINE]; LINE]);
        Chunk { firsts, keys, entries: Vec::new() }
    }
}

impl Chunk {
    fn keys(&self) -> &[Key] {
        &self.keys.as_flattened()[..self.entries.len()]
    }

    /// As [`Index::floor`]; the chunk's first region does not begin behind `address`.
    #[inline]
    fn floor(&self, address: u64) -> Option<Found<'_>> {
        let line = count(self.firsts[1..].iter().copied(), address);
        let here = count(self.keys[line][1..].iter().map(|key| key.address), address);
        // Keys of none are as one at the last of all addresses.
        let at = (line * LINE + here).min(self.entries.len().saturating_sub(1));
        Some(Found { key: self.keys.as_flattened()[at], entry: self.entries.get(at)? })
    }

    fn insert(&mut self, at: usize, entry: Counted<Entry>) {
        let keys = self.keys.as_flattened_mut();
        keys.copy_within(at..self.entries.len(), at + 1);
        keys[at] = Key::new(&entry.region);
        self.entries.insert(at, entry);
        self.set_firsts();
    }

    fn remove(&mut self, at: usize) -> Counted<Entry> {
        let (keys, len) = (self.keys.as_flattened_mut(), self.entries.len());
        keys.copy_within(at + 1..len, at);
        keys[len - 1] = Key::NONE;
        let entry = self.entries.remove(at);
        self.set_firsts();
        entry
    }

    fn split_off(&mut self, at: usize) -> Box<Chunk> {
        let mut upper = Box::<Chunk>::default();
        upper.entries.reserve_exact(FULL);
        upper.entries.extend(self.entries.drain(at..));
        let keys = &mut self.keys.as_flattened_mut()[at..];
        upper.keys.as_flattened_mut()[..keys.len()].copy_from_slice(keys);
        keys.fill(Key::NONE);
        self.set_firsts();
        upper.set_firsts();
        upper
    }

    fn set_firsts(&mut self) {
        self.firsts = std::array::from_fn(|line| self.keys[line][0].address);
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests;
