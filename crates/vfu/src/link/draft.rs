//! Buffers for messages that are being made, so that making one allocates nothing.

use std::cell::RefCell;

use vfu_proto::wire::HEADER_SIZE;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// So many are kept by a thread.
const KEPT: usize = 4;

/// Lends a buffer of this thread for one message: it begins with room for the header, and the payload
/// goes behind that. A call inside of another one has a buffer of its own.
pub(crate) fn with_draft<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut draft = spare();
    draft.extend_from_slice(&[0; HEADER_SIZE]);
    let result = f(&mut draft);
    give_back(draft);
    result
}

/// A buffer of this thread, empty.
pub(super) fn spare() -> Vec<u8> {
    let mut spare = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    spare.clear();
    spare
}

/// Keeps a buffer for a later message of this thread.
pub(super) fn give_back(draft: Vec<u8>) {
    if draft.capacity() > 0 {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < KEPT {
                spare.push(draft);
            }
        });
    }
}
