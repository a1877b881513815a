//! The bits of a reply: one for each page of a range that the asker chose.

use vfu_proto::wire::Errno;

/// A range of addresses, and the pages it is cut into from its first address on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Grid {
    first: u64,
    last: u64,
    shift: u32,
}

impl Grid {
    /// The grid of `length` bytes from `iova`, in pages of `page_size` bytes. `None` if it is empty
    /// or wraps, or the page size is no power of two.
    pub(crate) fn new(iova: u64, length: u64, page_size: u64) -> Option<Grid> {
        let last = iova.checked_add(length.checked_sub(1)?)?;
        page_size.is_power_of_two().then_some(Grid {
            first: iova,
            last,
            shift: page_size.trailing_zeros(),
        })
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Bytes of a page, as a power of two.
    pub(crate) fn shift(&self) -> u32 {
        self.shift
    }

    /// Number of the last page.
    pub(crate) fn last_page(&self) -> u64 {
        (self.last - self.first) >> self.shift
    }

    /// Size of the bitmap in bytes: whole 64-bit words.
    pub(crate) fn bitmap_len(&self) -> u64 {
        (self.last_page() / 64 + 1).saturating_mul(8)
    }

    /// The part of `first..=last` that lies in the range.
    pub(crate) fn clip(&self, first: u64, last: u64) -> Option<(u64, u64)> {
        let (first, last) = (first.max(self.first), last.min(self.last));
        (first <= last).then_some((first, last))
    }
}

/// A bitmap, and what its bits stand for: page `p` is bit `p % 8` of byte `p / 8`.
#[derive(Debug)]
pub(crate) struct Picture<'a> {
    grid: Grid,
    /// Its bytes, and what stands before them. Those at the end may be missing as yet: they are 0.
    bytes: &'a mut Vec<u8>,
    /// Where they begin.
    start: usize,
    len: usize,
}

impl<'a> Picture<'a> {
    /// A new one, behind what is in `out`: [`Grid::bitmap_len`] bytes. It is whole after
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    /// `ENOMEM`; never if `out` has room for it already.
    pub(crate) fn append(grid: Grid, out: &'a mut Vec<u8>) -> Result<Self, Errno> {
        let len = usize::try_from(grid.bitmap_len()).map_err(|_| Errno::ENOMEM)?;
        out.try_reserve(len).map_err(|_| Errno::ENOMEM)?;
        Ok(Picture { grid, start: out.len(), bytes: out, len })
    }

    /// Goes on with one that is whole.
    pub(crate) fn resume(grid: Grid, bytes: &'a mut Vec<u8>) -> Self {
        let len = bytes.len();
        Picture { grid, bytes, start: 0, len }
    }

    /// Adds what is missing.
    pub(crate) fn finish(self) {
        self.bytes.resize(self.start + self.len, 0);
    }

    pub(crate) fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Sets the bits of all pages that the addresses `first..=last` touch.
    pub(crate) fn set(&mut self, first: u64, last: u64) {
        let Some((first, last)) = self.grid.clip(first, last) else { return };
        let page = |address: u64| (address - self.grid.first) >> self.grid.shift;
        let (first, last) = (page(first), page(last));
        let end = usize::try_from(last / 8 + 1).unwrap_or(usize::MAX);
        set_bits(self.bytes_to(end), first, last);
    }

    /// Clears the bits that stand for no page.
    pub(crate) fn mask(&mut self) {
        let end = self.grid.last_page() + 1;
        let byte = usize::try_from(end / 8).unwrap_or(usize::MAX);
        let Some([first, rest @ ..]) = self.bytes_to(self.len).get_mut(byte..) else { return };
        *first &= !(0xff << (end % 8));
        rest.fill(0);
    }

    /// Sets bits from bit `at` on, as in `word`. Those that lie outside are dropped.
    pub(super) fn or_word(&mut self, at: i64, word: u64) {
        let (index, shift) = (at.div_euclid(64), at.rem_euclid(64));
        self.or_at(index, word << shift);
        if shift > 0 {
            self.or_at(index + 1, word >> (64 - shift));
        }
    }

    fn or_at(&mut self, index: i64, word: u64) {
        if word == 0 {
            return;
        }
        let Some(at) = usize::try_from(index).ok().and_then(|i| i.checked_mul(8)) else { return };
        let bytes = self.bytes_to(at.saturating_add(8)).get_mut(at..).unwrap_or_default();
        bytes.iter_mut().zip(word.to_le_bytes()).for_each(|(byte, more)| *byte |= more);
    }

    /// Takes over words that no bit was set in before, from the one with this index on.
    pub(super) fn put_words(&mut self, index: u64, words: &[u8]) {
        let at = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(8);
        let words = &words[..words.len().min(self.len.saturating_sub(at))];
        let there = self.bytes_to(at);
        if there.len() == at && self.bytes.len() == self.start + at {
            self.bytes.extend_from_slice(words);
        } else if let Some(to) = self.bytes_to(at + words.len()).get_mut(at..at + words.len()) {
            to.copy_from_slice(words);
        }
    }

    /// The bytes, of which at least `end` exist from now on, unless that is behind the end.
    fn bytes_to(&mut self, end: usize) -> &mut [u8] {
        let end = self.start + end.min(self.len);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.start..]
    }
}

/// Sets the bits `first..=last`, as far as they exist.
fn set_bits(bits: &mut [u8], first: u64, last: u64) {
    let most = (bits.len() as u64).saturating_mul(8).saturating_sub(1);
    if bits.is_empty() || first > last || first > most {
        return;
    }
    let last = last.min(most);
    let (from, to) = ((first / 8) as usize, (last / 8) as usize);
    let (head, tail) = (0xff << (first % 8), 0xff >> (7 - last % 8));
    if from == to {
        bits[from] |= head & tail;
        return;
    }
    bits[from] |= head;
    bits[from + 1..to].fill(0xff);
    bits[to] |= tail;
}
