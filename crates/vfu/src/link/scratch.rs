//! A buffer for the payload of a request, so that making one allocates nothing.

use std::cell::Cell;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends this thread's buffer, empty. A nested call gets one of its own.
pub(crate) fn with_scratch<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    SCRATCH.with(|cell| {
        let mut buffer = cell.take();
        buffer.clear();
        let result = f(&mut buffer);
        cell.set(buffer);
        result
    })
}
