//! Interrupts of a device that is stopped, saved and loaded.

use super::IrqIndex;
use super::table::Irqs;

/// The types whose waiting interrupts are part of a device's state.
const SAVED: [IrqIndex; 3] = [IrqIndex::Intx, IrqIndex::Msi, IrqIndex::Msix];

impl Irqs {
    /// The device is stopped: interrupts wait. When it goes on they are raised.
    pub(crate) fn set_stopped(&self, stopped: bool) {
        let mut state = self.change();
        state.stopped = stopped;
        state.settle_all(self.now());
    }

    /// The level of the pin, then a byte for each vector: whether its interrupt waits.
    pub(crate) fn save(&self) -> Vec<u8> {
        let state = self.lock();
        let vectors = SAVED.iter().flat_map(|index| &state.vectors[*index as usize]);
        let waiting = vectors.map(|vector| u8::from(vector.pending || vector.pace.holds()));
        std::iter::once(u8::from(state.pin)).chain(waiting).collect()
    }

    /// Puts back what [`save`](Self::save) gave. `None`: it was of other interrupts.
    pub(crate) fn load(&self, bytes: &[u8]) -> Option<()> {
        let mut state = self.change();
        let (pin, waiting) = bytes.split_first()?;
        let count: usize = SAVED.iter().map(|index| state.vectors[*index as usize].len()).sum();
        if waiting.len() != count {
            return None;
        }
        self.want_pin(*pin != 0);
        state.pin = *pin != 0;
        let mut waiting = waiting.iter();
        for index in SAVED {
            for (vector, waits) in state.vectors[index as usize].iter_mut().zip(&mut waiting) {
                vector.pending = *waits != 0;
                vector.pace.take_held();
            }
        }
        Some(())
    }
}
