//! When the thread of a device may work: not while the device is stopped to be moved, and not until
//! DMA that was refused may be tried again.

use vfu::{DmaError, Handle};

#[derive(Debug, Default)]
pub(crate) struct Pause {
    /// Between stop and start.
    stopped: bool,
    /// Counts the moments from which on DMA may be tried again.
    tries: u64,
    /// The count at which it was refused.
    refused: Option<u64>,
    /// The thread is at it, without the lock.
    busy: bool,
}

impl Pause {
    /// Whether DMA has ended like this because the device is being stopped, and is to be tried again.
    pub(crate) fn is_refusal(error: &DmaError, handle: &Handle) -> bool {
        matches!(error, DmaError::Busy | DmaError::Canceled) && handle.is_stopped()
    }

    pub(crate) fn may_work(&self) -> bool {
        !self.stopped && self.refused != Some(self.tries)
    }

    /// The thread begins. Gives what [`refused`](Self::refused) wants to know.
    pub(crate) fn begin(&mut self) -> u64 {
        self.busy = true;
        self.tries
    }

    /// The thread has the lock again.
    pub(crate) fn end(&mut self) {
        self.busy = false;
    }

    /// What was begun at `tries` was refused: not again before something has changed since.
    pub(crate) fn refused(&mut self, tries: u64) {
        self.refused = Some(tries);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// The device was started, reset, or is to try again.
    pub(crate) fn start(&mut self) {
        self.stopped = false;
        self.try_again();
    }

    pub(crate) fn try_again(&mut self) {
        self.tries = self.tries.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_tried_after_a_change_and_no_sooner() {
        let mut pause = Pause::default();
        let tries = pause.begin();
        pause.refused(tries);
        assert!(!pause.may_work());
        pause.try_again();
        assert!(pause.may_work());
        // The change came before the thread heard of the refusal.
        let tries = pause.begin();
        pause.try_again();
        pause.refused(tries);
        assert!(pause.may_work());
        pause.stop();
        pause.try_again();
        assert!(!pause.may_work());
        pause.start();
        assert!(pause.may_work());
    }
}
