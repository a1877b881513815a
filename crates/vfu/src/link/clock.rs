//! The time of a turn.

use std::cell::Cell;

use vfu_proto::session::Time;

use super::Link;

/// The time, for one who does several things in a turn, between two waits: asked for when it is first
/// wanted, and once. To ask costs a tenth of what a system call does.
pub(crate) struct Clock<'a> {
    link: &'a Link,
    seen: Cell<Option<Time>>,
}

impl Link {
    /// A clock for a turn that begins now.
    #[inline]
    pub(crate) fn clock(&self) -> Clock<'_> {
        Clock { link: self, seen: Cell::new(None) }
    }
}

impl Clock<'_> {
    #[inline]
    pub(super) fn now(&self) -> Time {
        self.seen.get().unwrap_or_else(|| {
            let now = self.link.now();
            self.seen.set(Some(now));
            now
        })
    }

    /// The next turn begins.
    #[inline]
    pub(crate) fn turn(&self) {
        self.seen.set(None);
    }
}
