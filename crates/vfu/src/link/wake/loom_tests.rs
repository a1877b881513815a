//! No wake-up is lost, however wakers and the one who clears meet.

use std::sync::Arc;

use loom::thread;

use super::Wake;
use crate::sync::Mutex;

/// As the link does it: something changes under a lock, then the wake.
#[test]
fn what_was_not_seen_keeps_it_readable() {
    loom::model(|| {
        let wake = Arc::new(Wake::new().unwrap());
        let news = Arc::new(Mutex::new(0));
        let tell = |wake: Arc<Wake>, news: Arc<Mutex<u32>>| {
            move || {
                *news.lock().unwrap() += 1;
                wake.wake();
            }
        };
        let tellers = [
            thread::spawn(tell(wake.clone(), news.clone())),
            thread::spawn(tell(wake.clone(), news.clone())),
        ];
        let mut seen = 0;
        for _ in 0..2 {
            if wake.event.is_set() {
                wake.clear();
                seen = *news.lock().unwrap();
            }
        }
        tellers.into_iter().for_each(|teller| teller.join().unwrap());
        assert!(seen == 2 || wake.event.is_set(), "saw {seen} of 2, and nothing wakes");
    });
}

/// A clear that is early, late or not needed does not stop later wake-ups.
#[test]
fn it_can_be_woken_again() {
    loom::model(|| {
        let wake = Arc::new(Wake::new().unwrap());
        let waker = wake.clone();
        let waker = thread::spawn(move || waker.wake());
        wake.clear();
        waker.join().unwrap();
        wake.clear();
        assert!(!wake.event.is_set());
        wake.wake();
        assert!(wake.event.is_set());
    });
}
