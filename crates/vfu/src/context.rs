//! What the current thread runs for a device: nothing, a handler, or a callback that may not wait.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::shared::Shared;

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
}

/// Runs `f` as device code of `device`.
pub(crate) fn run<T>(device: &Shared, inside: Inside, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<Frame>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(Some(Frame { device, inside, since: None })));
    f()
}

/// What this thread runs for `device`, if anything.
pub(crate) fn inside(device: &Shared) -> Option<Inside> {
    CURRENT.get().filter(|frame| std::ptr::eq(frame.device, device)).map(|frame| frame.inside)
}

/// How much of `budget` the handler has left; it runs from the handler's first question.
pub(crate) fn left(budget: Duration) -> Duration {
    let Some(mut frame) = CURRENT.get() else { return budget };
    let since = *frame.since.get_or_insert_with(Instant::now);
    CURRENT.set(Some(frame));
    budget.saturating_sub(since.elapsed())
}
