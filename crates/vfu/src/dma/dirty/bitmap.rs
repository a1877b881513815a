//! The bits of one mapping.

use std::sync::OnceLock;

use vfu_proto::wire::Errno;

use super::log::Room;
use super::picture::Picture;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Words of a chunk: with pages of 4 KiB one stands for 1 GiB.
pub(super) const CHUNK: usize = if cfg!(loom) { 2 } else { 4096 };
/// The smallest page that is logged, as a power of two.
pub(super) const MIN_SHIFT: u32 = 12;

/// Some of the words.
#[derive(Debug, Default)]
struct Chunk {
    /// Made when the first bit in them is set.
    words: OnceLock<Box<[AtomicU64]>>,
    /// There was no memory for them then: all bits count as set.
    whole: AtomicBool,
}

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
    /// How many words there are.
    words: usize,
    /// All of the same size, but for the last.
    chunks: Box<[Chunk]>,
    _room: Room,
}

/// How many chunks the bits for `first..=last` are in.
pub(super) fn chunks_of(first: u64, last: u64, shift: u32) -> u64 {
    words_for(first, last, shift).div_ceil(CHUNK as u64)
}

fn words_for(first: u64, last: u64, shift: u32) -> u64 {
    word_of(last >> shift) - word_of(first >> shift) + 1
}

fn word_of(page: u64) -> u64 {
    page / 64
}

impl Bitmap {
    /// For the addresses `first..=last`, all clean, in pages of `1 << shift` bytes, for which there
    /// is room.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(first: u64, last: u64, shift: u32, room: Room) -> Result<Bitmap, Errno> {
        let words = words_for(first, last, shift) as usize;
        let chunks = filled(words.div_ceil(CHUNK), Chunk::default).ok_or(Errno::ENOMEM)?;
        let base = word_of(first >> shift);
        let bitmap = Bitmap { first, last, shift, base, words, chunks, _room: room };
        if cfg!(loom) {
            // It does not know that a `OnceLock` orders who made its content before who finds it.
            for index in 0..bitmap.chunks.len() {
                bitmap.words_of(index);
            }
        }
        Ok(bitmap)
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
        for index in from / CHUNK..=to / CHUNK {
            let start = index * CHUNK;
            let (begin, end) = (from.max(start) - start, to.min(start + CHUNK - 1) - start);
            let head = if from >= start { head } else { u64::MAX };
            let tail = if to < start + CHUNK { tail } else { u64::MAX };
            match self.words_of(index) {
                Some(words) => mark_words(&words[begin..=end], head, tail),
                None => self.mark_whole(index),
            }
        }
    }

    /// The words of a chunk, which are made if they do not exist. `None`: there is no memory for them.
    fn words_of(&self, index: usize) -> Option<&[AtomicU64]> {
        let chunk = self.chunks.get(index)?;
        if let Some(words) = chunk.words.get() {
            return Some(words);
        }
        let len = (self.words - index * CHUNK).min(CHUNK);
        // Made before it is set, so that nobody waits for whoever makes it.
        let _another_was_first = chunk.words.set(filled(len, || AtomicU64::new(0))?);
        chunk.words.get().map(|words| &**words)
    }

    fn mark_whole(&self, index: usize) {
        if let Some(chunk) = self.chunks.get(index) {
            chunk.whole.store(true, Ordering::Relaxed);
        }
    }

    /// Sets all bits of a chunk for which there was no memory. As long as there is none, `picture` gets
    /// them and they stay.
    fn catch_up(&self, index: usize, picture: &mut Picture<'_>) {
        let Some(chunk) = self.chunks.get(index) else { return };
        if !chunk.whole.load(Ordering::Relaxed) {
            return;
        }
        if let Some(words) = self.words_of(index) {
            fill(words);
            return chunk.whole.store(false, Ordering::Relaxed);
        }
        let page = (self.base + (index * CHUNK) as u64) * 64;
        let last = (page + (CHUNK * 64) as u64 - 1).min(self.last >> self.shift);
        let end = (last << self.shift) | ((1 << self.shift) - 1);
        picture.set((page << self.shift).max(self.first), end.min(self.last));
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
        self.catch_up(index, picture);
        let chunk = self.chunks.get_mut(index);
        let Some(words) = chunk.and_then(|chunk| chunk.words.get_mut()) else { return };
        let Some((low, high)) = picture.grid().clip(self.first, self.last) else { return };
        let mask = (1u64 << self.shift) - 1;
        let (from, to) = (low >> self.shift, high >> self.shift);
        let cut = Cut {
            shift: self.shift,
            low,
            high,
            pages: (from, to + 1),
            own: (from + u64::from(low & mask != 0), (to + 1) - u64::from(high & mask != mask)),
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

/// So many of them, if there is memory for that.
fn filled<T>(len: usize, make: impl FnMut() -> T) -> Option<Box<[T]>> {
    let mut list = Vec::new();
    list.try_reserve_exact(len).ok()?;
    list.resize_with(len, make);
    Some(list.into_boxed_slice())
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
        let is_clean = |word: &AtomicU64| word.load(Ordering::Relaxed) != u64::MAX;
        // The first word often says it all.
        if line.first().is_some_and(is_clean) || line.iter().fold(false, |any, w| any | is_clean(w))
        {
            line.iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        }
    }
}

/// The value of a word that nobody else looks at.
fn get(word: &mut AtomicU64) -> u64 {
    #[cfg(not(loom))]
    return *word.get_mut();
    #[cfg(loom)]
    return word.with_mut(|word| *word);
}

/// Sets a word that nobody else looks at.
fn put(word: &mut AtomicU64, value: u64) {
    #[cfg(not(loom))]
    return *word.get_mut() = value;
    #[cfg(loom)]
    return word.with_mut(|word| *word = value);
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
    /// Those of them that are asked for, as far as they are mapped.
    whole: (u64, u64),
    /// Those of them that are asked for, and are of no other mapping.
    own: (u64, u64),
}

impl Cut {
    /// Takes words, the first of which has the number `number`.
    fn take(&self, words: &mut [AtomicU64], number: u64, picture: &mut Picture<'_>) {
        let origin = picture.grid().first() >> self.shift;
        // Words of the picture are words of the log, but for the first and the last.
        if self.same_pages(picture) && origin % 64 == 0 {
            let end = number + words.len() as u64;
            let begin = self.own.0.div_ceil(64).clamp(number, end);
            let len = (self.own.1 / 64).clamp(begin, end) - begin;
            let (head, rest) = words.split_at_mut((begin - number) as usize);
            let (middle, tail) = rest.split_at_mut(len as usize);
            self.take_each(head, number, picture);
            match bytes_of(middle) {
                Some(bytes) => {
                    picture.put_words(begin.saturating_sub(word_of(origin)), bytes);
                    bytes.fill(0);
                }
                None => self.take_each(middle, begin, picture),
            }
            return self.take_each(tail, begin + len, picture);
        }
        self.take_each(words, number, picture);
    }

    /// Whether the picture has the pages of the log.
    fn same_pages(&self, picture: &Picture<'_>) -> bool {
        let grid = picture.grid();
        self.shift == grid.shift() && grid.first() & ((1 << self.shift) - 1) == 0
    }

    fn take_each(&self, words: &mut [AtomicU64], number: u64, picture: &mut Picture<'_>) {
        let (same, origin) = (self.same_pages(picture), picture.grid().first() >> self.shift);
        for (word, number) in words.iter_mut().zip(number..) {
            let value = get(word);
            if value == 0 {
                continue;
            }
            put(word, value & !mask(number, self.whole));
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

/// Words that nobody else looks at, if they are in memory as they are in a message.
fn bytes_of(words: &mut [AtomicU64]) -> Option<&mut [u8]> {
    #[cfg(all(target_endian = "little", not(any(loom, shuttle))))]
    return Some(zerocopy::IntoBytes::as_mut_bytes(words));
    #[cfg(not(all(target_endian = "little", not(any(loom, shuttle)))))]
    return words.is_empty().then_some(&mut []);
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

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::super::{Grid, Log};
    use super::*;

    /// Of 4 pages from 8 KiB on, the last bytes of which are not mapped.
    #[test]
    fn without_memory_for_bits_all_of_them_are_set() {
        let mut bitmap = Log::default().reserve(0x2000, 0x57ff, 12).unwrap();
        let report = |bitmap: &mut Bitmap| {
            let mut bytes = Vec::new();
            let grid = Grid::new(0, 0x8000, 4096).unwrap();
            let mut picture = Picture::append(grid, &mut bytes).unwrap();
            bitmap.take(0, &mut picture);
            picture.finish();
            bytes[0]
        };
        assert_eq!(report(&mut bitmap), 0);
        bitmap.mark_whole(0);
        assert_eq!(report(&mut bitmap), 0b0011_1100);
        assert_eq!(report(&mut bitmap), 0, "once");
        bitmap.mark(0x3000, 0x3000);
        bitmap.mark_whole(0);
        bitmap.mark(0x3000, 0x3000);
        assert_eq!(report(&mut bitmap), 0b0011_1100);
        bitmap.mark(0x3000, 0x3000);
        assert_eq!(report(&mut bitmap), 0b0000_1000);
    }
}
