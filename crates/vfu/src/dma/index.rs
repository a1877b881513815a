//! Regions in the order of their addresses, quick to search and to change.

use super::entry::Slot;

/// Addresses that lie side by side in a line of the cache.
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

/// To search one touches the first of each line of addresses, all at once, then one line, and then the slot.
#[derive(Debug)]
#[repr(align(64))]
struct Chunk {
    /// The first address of each region; behind them, of none.
    firsts: [[u64; LINE]; LINE],
    slots: [Option<Slot>; FULL],
    len: usize,
}

/// The index of the last of `firsts` that is not behind `address`.
#[inline]
fn floor(firsts: &[u64], address: u64) -> Option<usize> {
    firsts.partition_point(|first| *first <= address).checked_sub(1)
}

/// How many of `firsts` are not behind `address`: without a branch, as none could be foretold.
#[inline]
fn count<'a>(firsts: impl Iterator<Item = &'a u64>, address: u64) -> usize {
    firsts.map(|first| usize::from(*first <= address)).sum()
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The last region that does not begin behind `address`.
    #[inline]
    pub(super) fn floor(&self, address: u64) -> Option<&Slot> {
        self.chunks.get(floor(&self.firsts, address)?)?.floor(address)
    }

    /// Enters a region, which overlaps no other.
    pub(super) fn insert(&mut self, slot: Slot) {
        let address = slot.address;
        if self.chunks.is_empty() {
            self.firsts.push(address);
            self.chunks.push(Box::default());
        }
        let mut at = floor(&self.firsts, address).unwrap_or(0);
        let mut behind = self.chunks[at].firsts().partition_point(|first| *first <= address);
        if self.chunks[at].len == FULL {
            // At the end of the whole, a new chunk: who counts upwards leaves full ones behind.
            let is_last = at + 1 == self.chunks.len();
            let cut = if is_last && behind == FULL { FULL } else { FULL / 2 };
            let upper = self.chunks[at].split_off(cut);
            self.firsts.insert(at + 1, upper.firsts().first().copied().unwrap_or(address));
            self.chunks.insert(at + 1, upper);
            if behind >= cut && (behind > cut || cut == FULL) {
                at += 1;
                behind -= cut;
            }
        }
        self.chunks[at].insert(behind, slot);
        self.firsts[at] = self.chunks[at].firsts()[0];
        self.len += 1;
    }

    /// Takes out the region that begins at `address`.
    pub(super) fn remove(&mut self, address: u64) -> Option<Slot> {
        let at = floor(&self.firsts, address)?;
        let chunk = &mut self.chunks[at];
        let here = chunk.firsts().binary_search(&address).ok()?;
        let slot = chunk.remove(here);
        match chunk.firsts().first() {
            Some(first) => self.firsts[at] = *first,
            None => {
                self.firsts.remove(at);
                self.chunks.remove(at);
            }
        }
        self.len -= 1;
        slot
    }

    /// The regions from the one that `address` lies in, or the next, on.
    pub(super) fn from(&self, address: u64) -> impl Iterator<Item = &Slot> {
        let first = floor(&self.firsts, address).unwrap_or(0);
        let slots = self.chunks.iter().skip(first).flat_map(|chunk| chunk.slots.iter().flatten());
        slots.skip_while(move |slot| slot.last() < address)
    }
}

impl Default for Chunk {
    fn default() -> Chunk {
        Chunk { firsts: [[u64::MAX; LINE]; LINE], slots: [const { None }; FULL], len: 0 }
    }
}

impl Chunk {
    fn firsts(&self) -> &[u64] {
        &self.firsts.as_flattened()[..self.len]
    }

    /// As [`Index::floor`]; the chunk's first region does not begin behind `address`.
    #[inline]
    fn floor(&self, address: u64) -> Option<&Slot> {
        let line = count(self.firsts[1..].iter().map(|line| &line[0]), address);
        let here = count(self.firsts[line][1..].iter(), address);
        // Addresses of none are as the last of all.
        self.slots[(line * LINE + here).min(self.len.saturating_sub(1))].as_ref()
    }

    fn insert(&mut self, at: usize, slot: Slot) {
        let firsts = self.firsts.as_flattened_mut();
        firsts.copy_within(at..self.len, at + 1);
        firsts[at] = slot.address;
        self.slots[at..=self.len].rotate_right(1);
        self.slots[at] = Some(slot);
        self.len += 1;
    }

    fn remove(&mut self, at: usize) -> Option<Slot> {
        let firsts = self.firsts.as_flattened_mut();
        firsts.copy_within(at + 1..self.len, at);
        firsts[self.len - 1] = u64::MAX;
        let slot = self.slots[at].take();
        self.slots[at..self.len].rotate_left(1);
        self.len -= 1;
        slot
    }

    fn split_off(&mut self, at: usize) -> Box<Chunk> {
        let mut upper = Box::<Chunk>::default();
        let firsts = &mut self.firsts.as_flattened_mut()[at..];
        upper.firsts.as_flattened_mut()[..firsts.len()].copy_from_slice(firsts);
        firsts.fill(u64::MAX);
        upper.slots[..FULL - at].swap_with_slice(&mut self.slots[at..]);
        upper.len = self.len - at;
        self.len = at;
        upper
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests;
