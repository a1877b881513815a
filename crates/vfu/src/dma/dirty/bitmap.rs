//! The bits of one mapping.

use std::sync::OnceLock;

use super::log::Room;
use super::picture::Picture;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Words of a chunk: with pages of 4 KiB one stands for 128 MiB.
pub(super) const CHUNK: usize = if cfg!(loom) { 2 } else { 512 };
/// The smallest page that is logged, as a power of two.
pub(super) const MIN_SHIFT: u32 = 12;

type Chunk = Box<[AtomicU64]>;

/// A bit for each page of a mapping. Pages begin at multiples of their size, not at the mapping's
/// start.
#[derive(Debug)]
pub(super) struct Bitmap {
    first: u64,
    last: u64,
    /// Bytes of a page, as a power of two.
    shift: u32,
    /// Number of the first word: that of the page of address 0 is word 0.
    base: u64,
    /// Made when the first bit in them is set.
    chunks: Box<[OnceLock<Chunk>]>,
    _room: Room,
}

/// How many chunks the bits for `first..=last` are in.
pub(super) fn chunks_of(first: u64, last: u64, shift: u32) -> u64 {
    let words = word_of(last >> shift) - word_of(first >> shift) + 1;
    words.div_ceil(CHUNK as u64)
}

fn word_of(page: u64) -> u64 {
    page / 64
}

impl Bitmap {
    /// For the addresses `first..=last`, all clean, in pages of `1 << shift` bytes, for which there
    /// is room.
    pub(super) fn new(first: u64, last: u64, shift: u32, room: Room) -> Bitmap {
        // loom does not know that a `OnceLock` orders who made its content before who finds it.
        let empty = || if cfg!(loom) { OnceLock::from(fresh()) } else { OnceLock::new() };
        let chunks = (0..chunks_of(first, last, shift)).map(|_| empty()).collect();
        Bitmap { first, last, shift, base: word_of(first >> shift), chunks, _room: room }
    }

    /// Sets the bits of all pages that `first..=last` touch.
    pub(super) fn mark(&self, first: u64, last: u64) {
        let (first, last) = (first.max(self.first), last.min(self.last));
        if first > last {
            return;
        }
        let (from, to) = (first >> self.shift, last >> self.shift);
        let (head, tail) = (u64::MAX << (from % 64), u64::MAX >> (63 - to % 64));
        // Both lie in the mapping, so these are numbers of words that exist.
        let (from, to) = ((word_of(from) - self.base) as usize, (word_of(to) - self.base) as usize);
        for (index, chunk) in self.chunks.iter().enumerate().take(to / CHUNK + 1).skip(from / CHUNK)
        {
            let start = index * CHUNK;
            let (begin, end) = (from.max(start) - start, to.min(start + CHUNK - 1) - start);
            let head = if from >= start { head } else { u64::MAX };
            let tail = if to < start + CHUNK { tail } else { u64::MAX };
            mark_words(&words_of(chunk)[begin..=end], head, tail);
        }
    }

    /// The indices of the chunks with bits of `first..=last`, if there are any.
    pub(super) fn chunks_with(&self, first: u64, last: u64) -> Option<(usize, usize)> {
        let (first, last) = (first.max(self.first), last.min(self.last));
        let chunk = |address: u64| (word_of(address >> self.shift) - self.base) as usize / CHUNK;
        (first <= last).then(|| (chunk(first), chunk(last)))
    }

    /// Moves the bits of a chunk, as far as they are asked for, to `picture`.
    ///
    /// A page that the picture shows in part only stays dirty: the rest of it was not asked for.
    pub(super) fn take(&mut self, index: usize, picture: &mut Picture<'_>) {
        let Some(words) = self.chunks.get_mut(index).and_then(OnceLock::get_mut) else { return };
        let Some((low, high)) = picture.grid().clip(self.first, self.last) else { return };
        let mask = (1u64 << self.shift) - 1;
        let (from, to) = (low >> self.shift, high >> self.shift);
        let cut = Cut {
            shift: self.shift,
            low,
            high,
            pages: (from, to + 1),
            whole: (
                from + u64::from(low > self.first && low & mask != 0),
                (to + 1) - u64::from(high < self.last && high & mask != mask),
            ),
        };
        let start = self.base + (index * CHUNK) as u64;
        let begin = word_of(from).max(start);
        let end = word_of(to).min(start + words.len() as u64 - 1);
        if begin > end {
            return;
        }
        cut.take(&mut words[(begin - start) as usize..=(end - start) as usize], begin, picture);
    }
}

fn fresh() -> Chunk {
    (0..CHUNK).map(|_| AtomicU64::new(0)).collect()
}

/// The words of a chunk, which is made if it does not exist.
fn words_of(chunk: &OnceLock<Chunk>) -> &[AtomicU64] {
    if let Some(words) = chunk.get() {
        return words;
    }
    // Made before it is set, so that nobody waits for whoever makes it.
    let _another_was_first = chunk.set(fresh());
    chunk.get().map_or(&[], |words| words)
}

/// Sets the bits of `words`: of the first those in `head`, of the last those in `tail`.
fn mark_words(words: &[AtomicU64], head: u64, tail: u64) {
    match words {
        [] => {}
        [word] => set(word, head & tail),
        [first, middle @ .., last] => {
            set(first, head);
            fill(middle);
            set(last, tail);
        }
    }
}

fn set(word: &AtomicU64, bits: u64) {
    if word.load(Ordering::Relaxed) & bits != bits {
        word.fetch_or(bits, Ordering::Relaxed);
    }
}

/// Sets all bits. Lines of the cache in which they are set already are not written to, as other
/// threads may be reading them.
fn fill(words: &[AtomicU64]) {
    for line in words.chunks(8) {
        if line.iter().fold(u64::MAX, |all, word| all & word.load(Ordering::Relaxed)) != u64::MAX {
            line.iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        }
    }
}

/// The value of a word, which nobody else looks at, and 0 in its place.
fn take_word(word: &mut AtomicU64) -> u64 {
    #[cfg(not(loom))]
    return std::mem::take(word.get_mut());
    #[cfg(loom)]
    return word.with_mut(std::mem::take);
}

/// What is cut out of a bitmap.
struct Cut {
    /// Bytes of a page, as a power of two.
    shift: u32,
    /// The first address.
    low: u64,
    /// The last.
    high: u64,
    /// The pages to look at, the end excluded.
    pages: (u64, u64),
    /// Those of them that are asked for as a whole.
    whole: (u64, u64),
}

impl Cut {
    /// Takes words, the first of which has the number `number`.
    fn take(&self, words: &mut [AtomicU64], number: u64, picture: &mut Picture<'_>) {
        let same = self.shift == picture.grid().shift()
            && picture.grid().first() & ((1 << self.shift) - 1) == 0;
        let origin = picture.grid().first() >> self.shift;
        let aligned = same && origin % 64 == 0;
        let last = words.len() - 1;
        let whole = |number: u64| mask(number, self.whole) == u64::MAX;
        let begin = usize::from(!whole(number));
        let end = if whole(number + last as u64) { last + 1 } else { last };
        if aligned && begin < end {
            let (middle, at) = (&mut words[begin..end], number + begin as u64 - word_of(origin));
            if let Some(bytes) = picture.words(at as usize, middle.len()) {
                copy(middle, bytes);
            }
        }
        for (word, number) in words.iter_mut().zip(number..) {
            let value = take_word(word);
            if value == 0 {
                continue;
            }
            let keep = value & !mask(number, self.whole);
            if keep != 0 {
                word.store(keep, Ordering::Relaxed);
            }
            let value = value & mask(number, self.pages);
            if same {
                picture.or_word((number * 64) as i64 - origin as i64, value);
            } else {
                self.draw(number, value, picture);
            }
        }
    }

    /// Draws a word in another scale, run by run.
    fn draw(&self, number: u64, mut value: u64, picture: &mut Picture<'_>) {
        while value != 0 {
            let start = value.trailing_zeros();
            let len = (value >> start).trailing_ones();
            let (first, last) =
                (number * 64 + u64::from(start), number * 64 + u64::from(start + len - 1));
            let last_byte = (last << self.shift) | ((1 << self.shift) - 1);
            picture.set((first << self.shift).max(self.low), last_byte.min(self.high));
            value &= u64::MAX.checked_shl(start + len).unwrap_or(0);
        }
    }
}

/// Moves whole words.
fn copy(words: &mut [AtomicU64], to: &mut [u8]) {
    for (word, to) in words.iter_mut().zip(to.chunks_exact_mut(8)) {
        let mut there = [0; 8];
        there.copy_from_slice(to);
        // Two mappings may have a page in common, each a part of it.
        to.copy_from_slice(&(u64::from_le_bytes(there) | take_word(word)).to_le_bytes());
    }
}

/// The bits of a word that stand for pages from `pages.0` to before `pages.1`.
fn mask(number: u64, pages: (u64, u64)) -> u64 {
    let start = number * 64;
    let (from, to) = (pages.0.max(start), pages.1.min(start + 64));
    if from >= to {
        return 0;
    }
    (u64::MAX << (from - start)) & (u64::MAX >> (start + 64 - to))
}
