//! Who reads something that is changed without asking them.
//!
//! Each thread has a word of its own that says whether it reads, on a line of its own: to begin and to end
//! is a store each, and no two threads write to the same line. Who has changed something waits until nobody
//! can be looking at what was there before.

use std::sync::{Arc, PoisonError};

use super::atomic::{AtomicUsize, Ordering};
use super::{Backoff, Mutex, barrier};

/// Odd while its thread reads; it only grows.
#[derive(Debug)]
#[repr(align(128))]
struct Word(AtomicUsize);

/// The word of a thread, which is known as long as this lives.
struct Reader(Arc<Word>);

type Words = Mutex<Vec<Arc<Word>>>;

#[cfg(not(any(loom, shuttle)))]
mod places {
    pub(super) static WORDS: super::Words = super::Mutex::new(Vec::new());
    thread_local! {
        pub(super) static MINE: super::Reader = super::Reader::new();
    }
}

#[cfg(loom)]
mod places {
    loom::lazy_static! {
        pub(super) static ref WORDS: super::Words = super::Mutex::new(Vec::new());
    }
    loom::thread_local! {
        pub(super) static MINE: super::Reader = super::Reader::new();
    }
}

#[cfg(shuttle)]
mod places {
    shuttle::lazy_static! {
        pub(super) static ref WORDS: super::Words = super::Mutex::new(Vec::new());
    }
    shuttle::thread_local! {
        pub(super) static MINE: super::Reader = super::Reader::new();
    }
}

use places::{MINE, WORDS};

/// Runs `f`, for whose end [`wait`] waits. What `f` reads of it is loaded in `f`.
#[inline]
pub(super) fn reading<T>(f: impl FnOnce() -> T) -> T {
    if MINE.try_with(|_| ()).is_ok() {
        MINE.with(|mine| mine.reading(f))
    } else {
        // The thread is at its end, and its own word has gone.
        Reader::new().reading(f)
    }
}

/// Waits for all who began to read before what this thread has stored was seen by everyone. It must not be
/// called by one who reads.
pub(super) fn wait() {
    barrier::heavy();
    let words = WORDS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for word in words {
        let seen = word.0.load(Ordering::Acquire);
        // A reader only searches: it is through at once, unless it does not run.
        let mut backoff = Backoff::default();
        while seen % 2 == 1 && word.0.load(Ordering::Acquire) == seen {
            backoff.pause();
        }
    }
}

impl Reader {
    fn new() -> Reader {
        let word = Arc::new(Word(AtomicUsize::new(0)));
        WORDS.lock().unwrap_or_else(PoisonError::into_inner).push(word.clone());
        Reader(word)
    }

    #[inline]
    fn reading<T>(&self, f: impl FnOnce() -> T) -> T {
        struct End<'a>(&'a Word, usize);
        impl Drop for End<'_> {
            #[inline]
            fn drop(&mut self) {
                self.0.0.store(self.1, Ordering::Release);
            }
        }
        let word = &*self.0;
        let before = word.0.load(Ordering::Relaxed);
        if before % 2 == 1 {
            return f(); // within another one
        }
        word.0.store(before.wrapping_add(1), Ordering::Release);
        let _end = End(word, before.wrapping_add(2));
        barrier::light();
        f()
    }
}

// A model forgets all words when it ends, which is when its threads do.
#[cfg(not(any(loom, shuttle)))]
impl Drop for Reader {
    fn drop(&mut self) {
        let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
        words.retain(|word| !Arc::ptr_eq(word, &self.0));
    }
}
