//! Regions in the order of their addresses, quick to search and to change.

use std::hint::black_box;

use super::entry::{Direct, Entry, Key};
use crate::sync::Counted;

/// So many addresses are compared at once.
const GROUP: usize = if cfg!(test) { 2 } else { 8 };
/// The most regions of a chunk.
const FULL: usize = GROUP * GROUP;

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

/// A search touches a line of the cache with the firsts, and then one with addresses and at once the two
/// with what belongs to these: among very many regions it is such lines, one after the other, that it waits
/// for.
#[derive(Debug)]
#[repr(align(64))]
struct Chunk {
    /// The first address of each group.
    firsts: [u64; GROUP],
    /// The address of each place. Those of empty places, at the end, are the last of all.
    addresses: [[u64; GROUP]; GROUP],
    places: [[Place; GROUP]; GROUP],
    len: usize,
}

/// A place for a region.
#[derive(Debug, Default)]
struct Place {
    direct: Direct,
    entry: Option<Counted<Entry>>,
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

/// How many of `addresses` but the first are not behind `address`: without a branch, as none could be
/// foretold.
#[inline(always)]
fn count(addresses: &[u64; GROUP], address: u64) -> usize {
    addresses[1..].iter().map(|first| usize::from(*first <= address)).sum()
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The last region that does not begin behind `address`.
    #[inline(always)] // what it gives is three words: not through memory
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
        let mut behind = self.chunks[at].addresses().partition_point(|a| *a <= address);
        if self.chunks[at].len == FULL {
            // At the end of the whole, a new chunk: who counts upwards leaves full ones behind.
            let is_last = at + 1 == self.chunks.len();
            let cut = if is_last && behind == FULL { FULL } else { FULL / 2 };
            let upper = self.chunks[at].split_off(cut);
            self.firsts.insert(at + 1, upper.addresses().first().map_or(address, |first| *first));
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
        let here = chunk.addresses().binary_search(&address).ok()?;
        let entry = chunk.remove(here);
        if chunk.len == 0 {
            self.firsts.remove(at);
            self.chunks.remove(at);
        } else {
            self.firsts[at] = chunk.firsts[0];
        }
        self.len -= 1;
        entry
    }

    /// The regions from the one that `address` lies in, or the next, on.
    pub(super) fn from(&self, address: u64) -> impl Iterator<Item = &Counted<Entry>> {
        let first = floor(&self.firsts, address).unwrap_or(0);
        let entries = self.chunks.iter().skip(first).flat_map(|chunk| chunk.entries());
        entries.skip_while(move |entry| entry.region.last() < address)
    }
}

/// Has the processor fetch places before it is known which of them is wanted.
#[inline]
fn fetch(group: &[Place; GROUP]) {
    const LINE: usize = 64 / size_of::<Place>();
    group.iter().step_by(LINE).for_each(|place| {
        black_box(place.direct);
    });
}

impl Default for Chunk {
    fn default() -> Chunk {
        let (firsts, addresses) = ([u64::MAX; GROUP], [[u64::MAX; GROUP]; GROUP]);
        let places = std::array::from_fn(|_| Default::default());
        Chunk { firsts, addresses, places, len: 0 }
    }
}

impl Chunk {
    fn addresses(&self) -> &[u64] {
        &self.addresses.as_flattened()[..self.len]
    }

    fn entries(&self) -> impl Iterator<Item = &Counted<Entry>> {
        self.places.as_flattened()[..self.len].iter().filter_map(|place| place.entry.as_ref())
    }

    /// As [`Index::floor`]; the chunk's first region does not begin behind `address`.
    #[inline(always)]
    fn floor(&self, address: u64) -> Option<Found<'_>> {
        let (group, here) = if address == u64::MAX {
            // Empty places begin there, too.
            let last = self.len.saturating_sub(1);
            (last / GROUP, last % GROUP)
        } else {
            // Most peers have a few mappings, which are in the first.
            let one = self.firsts[1] == u64::MAX;
            let group = if one { 0 } else { count(&self.firsts, address) };
            fetch(&self.places[group]);
            (group, count(&self.addresses[group], address))
        };
        let Place { direct, entry } = &self.places[group][here];
        let key = Key { address: self.addresses[group][here], direct: *direct };
        Some(Found { key, entry: entry.as_ref()? })
    }

    fn insert(&mut self, at: usize, entry: Counted<Entry>) {
        let Key { address, direct } = Key::new(&entry.region);
        let addresses = &mut self.addresses.as_flattened_mut()[at..=self.len];
        let places = &mut self.places.as_flattened_mut()[at..=self.len];
        addresses.rotate_right(1);
        places.rotate_right(1); // the last was empty
        addresses[0] = address;
        places[0] = Place { direct, entry: Some(entry) };
        self.len += 1;
        self.set_firsts();
    }

    fn remove(&mut self, at: usize) -> Option<Counted<Entry>> {
        let addresses = &mut self.addresses.as_flattened_mut()[at..self.len];
        let places = &mut self.places.as_flattened_mut()[at..self.len];
        let gone = std::mem::take(&mut places[0]);
        addresses[0] = u64::MAX;
        addresses.rotate_left(1);
        places.rotate_left(1);
        self.len -= 1;
        self.set_firsts();
        gone.entry
    }

    fn split_off(&mut self, at: usize) -> Box<Chunk> {
        let mut upper = Box::<Chunk>::default();
        let count = self.len - at;
        let addresses = &mut self.addresses.as_flattened_mut()[at..self.len];
        let places = &mut self.places.as_flattened_mut()[at..self.len];
        upper.addresses.as_flattened_mut()[..count].swap_with_slice(addresses);
        upper.places.as_flattened_mut()[..count].swap_with_slice(places);
        (self.len, upper.len) = (at, count);
        self.set_firsts();
        upper.set_firsts();
        upper
    }

    fn set_firsts(&mut self) {
        self.firsts = std::array::from_fn(|group| self.addresses[group][0]);
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests;
