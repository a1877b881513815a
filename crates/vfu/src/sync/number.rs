//! A number for each thread, to spread threads over copies of something.

/// The number of this thread: the first that asks has 0, the next 1, and so on.
#[cfg(not(any(loom, shuttle)))]
#[inline]
pub(crate) fn thread_number() -> usize {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    #[cold]
    fn first() -> usize {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 1);
        NUMBER.set(number);
        number
    }

    match NUMBER.get() {
        usize::MAX => first(),
        number => number,
    }
}

/// One for all: a model has one copy of everything.
#[cfg(any(loom, shuttle))]
pub(crate) fn thread_number() -> usize {
    0
}
