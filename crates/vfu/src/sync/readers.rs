//! Who reads something that is changed without asking them.
//!
//! Each thread has a word of its own that says whether it reads, on a line of its own: to begin and to end
//! is a store each, and no two threads write to the same line. Beside it stands what is read. Who has changed
//! something waits until nobody can be looking at what was there before; whoever reads something else
//! meanwhile, and be it for ever, is none of their business.

use std::sync::{Arc, PoisonError};

use super::atomic::{AtomicUsize, Ordering};
use super::{Backoff, Mutex, barrier};

#[derive(Debug)]
#[repr(align(128))]
struct Word {
    /// Odd while its thread reads; it only grows.
    count: AtomicUsize,
    /// What is read: an address, as nothing else is there as long as somebody has borrowed it.
    what: AtomicUsize,
    /// Whose word it is: an address, too.
    thread: usize,
}

/// The word of a thread, which is known as long as this lives.
struct Reader(Arc<Word>);

type Words = Mutex<Vec<Arc<Word>>>;

#[cfg(not(any(loom, shuttle)))]
mod places {
    pub(super) static WORDS: super::Words = super::Mutex::new(Vec::new());
    thread_local! {
        pub(super) static MINE: super::Reader = super::Reader::new();
        /// For its address, which no other thread has.
        pub(super) static HERE: u8 = const { 0 };
    }
}

#[cfg(loom)]
mod places {
    loom::lazy_static! {
        pub(super) static ref WORDS: super::Words = super::Mutex::new(Vec::new());
    }
    loom::thread_local! {
        pub(super) static MINE: super::Reader = super::Reader::new();
        pub(super) static HERE: u8 = 0;
    }
}

#[cfg(shuttle)]
mod places {
    shuttle::lazy_static! {
        pub(super) static ref WORDS: super::Words = super::Mutex::new(Vec::new());
    }
    shuttle::thread_local! {
        pub(super) static MINE: super::Reader = super::Reader::new();
        pub(super) static HERE: u8 = 0;
    }
}

use places::{HERE, MINE, WORDS};

/// Runs `f`, for whose end who [waits](wait) for readers of `what` waits. What `f` reads of it is loaded in `f`.
#[inline]
pub(super) fn reading<T>(what: usize, f: impl FnOnce() -> T) -> T {
    let mut f = Some(f);
    let result = MINE.try_with(|mine| mine.reading(what, &mut f));
    // Else the thread is at its end, and its own word has gone; or it reads two things at once.
    let result = result.ok().flatten().or_else(|| Reader::new().reading(what, &mut f));
    result.expect("a new word can say that something is read")
}

/// Whether this thread reads anything.
pub(crate) fn is_reading() -> bool {
    MINE.try_with(|mine| mine.0.is_odd()).is_ok_and(|is_odd| is_odd)
}

/// Whether this thread reads `what`.
pub(super) fn is_reading_this(what: usize) -> bool {
    let here = here();
    let words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    words.iter().any(|word| word.thread == here && word.is_odd() && word.is_of(what))
}

/// Waits for all who began to read `what` before what this thread has stored was seen by everyone. It must
/// not be called by one who reads it.
pub(super) fn wait(what: usize) {
    barrier::heavy();
    let words = WORDS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for word in words {
        let seen = word.count.load(Ordering::Acquire);
        // If it says something else by now, the reading that was seen is over.
        if seen % 2 == 0 || !word.is_of(what) {
            continue;
        }
        let mut backoff = Backoff::default();
        while word.count.load(Ordering::Acquire) == seen {
            backoff.pause();
        }
    }
}

fn here() -> usize {
    HERE.with(|here| std::ptr::from_ref(here) as usize)
}

impl Word {
    #[inline]
    fn is_odd(&self) -> bool {
        self.count.load(Ordering::Relaxed) % 2 == 1
    }

    #[inline]
    fn is_of(&self, what: usize) -> bool {
        self.what.load(Ordering::Acquire) == what
    }
}

impl Reader {
    fn new() -> Reader {
        let (count, what) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let word = Arc::new(Word { count, what, thread: here() });
        WORDS.lock().unwrap_or_else(PoisonError::into_inner).push(word.clone());
        Reader(word)
    }

    /// `None`, and `f` is still there, if something else is read: a word can't say both.
    #[inline]
    fn reading<T>(&self, what: usize, f: &mut Option<impl FnOnce() -> T>) -> Option<T> {
        struct End<'a>(&'a Word, usize);
        impl Drop for End<'_> {
            #[inline]
            fn drop(&mut self) {
                self.0.count.store(self.1, Ordering::Release);
            }
        }
        let word = &*self.0;
        let before = word.count.load(Ordering::Relaxed);
        if before % 2 == 1 {
            return if word.is_of(what) { f.take().map(|f| f()) } else { None };
        }
        // With release: who sees it is told that the reading before is over.
        word.what.store(what, Ordering::Release);
        word.count.store(before.wrapping_add(1), Ordering::Release);
        let _end = End(word, before.wrapping_add(2));
        barrier::light();
        f.take().map(|f| f())
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
