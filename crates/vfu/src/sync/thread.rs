//! Threads that nobody joins, and that a model waits for nevertheless.

use std::io;

/// As [`std::thread::Builder`], as far as we use it. A thread that never ends is a deadlock.
pub(crate) struct ThreadBuilder(shuttle::thread::Builder);

impl ThreadBuilder {
    pub(crate) fn new() -> Self {
        ThreadBuilder(shuttle::thread::Builder::new())
    }

    pub(crate) fn name(self, name: String) -> Self {
        ThreadBuilder(self.0.name(name))
    }

    pub(crate) fn spawn(self, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
        // Dropped, it would tell the model to do without the thread.
        self.0.spawn(f).map(std::mem::forget)
    }
}
