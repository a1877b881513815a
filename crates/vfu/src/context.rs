//! What the current thread runs for a device: nothing, a handler, or a callback that may not wait.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use crate::shared::Shared;
use crate::sync::{Instant, thread_local};

/// Code of a device that a server has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    /// A handler of an access: it may wait for DMA, within its budget.
    Handler,
    /// Notice of a reset, an unmap and the like: DMA from here could wait for itself.
    Callback,
}

#[derive(Clone, Copy)]
struct Frame {
    device: *const Shared,
    inside: Inside,
    /// When the handler first waited.
    since: Option<Instant>,
}

thread_local! {
    static CURRENT: Cell<Option<Frame>> = const { Cell::new(None) };
    /// What called what called the current one, if it does not stand alone.
    static OUTER: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` as device code of `device`.
pub(crate) fn run<T>(device: &Shared, inside: Inside, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<Frame>);
    impl Drop for Restore {
        fn drop(&mut self) {
            if self.0.is_some() {
                OUTER.with(|outer| outer.borrow_mut().pop());
            }
            CURRENT.with(|current| current.set(self.0));
        }
    }
    let frame = Frame { device, inside, since: None };
    let before = CURRENT.with(|current| current.replace(Some(frame)));
    if let Some(before) = before {
        OUTER.with(|outer| outer.borrow_mut().push(before));
    }
    let _restore = Restore(before);
    f()
}

/// What this thread runs for `device`, if anything; be it that this runs something for another one.
pub(crate) fn inside(device: &Shared) -> Option<Inside> {
    let current = CURRENT.with(Cell::get)?;
    let is = |frame: &&Frame| std::ptr::eq(frame.device, device);
    if is(&&current) {
        return Some(current.inside);
    }
    OUTER.with(|outer| outer.borrow().iter().rev().find(is).map(|frame| frame.inside))
}

/// How much of `budget` the handler has left; it runs from the handler's first question.
pub(crate) fn left(budget: Duration) -> Duration {
    let Some(mut frame) = CURRENT.with(Cell::get) else { return budget };
    let since = *frame.since.get_or_insert_with(Instant::now);
    CURRENT.with(|current| current.set(Some(frame)));
    budget.saturating_sub(since.elapsed())
}
