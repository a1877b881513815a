//! No ring is lost, however the driver and a device that falls asleep meet.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use loom::thread;

use super::{Page, Ring, Scan};

/// Memory as two processors see it: nothing but the fences orders it.
struct Shared {
    word: AtomicU64,
    asleep: AtomicU64,
    rings: AtomicUsize,
}

impl Page for &Shared {
    fn load(&self, _: u32) -> u64 {
        self.word.load(Ordering::Relaxed)
    }

    fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep.into(), Ordering::Relaxed);
    }
}

/// What a driver does.
fn ring(shared: &Shared, value: u64) {
    shared.word.store(value, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    if shared.asleep.load(Ordering::Relaxed) != 0 {
        shared.rings.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn either_the_driver_rings_or_the_device_stays_awake() {
    loom::model(|| {
        let shared = Arc::new(Shared {
            word: AtomicU64::new(0),
            asleep: AtomicU64::new(0),
            rings: AtomicUsize::new(0),
        });
        let mut scan = Scan::new(&&*shared, 1);
        let driver = shared.clone();
        let driver = thread::spawn(move || ring(&driver, 1));
        let slept = scan.next(&&*shared).is_none() && scan.fall_asleep(&&*shared);
        driver.join().unwrap();
        if slept {
            assert_eq!(shared.rings.load(Ordering::Relaxed), 1, "asleep, and nobody rang");
            assert_eq!(scan.next(&&*shared), Some(Ring { index: 0, value: 1 }));
        }
    });
}
