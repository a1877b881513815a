//! Mappings whose pages may go away, and what happens when one does.
//!
//! ```text
//!   copy                               handler of SIGBUS
//!   ----                               -----------------
//!   is the window lost? then an error
//!   touch the page ...  -- fault -->   which window? (slots)
//!                                      it is lost, from now on
//!                                      an empty page of our own in place of that one
//!   ... goes on     <-- return ---
//!   is the window lost? then an error
//! ```

#[cfg(not(any(loom, shuttle)))]
mod signal;
#[cfg_attr(any(loom, shuttle), allow(dead_code))]
mod slots;

pub(super) use slots::Slot;

/// A range of this process' addresses, guarded as long as this lives.
#[derive(Debug)]
pub(super) struct Guard {
    slot: &'static Slot,
}

impl Guard {
    pub(super) fn slot(&self) -> &'static Slot {
        self.slot
    }
}

#[cfg(not(any(loom, shuttle)))]
impl Guard {
    /// Guards `len` bytes at `start`, in pages of `page` bytes.
    pub(super) fn new(start: usize, len: usize, page: usize) -> Option<Guard> {
        Some(Guard { slot: signal::slots().claim(start, len, page) })
    }
}

#[cfg(not(any(loom, shuttle)))]
impl Drop for Guard {
    fn drop(&mut self) {
        signal::slots().release(self.slot);
    }
}

/// A model checker has no signals.
#[cfg(any(loom, shuttle))]
impl Guard {
    pub(super) fn new(_start: usize, _len: usize, _page: usize) -> Option<Guard> {
        None
    }
}
