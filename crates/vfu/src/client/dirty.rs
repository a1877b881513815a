//! What a report on dirty pages says.

use crate::dma::dirty::{Grid, Picture};

/// Which pages of a range of memory were written: one bit for each page, the first of which begins
/// at the range's first address.
#[derive(Clone, PartialEq, Eq)]
pub struct DirtyPages {
    grid: Grid,
    bits: Vec<u8>,
}

impl DirtyPages {
    /// All pages clean. `None` if the range is empty or wraps, `page_size` is no power of two, or
    /// there is no memory for so many bits.
    pub fn new(iova: u64, length: u64, page_size: u64) -> Option<DirtyPages> {
        let grid = Grid::new(iova, length, page_size)?;
        let len = usize::try_from(grid.bitmap_len()).ok()?;
        let mut bits = Vec::new();
        bits.try_reserve_exact(len).ok()?;
        bits.resize(len, 0);
        Some(DirtyPages { grid, bits })
    }

    /// The first address, as the device sees it.
    pub fn iova(&self) -> u64 {
        self.grid.first()
    }

    /// Length of the range in bytes.
    pub fn length(&self) -> u64 {
        self.grid.last() - self.grid.first() + 1
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> u64 {
        1 << self.grid.shift()
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.grid.last_page() + 1
    }

    /// How many pages are dirty.
    pub fn dirty(&self) -> u64 {
        self.words().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether no page is dirty.
    pub fn is_clean(&self) -> bool {
        self.bits.iter().all(|byte| *byte == 0)
    }

    /// Whether the page with this address is dirty. False outside of the range.
    pub fn is_dirty(&self, address: u64) -> bool {
        if self.grid.clip(address, address).is_none() {
            return false;
        }
        let page = (address - self.grid.first()) >> self.grid.shift();
        let byte = usize::try_from(page / 8).ok().and_then(|at| self.bits.get(at));
        byte.is_some_and(|byte| byte >> (page % 8) & 1 == 1)
    }

    /// Makes the pages that `length` bytes from `address` touch dirty, as far as they are in the
    /// range.
    pub fn mark(&mut self, address: u64, length: u64) {
        if let Some(more) = length.checked_sub(1) {
            self.picture().set(address, address.saturating_add(more));
        }
    }

    /// Makes dirty what is dirty in `other`, as far as it is in the range. The page sizes may differ.
    pub fn union(&mut self, other: &DirtyPages) {
        if self.grid == other.grid {
            self.bits.iter_mut().zip(&other.bits).for_each(|(bits, more)| *bits |= more);
            return;
        }
        other.ranges().for_each(|(address, length)| self.mark(address, length));
    }

    /// All pages clean again.
    pub fn clear(&mut self) {
        self.bits.fill(0);
    }

    /// The dirty parts in the order of their addresses: address and length, both in bytes. Adjacent
    /// pages are one part, and none reaches beyond the range.
    pub fn ranges(&self) -> DirtyRanges<'_> {
        DirtyRanges { of: self, page: 0 }
    }

    /// The bits: that of page `p` is bit `p % 8` of byte `p / 8`. Whole 64-bit words; bits without a
    /// page are 0.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    pub(super) fn picture(&mut self) -> Picture<'_> {
        Picture::resume(self.grid, &mut self.bits)
    }

    /// Takes over bits that a server has sent, as many as there are pages.
    pub(super) fn or_bits(&mut self, bits: &[u8]) {
        self.bits.iter_mut().zip(bits).for_each(|(ours, theirs)| *ours |= theirs);
        self.picture().mask();
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        self.bits.chunks_exact(8).map(word)
    }

    /// The first page from `page` on that is dirty, or that is not.
    fn find(&self, page: u64, dirty: bool) -> Option<u64> {
        let first = usize::try_from(page / 64).ok()?;
        let flip = if dirty { 0 } else { u64::MAX };
        let mut keep = u64::MAX << (page % 64);
        for (number, bytes) in self.bits.chunks_exact(8).enumerate().skip(first) {
            let value = (word(bytes) ^ flip) & keep;
            if value != 0 {
                return Some(number as u64 * 64 + u64::from(value.trailing_zeros()));
            }
            keep = u64::MAX;
        }
        None
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

impl std::fmt::Debug for DirtyPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, last) = (self.grid.first(), self.grid.last());
        write!(
            f,
            "DirtyPages({} of {} in {first:#x}..={last:#x}, {} bytes each)",
            self.dirty(),
            self.pages(),
            self.page_size()
        )
    }
}

/// The dirty parts of a range; made by [`DirtyPages::ranges`].
#[derive(Clone, Debug)]
pub struct DirtyRanges<'a> {
    of: &'a DirtyPages,
    page: u64,
}

impl Iterator for DirtyRanges<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let grid = &self.of.grid;
        let from = self.of.find(self.page, true)?;
        // Behind the last page no bit is set.
        let to = self.of.find(from, false).unwrap_or(grid.last_page() + 1);
        self.page = to;
        let first = grid.first() + (from << grid.shift());
        let last =
            grid.first().saturating_add(((to - 1) << grid.shift()) | (self.of.page_size() - 1));
        Some((first, last.min(grid.last()) - first + 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every byte of a range, one by one.
    fn bytes(pages: &DirtyPages) -> Vec<bool> {
        let all = (0..pages.length()).map(|at| pages.is_dirty(pages.iova() + at));
        all.collect()
    }

    proptest! {
        #[test]
        fn ranges_say_what_is_dirty(
            iova in 0..5000u64,
            length in 1..5000u64,
            shift in 0..13u32,
            marks in proptest::collection::vec((0..10_000u64, 0..300u64), 0..8),
        ) {
            let mut pages = DirtyPages::new(iova, length, 1 << shift).unwrap();
            let mut model = vec![false; length as usize];
            for (at, len) in marks {
                pages.mark(at, len);
                for byte in at..at + len {
                    let Some(byte) = byte.checked_sub(iova).filter(|byte| *byte < length) else {
                        continue;
                    };
                    let start = byte >> shift << shift;
                    let end = (start + (1 << shift)).min(length);
                    model[start as usize..end as usize].fill(true);
                }
            }
            prop_assert_eq!(&bytes(&pages), &model);
            let mut drawn = vec![false; length as usize];
            let mut end = None;
            for (address, len) in pages.ranges() {
                prop_assert!(len > 0 && end.is_none_or(|end| end < address), "apart, in order");
                end = Some(address + len);
                drawn[(address - iova) as usize..][..len as usize].fill(true);
            }
            prop_assert_eq!(drawn, model);
            prop_assert_eq!(pages.is_clean(), pages.dirty() == 0);
            let bits: u32 = pages.as_bytes().iter().map(|byte| byte.count_ones()).sum();
            prop_assert_eq!(pages.dirty(), u64::from(bits));
        }

        #[test]
        fn a_union_has_what_both_have(
            a in (0..3000u64, 1..3000u64, 0..12u32, 0..3000u64, 0..500u64),
            b in (0..3000u64, 1..3000u64, 0..12u32, 0..3000u64, 0..500u64),
        ) {
            let make = |(iova, length, shift, at, len)| {
                let mut pages = DirtyPages::new(iova, length, 1u64 << shift).unwrap();
                pages.mark(iova + at, len);
                pages
            };
            let (mut ours, theirs) = (make(a), make(b));
            let mut model = ours.clone();
            for (at, dirty) in bytes(&theirs).into_iter().enumerate() {
                if dirty {
                    model.mark(theirs.iova() + at as u64, 1);
                }
            }
            ours.union(&theirs);
            prop_assert_eq!(&ours, &model);
            ours.union(&model);
            prop_assert_eq!(&ours, &model);
        }
    }

    #[test]
    fn the_ends_of_the_address_space() {
        let mut pages = DirtyPages::new(u64::MAX - 99, 100, 64).unwrap();
        pages.mark(u64::MAX, u64::MAX);
        assert_eq!(pages.ranges().collect::<Vec<_>>(), [(u64::MAX - 35, 36)]);
        let mut pages = DirtyPages::new(0, u64::MAX, 1 << 63).unwrap();
        pages.mark(1 << 63, 1);
        assert_eq!(pages.ranges().collect::<Vec<_>>(), [(1 << 63, (1 << 63) - 1)]);
        pages.mark(0, 1);
        assert_eq!(pages.ranges().collect::<Vec<_>>(), [(0, u64::MAX)]);
        pages.clear();
        assert!(pages.is_clean());
    }

    #[test]
    fn what_can_not_be_is_none() {
        assert!(DirtyPages::new(0, 0, 4096).is_none());
        assert!(DirtyPages::new(u64::MAX, 2, 1).is_none());
        assert!(DirtyPages::new(0, 1, 3).is_none());
        assert!(DirtyPages::new(0, u64::MAX, 1).is_none(), "2 EiB of bits");
    }
}
