//! Notices a driver that reads the same thing again and again.

/// No slot.
const NONE: usize = usize::MAX;

#[derive(Clone, Debug)]
pub(super) struct Spin {
    /// 0: never.
    limit: u32,
    /// What was read last, and nothing else since.
    slot: usize,
    value: u64,
    count: u32,
    warned: Box<[bool]>,
}

impl Spin {
    pub(super) fn new(limit: u32, slots: usize) -> Self {
        Spin { limit, slot: NONE, value: 0, count: 0, warned: vec![false; slots].into() }
    }

    /// Counts a read. Whether it is time for the warning.
    #[inline]
    pub(super) fn read(&mut self, slot: usize, value: u64) -> bool {
        if (slot, value) != (self.slot, self.value) {
            (self.slot, self.value, self.count) = (slot, value, 1);
        } else {
            self.count = self.count.saturating_add(1);
        }
        self.count == self.limit && !std::mem::replace(&mut self.warned[slot], true)
    }

    /// Something else happened.
    #[inline]
    pub(super) fn interrupt(&mut self) {
        self.slot = NONE;
    }
}
