//! Looking at doorbells in memory, and not missing one while falling asleep.
//!
//! ```text
//!   driver                        device
//!   store the word                store "asleep"
//!   full fence                    full fence
//!   load "asleep"; ring if set    load the words; stay awake if one has changed
//! ```
//!
//! Whatever the order of the two, at least one of the loads sees the other side's store: either the
//! driver rings, or the device does not sleep.

use crate::sync::atomic::{Ordering, fence};

/// The words, and the flag that tells the driver that the device sleeps.
pub(super) trait Page {
    /// A word, by its number.
    fn load(&self, index: u32) -> u64;
    /// Sets the flag, or takes it back; nothing if there is none.
    fn set_asleep(&self, asleep: bool);
}

/// A doorbell in memory was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Which word, from 0.
    pub index: u32,
    /// What it holds now.
    pub value: u64,
}

/// What was seen last of each word.
#[derive(Debug)]
pub(super) struct Scan {
    last: Vec<u64>,
    /// Where to look first: a word that is written all the time does not hide the others.
    next: usize,
}

impl Scan {
    /// Takes what the words hold now as seen.
    pub(super) fn new(page: &impl Page, count: u32) -> Scan {
        Scan { last: (0..count).map(|index| page.load(index)).collect(), next: 0 }
    }

    /// The next word that has changed, which is then taken as seen.
    pub(super) fn next(&mut self, page: &impl Page) -> Option<Ring> {
        let count = self.last.len();
        let at = (self.next..count).chain(0..self.next).find_map(|at| {
            let value = page.load(at as u32);
            (self.last.get(at) != Some(&value)).then_some((at, value))
        });
        let (at, value) = at?;
        *self.last.get_mut(at)? = value;
        self.next = if at + 1 < count { at + 1 } else { 0 };
        Some(Ring { index: at as u32, value })
    }

    fn has_changed(&self, page: &impl Page) -> bool {
        self.last.iter().enumerate().any(|(at, seen)| page.load(at as u32) != *seen)
    }

    /// Says that the device sleeps from now on. False, and taken back: a word has changed.
    pub(super) fn fall_asleep(&self, page: &impl Page) -> bool {
        page.set_asleep(true);
        fence(Ordering::SeqCst);
        if self.has_changed(page) {
            page.set_asleep(false);
            return false;
        }
        true
    }

    /// Takes what these words hold as seen.
    pub(super) fn forget(&mut self, page: &impl Page) {
        for (at, seen) in self.last.iter_mut().enumerate() {
            *seen = page.load(at as u32);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[derive(Default)]
    struct Plain {
        words: RefCell<Vec<u64>>,
        asleep: Cell<bool>,
        /// Written while the device falls asleep: word and value.
        late: Cell<Option<(usize, u64)>>,
    }

    impl Page for Plain {
        fn load(&self, index: u32) -> u64 {
            self.words.borrow()[index as usize]
        }

        fn set_asleep(&self, asleep: bool) {
            self.asleep.set(asleep);
            if let Some((at, value)) = self.late.take() {
                self.words.borrow_mut()[at] = value;
            }
        }
    }

    fn page(words: &[u64]) -> Plain {
        Plain { words: RefCell::new(words.to_vec()), ..Plain::default() }
    }

    #[test]
    fn each_change_is_told_once_with_its_last_value() {
        let page = page(&[5, 0, 0]);
        let mut scan = Scan::new(&page, 3);
        assert_eq!(scan.next(&page), None, "what was there before rings nothing");
        page.words.borrow_mut()[2] = 1;
        page.words.borrow_mut()[2] = 7;
        page.words.borrow_mut()[0] = 6;
        assert_eq!(scan.next(&page), Some(Ring { index: 0, value: 6 }));
        assert_eq!(scan.next(&page), Some(Ring { index: 2, value: 7 }));
        assert_eq!(scan.next(&page), None);
        page.words.borrow_mut()[1] = 3;
        scan.forget(&page);
        assert_eq!(scan.next(&page), None);
    }

    #[test]
    fn a_word_that_changes_all_the_time_hides_no_other() {
        let page = page(&[0, 0]);
        let mut scan = Scan::new(&page, 2);
        let mut told = Vec::new();
        for round in 1..5 {
            page.words.borrow_mut()[0] = round;
            page.words.borrow_mut()[1] = 1;
            told.extend(scan.next(&page).map(|ring| ring.index));
        }
        assert!(told.contains(&1), "{told:?}");
    }

    #[test]
    fn a_ring_while_it_falls_asleep_keeps_it_awake() {
        let page = page(&[0, 0]);
        let mut scan = Scan::new(&page, 2);
        page.late.set(Some((1, 9)));
        assert!(!scan.fall_asleep(&page));
        assert!(!page.asleep.get(), "nobody has to ring");
        assert_eq!(scan.next(&page), Some(Ring { index: 1, value: 9 }));
        assert!(scan.fall_asleep(&page));
        assert!(page.asleep.get());
    }
}
