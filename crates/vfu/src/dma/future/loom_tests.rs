//! A task is polled by one thread at a time, and again for every wake-up.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use loom::thread;

use super::run;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[derive(Default)]
struct Source {
    /// What the task waits for.
    came: AtomicUsize,
    waker: Mutex<Option<Waker>>,
    polled: AtomicBool,
    done: AtomicBool,
}

impl Source {
    fn bring(&self) {
        self.came.fetch_add(1, Ordering::SeqCst);
        let waker = self.waker.lock().unwrap().clone();
        waker.into_iter().for_each(Waker::wake);
    }

    fn start(self: &Arc<Self>, wanted: usize) {
        let source = self.clone();
        run(async move {
            poll_fn(|context| {
                assert!(!source.polled.swap(true, Ordering::SeqCst), "polled twice at once");
                // First the waker, then the look.
                *source.waker.lock().unwrap() = Some(context.waker().clone());
                let ready = source.came.load(Ordering::SeqCst) >= wanted;
                source.polled.store(false, Ordering::SeqCst);
                if ready { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            assert!(!source.done.swap(true, Ordering::SeqCst), "ended twice");
            source.waker.lock().unwrap().take();
        });
    }
}

#[test]
fn two_wakers_end_it_once() {
    loom::model(|| {
        let source = Arc::new(Source::default());
        source.start(2);
        let [one, two] = [source.clone(), source.clone()];
        let one = thread::spawn(move || one.bring());
        let two = thread::spawn(move || two.bring());
        one.join().unwrap();
        two.join().unwrap();
        assert!(source.done.load(Ordering::SeqCst), "woken, and not polled");
    });
}

#[test]
fn woken_while_it_starts() {
    loom::model(|| {
        let source = Arc::new(Source::default());
        let bringer = source.clone();
        let bringer = thread::spawn(move || bringer.bring());
        source.start(1);
        bringer.join().unwrap();
        assert!(source.done.load(Ordering::SeqCst), "woken, and not polled");
    });
}
