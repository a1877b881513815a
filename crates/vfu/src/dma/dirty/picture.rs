//! The bits of a reply: one for each page of a range that the asker chose.

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
    bits: &'a mut [u8],
}

impl<'a> Picture<'a> {
    /// Draws on `bits`, of which there are [`Grid::bitmap_len`] bytes.
    pub(crate) fn new(grid: Grid, bits: &'a mut [u8]) -> Self {
        Picture { grid, bits }
    }

    pub(crate) fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Sets the bits of all pages that the addresses `first..=last` touch.
    pub(crate) fn set(&mut self, first: u64, last: u64) {
        let Some((first, last)) = self.grid.clip(first, last) else { return };
        let page = |address: u64| (address - self.grid.first) >> self.grid.shift;
        set_bits(self.bits, page(first), page(last));
    }

    /// Clears the bits that stand for no page.
    pub(crate) fn mask(&mut self) {
        let end = self.grid.last_page() + 1;
        let Ok(byte) = usize::try_from(end / 8) else { return };
        if let Some(rest) = self.bits.get_mut(byte..) {
            let (first, rest) = match rest.split_first_mut() {
                Some(split) => split,
                None => return,
            };
            *first &= !(0xff << (end % 8));
            rest.fill(0);
        }
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
        let bytes = usize::try_from(index).ok().and_then(|i| self.words(i, 1));
        if let Some(bytes) = bytes {
            bytes.iter_mut().zip(word.to_le_bytes()).for_each(|(byte, more)| *byte |= more);
        }
    }

    /// The bytes of `count` words.
    pub(super) fn words(&mut self, index: usize, count: usize) -> Option<&mut [u8]> {
        let start = index.checked_mul(8)?;
        self.bits.get_mut(start..start.checked_add(count.checked_mul(8)?)?)
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
