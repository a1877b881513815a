//! Buffers for messages that are being made, so that making one allocates nothing.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};

use vfu_proto::wire::HEADER_SIZE;

thread_local! {
    /// The buffer that is lent first.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// Those for when that is lent.
    static MORE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// So many more are kept by a thread.
const KEPT: usize = 3;

/// A buffer of this thread, lent for one message: it begins with room for the header, and the payload goes
/// behind that. Who has one and lends another has two.
pub(crate) struct Draft(Vec<u8>);

impl Draft {
    #[inline]
    pub(crate) fn lend() -> Draft {
        let mut draft = spare();
        draft.extend_from_slice(&[0; HEADER_SIZE]);
        Draft(draft)
    }
}

impl Drop for Draft {
    #[inline]
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

impl Deref for Draft {
    type Target = Vec<u8>;

    #[inline]
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Draft {
    #[inline]
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

/// Lends a [`Draft`] to `f`.
pub(crate) fn with_draft<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    f(&mut Draft::lend())
}

/// A buffer of this thread, empty.
#[inline]
pub(super) fn spare() -> Vec<u8> {
    let mut spare = SPARE.take();
    if spare.capacity() == 0 {
        spare = one_more();
    }
    spare.clear();
    spare
}

#[cold]
fn one_more() -> Vec<u8> {
    MORE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps a buffer for a later message of this thread.
#[inline]
pub(super) fn give_back(draft: Vec<u8>) {
    let other = SPARE.replace(draft);
    if other.capacity() > 0 {
        keep(other);
    }
}

#[cold]
fn keep(other: Vec<u8>) {
    MORE.with_borrow_mut(|more| {
        if more.len() < KEPT {
            more.push(other);
        }
    });
}
