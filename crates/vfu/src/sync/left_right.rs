//! A value that is read all the time, by many threads, and changed now and then.
#![allow(unsafe_code)]

use std::sync::PoisonError;

use super::atomic::{AtomicBool, AtomicUsize, Ordering};
use super::cell::UnsafeCell;
use super::{Mutex, MutexGuard, barrier, readers};

/// Two of a value, of which one is shown. A change is made in the other one, then that is shown, and when
/// nobody looks at the first any more the change is made there, too.
///
/// So who reads never waits, and writes to nothing that another thread writes to. All waiting is on the side
/// of changes: for the readers of the moment.
pub(crate) struct LeftRight<T> {
    sides: [UnsafeCell<T>; 2],
    /// Which side is shown.
    shown: AtomicUsize,
    /// Somebody may have read since the last change: one change after another waits for nobody.
    read: AtomicBool,
    changing: Mutex<()>,
}

// SAFETY: it owns two values.
unsafe impl<T: Send> Send for LeftRight<T> {}
// SAFETY: `&T` is given to any thread, hence `T: Sync`; `&mut T` and the right to drop what was in it to one at
// a time, hence `T: Send`. The two never meet: see `read` and `Change::make`.
unsafe impl<T: Send + Sync> Sync for LeftRight<T> {}

/// The right to change the value, for one at a time.
pub(crate) struct Change<'a, T> {
    of: &'a LeftRight<T>,
    _alone: MutexGuard<'a, ()>,
}

impl<T> LeftRight<T> {
    /// Two values that are the same.
    pub(crate) fn new(left: T, right: T) -> LeftRight<T> {
        barrier::prepare();
        LeftRight {
            sides: [UnsafeCell::new(left), UnsafeCell::new(right)],
            shown: AtomicUsize::new(0),
            read: AtomicBool::new(false),
            changing: Mutex::new(()),
        }
    }

    /// Shows the value. `f` must not change it, and changes wait until it is through.
    #[inline]
    pub(crate) fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        readers::reading(self.identity(), || {
            if !self.read.load(Ordering::Acquire) {
                self.read.store(true, Ordering::SeqCst);
                barrier::full();
            }
            barrier::light();
            let side = &self.sides[self.shown.load(Ordering::Acquire) & 1];
            // SAFETY: who changes this side has shown the other one before, and then waits for all who are
            // `reading` this and may not have seen that.
            side.with(|value| f(unsafe { &*value }))
        })
    }

    /// Begins a change, when the one before it is through.
    ///
    /// # Panics
    /// From within [`read`](Self::read): it would wait for itself.
    pub(crate) fn change(&self) -> Change<'_, T> {
        // Here, where nothing has been changed yet.
        let is_ours = readers::is_reading_this(self.identity());
        assert!(!is_ours, "the mappings of a session are changed by a thread that has them pinned");
        let alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        Change { of: self, _alone: alone }
    }

    /// What readers say that they read. It does not move while there is one.
    fn identity(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

impl<T> Change<'_, T> {
    /// Shows the value as it is.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        let shown = self.of.shown.load(Ordering::Relaxed) & 1;
        // SAFETY: only `make` changes it, which has `&mut self`, of which there is one.
        self.of.sides[shown].with(|value| f(unsafe { &*value }))
    }

    /// Makes the same change in both. When it returns nobody sees what was there before.
    pub(crate) fn make(&mut self, mut f: impl FnMut(&mut T)) {
        let of = self.of;
        let shown = of.shown.load(Ordering::Relaxed) & 1;
        // SAFETY: the last change has waited until nobody saw this side, and since then the other one was
        // shown. There is one `Change` at a time.
        of.sides[1 - shown].with_mut(|value| f(unsafe { &mut *value }));
        of.shown.store(1 - shown, Ordering::Release);
        barrier::full();
        if of.read.load(Ordering::Relaxed) {
            of.read.store(false, Ordering::Relaxed);
            readers::wait(of.identity());
        }
        // SAFETY: as above, of this change.
        of.sides[shown].with_mut(|value| f(unsafe { &mut *value }));
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for LeftRight<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read(|value| value.fmt(f))
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// It would wait for itself for ever.
    #[test]
    fn who_reads_can_not_change() {
        let [one, other] = [0, 0].map(|_| LeftRight::new(1, 1));
        let change = |of: &LeftRight<u32>| of.change().make(|value| *value += 1);
        let panics = |f: &dyn Fn()| catch_unwind(AssertUnwindSafe(f)).unwrap_err();
        panics(&|| one.read(|_| change(&one)));
        panics(&|| one.read(|_| other.read(|_| change(&one))));
        panics(&|| one.read(|_| other.read(|_| change(&other))));
        panics(&|| one.read(|_| one.read(|_| change(&one))));
        one.read(|_| change(&other));
        change(&one);
        assert_eq!((one.read(|value| *value), other.read(|value| *value)), (2, 2));
    }
}
