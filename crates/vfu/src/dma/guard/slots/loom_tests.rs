use loom::sync::Arc;
use loom::thread;

use super::*;

/// A handler holds a range while it is taken out, and the slot is used for another one.
#[test]
fn loom_no_range_goes_while_a_handler_holds_it() {
    loom::model(|| {
        let slots: &'static Slots = Box::leak(Box::default());
        let slot = slots.claim(0x1000, 0x1000, 0x1000);
        // What `munmap` would end.
        let mapped = Arc::new(AtomicBool::new(true));
        let handler = {
            let mapped = mapped.clone();
            thread::spawn(move || {
                let Some(hold) = slots.hold(0x1800) else { return };
                assert_eq!(hold.page(), (0x1000, 0x1000));
                assert!(mapped.load(Ordering::Relaxed), "a page is put where none of ours is");
                hold.lose();
            })
        };
        slots.release(slot);
        mapped.store(false, Ordering::Relaxed);
        let other = slots.claim(0x8000, 0x2000, 0x2000);
        handler.join().unwrap();
        assert!(!other.is_lost(), "the other range was taken for it");
    });
}

/// Who sees the empty page sees that the range is lost.
#[test]
fn loom_no_empty_page_is_taken_for_data() {
    loom::model(|| {
        let slots: &'static Slots = Box::leak(Box::default());
        let slot = slots.claim(0x1000, 0x1000, 0x1000);
        let page = Arc::new(AtomicUsize::new(7));
        let handler = {
            let page = page.clone();
            thread::spawn(move || {
                slots.hold(0x1000).unwrap().lose();
                // The kernel orders what was before a change of the page tables.
                page.store(0, Ordering::Release);
            })
        };
        let mut seen = 0;
        if slot.guard(|| seen = page.load(Ordering::Relaxed)).is_ok() {
            assert_eq!(seen, 7);
        }
        handler.join().unwrap();
        slots.release(slot);
    });
}
