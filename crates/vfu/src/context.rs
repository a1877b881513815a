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
    /// What runs now.
    static INNERMOST: Cell<Option<Frame>> = const { Cell::new(None) };
    /// What called what called it: there is something only if one device's code runs another's.
    static OUTER: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
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
            let outer = if self.is_nested { OUTER.with(|o| o.borrow_mut().pop()) } else { None };
            INNERMOST.with(|innermost| innermost.set(outer));
        }
    }
    let frame = Frame { device, inside, since: None };
    let outer = INNERMOST.with(|innermost| innermost.replace(Some(frame)));
    if let Some(outer) = outer {
        OUTER.with(|o| o.borrow_mut().push(outer));
    }
    let _leave = Leave { is_nested: outer.is_some() };
    f()
}

/// What this thread runs for `device`, if anything; be it that this runs something for another one.
pub(crate) fn inside(device: &Shared) -> Option<Inside> {
    let is_of = |frame: &Frame| std::ptr::eq(frame.device, device);
    let innermost = INNERMOST.with(Cell::get)?;
    if is_of(&innermost) {
        return Some(innermost.inside);
    }
    OUTER.with(|o| o.borrow().iter().rev().copied().find(is_of)).map(|frame| frame.inside)
}

/// How much of `budget` the handler has left; it runs from the handler's first question.
pub(crate) fn left(budget: Duration) -> Duration {
    let Some(mut frame) = INNERMOST.with(Cell::get) else { return budget };
    let since = *frame.since.get_or_insert_with(Instant::now);
    INNERMOST.with(|innermost| innermost.set(Some(frame)));
    budget.saturating_sub(since.elapsed())
}
