//! A write between two reports is in one of them, and one that finds logging off is in memory before
//! logging is on.

use std::sync::Arc;

use loom::thread;

use super::{Grid, Log, Pages, Picture};
use crate::sync::atomic::{AtomicU64, Ordering};

fn report(pages: &Pages, grid: Grid) -> bool {
    let mut bits = Vec::new();
    let mut picture = Picture::append(grid, &mut bits).unwrap();
    pages.report(&mut picture);
    picture.finish();
    bits.iter().any(|byte| *byte != 0)
}

fn grid() -> Grid {
    Grid::new(0, 4096, 4096).unwrap()
}

/// The reader copies the page after each report that says it is dirty. In the end it has all.
fn no_write_is_lost(writers: u64, is_dirty_before: bool) {
    loom::model(move || {
        let pages = Arc::new(Pages::new(0, 4096));
        Log::default().start(4096, [&*pages]).unwrap();
        if is_dirty_before {
            pages.mark(0, 1);
        }
        let memory = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let threads: Vec<_> = (0..writers as usize)
            .map(|n| {
                let (pages, memory) = (pages.clone(), memory.clone());
                thread::spawn(move || {
                    memory[n].store(1, Ordering::Relaxed);
                    pages.mark(0, 1);
                })
            })
            .collect();
        let copy = || [0, 1].map(|n: usize| memory[n].load(Ordering::Relaxed));
        let mut copied = [0; 2];
        if report(&pages, grid()) {
            copied = copy();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        if report(&pages, grid()) {
            copied = copy();
        }
        assert_eq!(copied.iter().sum::<u64>(), writers, "a write was lost");
    });
}

#[test]
fn loom_no_write_is_lost() {
    no_write_is_lost(1, false);
}

/// The writer finds the bit set, and sets none.
#[test]
fn loom_no_write_to_a_dirty_page_is_lost() {
    no_write_is_lost(1, true);
}

#[test]
fn loom_no_write_of_two_is_lost() {
    no_write_is_lost(2, false);
}

/// The first copy of all memory is made once logging is on.
#[test]
fn loom_a_write_is_logged_or_in_the_first_copy() {
    loom::model(|| {
        let (log, pages) = (Log::default(), Arc::new(Pages::new(0, 4096)));
        let memory = Arc::new(AtomicU64::new(0));
        let (theirs, written) = (pages.clone(), memory.clone());
        let writer = thread::spawn(move || {
            written.store(1, Ordering::Relaxed);
            theirs.mark(0, 1);
        });
        log.start(4096, [&*pages]).unwrap();
        let mut copied = memory.load(Ordering::Relaxed);
        writer.join().unwrap();
        if report(&pages, grid()) {
            copied = memory.load(Ordering::Relaxed);
        }
        assert_eq!(copied, 1, "a write was lost");
    });
}

#[test]
fn loom_a_stop_meets_a_write() {
    loom::model(|| {
        let (log, pages) = (Log::default(), Arc::new(Pages::new(0, 4096)));
        log.start(4096, [&*pages]).unwrap();
        let theirs = pages.clone();
        let writer = thread::spawn(move || theirs.mark(0, 1));
        log.stop([&*pages]);
        writer.join().unwrap();
        assert!(!report(&pages, grid()));
        log.start(4096, [&*pages]).unwrap();
        assert!(!report(&pages, grid()), "nothing of before is left");
    });
}
