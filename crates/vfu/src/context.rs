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
}

impl Frame {
    #[inline]
    fn is_of(&self, device: &Shared) -> bool {
        std::ptr::eq(self.device, device)
    }
}

thread_local! {
    /// What runs now.
    static INNERMOST: Cell<Option<Frame>> = const { Cell::new(None) };
    /// When it first waited.
    static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
    /// What called what called it: there is something only if one device's code runs another's.
    static OUTER: RefCell<Vec<(Frame, Option<Instant>)>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` as device code of `device`.
#[inline]
pub(crate) fn run<T>(device: &Shared, inside: Inside, f: impl FnOnce() -> T) -> T {
    struct Leave {
        is_nested: bool,
    }
    impl Drop for Leave {
        #[inline]
        fn drop(&mut self) {
            if self.is_nested {
                return resume_outer();
            }
            INNERMOST.with(|innermost| innermost.set(None));
            SINCE.with(|since| since.set(None));
        }
    }
    let outer = INNERMOST.with(|innermost| innermost.replace(Some(Frame { device, inside })));
    let leave = Leave { is_nested: outer.is_some() };
    if let Some(outer) = outer {
        suspend_outer(outer);
    }
    let result = f();
    drop(leave);
    result
}

#[cold]
fn suspend_outer(outer: Frame) {
    let since = SINCE.with(Cell::take);
    OUTER.with(|o| o.borrow_mut().push((outer, since)));
}

#[cold]
fn resume_outer() {
    let (outer, since) = OUTER.with(|o| o.borrow_mut().pop()).unzip();
    INNERMOST.with(|innermost| innermost.set(outer));
    SINCE.with(|place| place.set(since.flatten()));
}

/// What this thread runs for `device`, if anything; be it that this runs something for another one.
#[inline]
pub(crate) fn inside(device: &Shared) -> Option<Inside> {
    let innermost = INNERMOST.with(Cell::get)?;
    if innermost.is_of(device) { Some(innermost.inside) } else { inside_outer(device) }
}

#[cold]
fn inside_outer(device: &Shared) -> Option<Inside> {
    OUTER.with(|outer| {
        let outer = outer.borrow();
        let mut frames = outer.iter().rev().map(|(frame, _)| frame);
        frames.find(|frame| frame.is_of(device)).map(|frame| frame.inside)
    })
}

/// How much of `budget` the handler has left; it runs from the handler's first question.
pub(crate) fn left(budget: Duration) -> Duration {
    if INNERMOST.with(Cell::get).is_none() {
        return budget;
    }
    let since = SINCE.with(Cell::get).unwrap_or_else(Instant::now);
    SINCE.with(|place| place.set(Some(since)));
    budget.saturating_sub(since.elapsed())
}
