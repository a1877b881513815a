//! Marks and reports, against a model that keeps a list of bytes.

use proptest::prelude::*;

use super::{Grid, Log, Pages, Picture};

/// What a client sees that walks over the pages one by one.
struct Naive {
    first: u64,
    last: u64,
    shift: u32,
    /// Dirty pages of the log.
    dirty: std::collections::BTreeSet<u64>,
}

impl Naive {
    fn mark(&mut self, first: u64, last: u64) {
        self.dirty.extend((first >> self.shift)..=(last >> self.shift));
    }

    /// First and last byte of a page that lie in the mapping.
    fn bytes_of(&self, page: u64) -> (u64, u64) {
        let last = (page << self.shift) | ((1 << self.shift) - 1);
        ((page << self.shift).max(self.first), last.min(self.last))
    }

    fn report(&mut self, iova: u64, length: u64, page_size: u64) -> Vec<bool> {
        let end = iova + (length - 1);
        let mut bits = vec![false; length.div_ceil(page_size).div_ceil(64) as usize * 64];
        for page in self.dirty.clone() {
            let (first, last) = self.bytes_of(page);
            if last < iova || first > end {
                continue;
            }
            if first >= iova && last <= end {
                self.dirty.remove(&page);
            }
            let (first, last) = (first.max(iova), last.min(end));
            for bit in (first - iova) / page_size..=(last - iova) / page_size {
                bits[bit as usize] = true;
            }
        }
        bits
    }
}

fn report(pages: &[&Pages], iova: u64, length: u64, page_size: u64) -> Vec<bool> {
    let grid = Grid::new(iova, length, page_size).unwrap();
    let mut bytes = Vec::new();
    let mut picture = Picture::append(grid, &mut bytes).unwrap();
    pages.iter().for_each(|pages| pages.report(&mut picture));
    picture.finish();
    bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)).collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// Offset and length in the mapping, per mille of it.
    Mark(u64, u64),
    /// Bytes before the mapping's start (or after it, if less than 0), length, page size.
    Report(i64, u64, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Where one chunk ends and the next begins, if the mapping begins with a chunk.
    let border = (1 << 30) - 40_000..(1 << 30) + 40_000u64;
    let few = prop_oneof![0..40_000u64, 0..2_000_000u64, Just(1 << 28)];
    let at = prop_oneof![few.clone(), border.clone(), Just(31 << 25)];
    let mark = (at, few).prop_map(|(at, len)| Step::Mark(at, len));
    let at = prop_oneof![
        -20_000..20_000i64,
        (-16..16i64).prop_map(|n| n * 4096),
        (-4..4i64).prop_map(|n| n << 18),
        border.prop_map(|at| -(at as i64)),
    ];
    let report = (at, prop_oneof![1..70_000u64, 1..3_000_000u64, Just(1 << 28)], 9..24u32)
        .prop_map(|(at, len, shift)| Step::Report(at, len, shift));
    let all = (12..24u32).prop_map(|shift| Step::Report(0, 3 << 30, shift));
    proptest::collection::vec(prop_oneof![4 => mark, 4 => report, 1 => all], 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn reports_agree_with_the_model(
        steps in steps(),
        base in prop_oneof![Just(1u64 << 32), Just(1 << 32 | 0x1000), (1u64 << 32)..(1 << 33)],
        size in prop_oneof![1..100_000u64, Just(1 << 18), Just(1 << 28), 1..(300u64 << 20), Just(5 << 29)],
        shift in 12..20u32,
    ) {
        let last = base + (size - 1);
        let (log, pages) = (Log::default(), Pages::new(base, size));
        let mut model = Naive { first: base, last, shift, dirty: Default::default() };
        prop_assert_eq!(log.start(1 << shift, [&pages]), Ok(1 << shift));
        for step in steps {
            match step {
                Step::Mark(at, len) => {
                    let (at, len) = (at % size, len.max(1));
                    let len = len.min(size - at);
                    pages.mark(base + at, len as usize);
                    model.mark(base + at, base + at + (len - 1));
                }
                Step::Report(before, length, shift) => {
                    let iova = base.wrapping_add_signed(-before);
                    let page_size = 1 << shift;
                    let ours = report(&[&pages], iova, length, page_size);
                    prop_assert_eq!(ours, model.report(iova, length, page_size));
                }
            }
        }
    }
}

#[test]
fn mappings_that_share_a_page_do_not_hide_each_other() {
    let log = Log::default();
    // The border lies in the first page of a word, which both have.
    let border = (64 << 12) + 0x800;
    let (a, b) = (Pages::new(0, border), Pages::new(border, 128 << 12));
    log.start(4096, [&a, &b]).unwrap();
    a.mark(border - 1, 1);
    let bits = report(&[&a, &b], 0, 192 << 12, 4096);
    assert_eq!(bits.iter().enumerate().filter(|(_, bit)| **bit).map(|(n, _)| n).next(), Some(64));
    assert_eq!(bits.iter().filter(|bit| **bit).count(), 1);
}

#[test]
fn the_ends_of_the_address_space() {
    let log = Log::default();
    let (low, high) = (Pages::new(0, 4096), Pages::new(u64::MAX - 4095, 4096));
    let all = Pages::new(1 << 40, u64::MAX - (1 << 41));
    log.start(4096, [&low, &high, &all]).unwrap();
    low.mark(0, 1);
    high.mark(u64::MAX, 1);
    all.mark(1 << 63, 1);
    assert_eq!(report(&[&low], 0, 4096, 4096)[..2], [true, false]);
    assert_eq!(report(&[&high], u64::MAX - 4095, 4096, 1)[4000..], [true; 96]);
    let bits = report(&[&low, &high, &all], 0, u64::MAX, 1 << 63);
    assert_eq!(bits[..3], [false, true, false]);
}

/// What is mapped decides how much memory the bits take, and that has an end.
#[test]
fn huge_mappings_are_logged_in_larger_pages() {
    let log = Log::default();
    let regions: Vec<_> = (0..1024).map(|n| Pages::new(n << 54, 1 << 54)).collect();
    log.start(4096, &regions).unwrap();
    for (n, pages) in regions.iter().enumerate() {
        pages.mark(((n as u64) << 54) + 4096, 1);
        let bits = report(&[pages], (n as u64) << 54, 8192, 4096);
        assert!(bits[1], "mapping {n}");
    }
    log.stop(&regions);
    let small = Pages::new(0, 1 << 30);
    log.start(4096, [&small]).unwrap();
    small.mark(4096, 1);
    let bits = report(&[&small], 0, 1 << 30, 4096);
    assert_eq!(bits[..3], [false, true, false], "the room was given back");
}
