//! What the current thread runs for a device: nothing, a handler, or a callback that may not wait.

use std::cell::RefCell;
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

struct Frame {
    device: *const Shared,
    inside: Inside,
    /// When the handler first waited.
    since: Option<Instant>,
}

thread_local! {
    /// What called what called the last one.
    static FRAMES: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` as device code of `device`.
pub(crate) fn run<T>(device: &Shared, inside: Inside, f: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            FRAMES.with(|frames| frames.borrow_mut().pop());
        }
    }
    FRAMES.with(|frames| frames.borrow_mut().push(Frame { device, inside, since: None }));
    let _leave = Leave;
    f()
}

/// What this thread runs for `device`, if anything; be it that this runs something for another one.
pub(crate) fn inside(device: &Shared) -> Option<Inside> {
    FRAMES.with(|frames| {
        let frames = frames.borrow();
        frames.iter().rev().find(|f| std::ptr::eq(f.device, device)).map(|frame| frame.inside)
    })
}

/// How much of `budget` the handler has left; it runs from the handler's first question.
pub(crate) fn left(budget: Duration) -> Duration {
    FRAMES.with(|frames| match frames.borrow_mut().last_mut() {
        Some(frame) => {
            let since = *frame.since.get_or_insert_with(Instant::now);
            budget.saturating_sub(since.elapsed())
        }
        None => budget,
    })
}
