//! Whoever takes a mapping back learns when its last lease has gone, in whatever order.

use std::sync::Arc;
use std::task::{Wake, Waker};

use loom::thread;
use vfu_proto::wire::{DmaMap, DmaMapFlags};

use super::Region;
use crate::dma::Direction;
use crate::dma::table::{Table, find};
use crate::sync::atomic::{AtomicUsize, Ordering};

struct Told(AtomicUsize);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn table() -> Arc<Table> {
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    let map = DmaMap { flags, offset: 0, address: 0, size: 4096 };
    let table = Table::default();
    table.insert(Region::new(&map, None, &table.files).unwrap(), 1).unwrap();
    Arc::new(table)
}

/// A thread that leases the mapping for a moment, if it is there.
fn user(table: &Arc<Table>) -> thread::JoinHandle<()> {
    let table = table.clone();
    thread::spawn(move || drop(table.lease(0, Direction::Read)))
}

/// Takes the mapping out; gives whether it was unused at once, and how often we were told.
fn unmap(table: &Table) -> (bool, Arc<Region>, Arc<Told>) {
    let told = Arc::new(Told(AtomicUsize::new(0)));
    let region = table.remove(0, 4096).unwrap().unwrap();
    let unused = region.is_unused_or_wakes(&Waker::from(told.clone()));
    (unused, region, told)
}

#[test]
fn the_last_of_two_leases_tells() {
    loom::model(|| {
        let table = table();
        let held = table.lease(0, Direction::Read).unwrap();
        let users = [user(&table), thread::spawn(move || drop(held))];
        let (unused, region, told) = unmap(&table);
        users.into_iter().for_each(|user| user.join().unwrap());
        let told = told.0.load(Ordering::SeqCst);
        assert!(unused || told > 0, "nobody says that the last lease has gone");
        assert!(!unused || told == 0, "told of what was known");
        assert!(region.is_unused_or_wakes(Waker::noop()));
    });
}

/// Unused means that nobody touches it now, and nobody will.
#[test]
fn an_unused_region_gets_no_lease() {
    loom::model(|| {
        let table = table();
        let touched = Arc::new(AtomicUsize::new(0));
        let (theirs, late) = (table.clone(), touched.clone());
        let user = thread::spawn(move || {
            if let Ok(lease) = theirs.lease(0, Direction::Read) {
                late.fetch_add(1, Ordering::Relaxed);
                drop(lease);
            }
        });
        let (unused, _region, _told) = unmap(&table);
        let before = touched.load(Ordering::Relaxed);
        user.join().unwrap();
        let after = touched.load(Ordering::Relaxed);
        assert!(!unused || before == after, "used after it was said to be unused");
    });
}

/// When a mapping has been taken out nobody who had it pinned touches it any more.
#[test]
fn an_unmap_waits_for_a_pin() {
    loom::model(|| {
        let table = table();
        let touching = Arc::new(AtomicUsize::new(0));
        let (theirs, touch) = (table.clone(), touching.clone());
        let user = thread::spawn(move || {
            theirs.pin(|index| {
                if find(index, 0, Direction::Read).is_ok() {
                    touch.store(1, Ordering::Relaxed);
                    touch.store(0, Ordering::Relaxed);
                }
            });
        });
        let (unused, ..) = unmap(&table);
        assert!(unused, "a pin holds no lease");
        let now = touching.load(Ordering::Relaxed);
        user.join().unwrap();
        assert_eq!(now, 0);
    });
}
