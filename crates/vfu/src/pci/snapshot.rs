//! Putting the bytes of a saved space back.

use super::ConfigSpace;

/// Why [`ConfigSpace::restore`] refused the bytes of another space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The spaces differ in size.
    #[error("the saved configuration space has {saved} bytes and this one {here}; same device?")]
    Size {
        /// Bytes given.
        saved: usize,
        /// Bytes of this space.
        here: usize,
    },
    /// A read-only register differs.
    #[error(
        "byte {offset:#x} of the saved configuration space is {saved:#04x} and must be {here:#04x} \
         here but for the bits {mutable:#04x}; the saved device was built from another description"
    )]
    Differs {
        /// The offset of the first byte that differs.
        offset: usize,
        /// The byte given.
        saved: u8,
        /// The byte of this space.
        here: u8,
        /// The bits that may differ.
        mutable: u8,
    },
    /// A field holds a value that no write could have put there.
    #[error(
        "byte {offset:#x} of the saved configuration space is {saved:#04x}, which no write makes"
    )]
    Impossible {
        /// The offset of the byte.
        offset: usize,
        /// The byte given.
        saved: u8,
    },
}

impl ConfigSpace {
    /// Takes over the state that [`to_vec`](Self::to_vec) gave on a space of the same description.
    /// The bytes may come from anywhere: they are checked before anything is changed. There are no
    /// effects; look at the whole space afterwards.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`] if they cannot be a state of this space, which is then as it was.
    pub fn restore(&mut self, saved: &[u8]) -> Result<(), SnapshotError> {
        if saved.len() != self.size() {
            return Err(SnapshotError::Size { saved: saved.len(), here: self.size() });
        }
        // The bits that a resizable BAR has depend on its size: that comes first.
        let mut next = self.clone();
        for (index, offset) in self.bars.size_controls() {
            next.accepts(offset, saved.get(offset).copied().unwrap_or(0))?;
            if let Some(cell) = next.registers.cells_mut().get_mut(offset) {
                cell.now = saved.get(offset).copied().unwrap_or(0);
            }
            next.bars.apply_size(&mut next.registers, index);
        }
        for (offset, &saved) in saved.iter().enumerate() {
            next.accepts(offset, saved)?;
        }
        for (cell, &saved) in next.registers.cells_mut().iter_mut().zip(saved) {
            cell.now = saved;
        }
        *self = next;
        Ok(())
    }

    /// Whether the byte at `offset` can be `saved`.
    fn accepts(&self, offset: usize, saved: u8) -> Result<(), SnapshotError> {
        let here = self.registers.u8(offset);
        let mutable = self.mutable_bits(offset);
        if (saved ^ here) & !mutable != 0 {
            return Err(SnapshotError::Differs { offset, saved, here, mutable });
        }
        // With the opposite for the old value, a field that would be refused does not come out as it
        // is.
        if self.settle(offset, !saved, saved) != saved {
            return Err(SnapshotError::Impossible { offset, saved });
        }
        Ok(())
    }

    /// The bits at `offset` that software or the device can change.
    fn mutable_bits(&self, offset: usize) -> u8 {
        let cell = self.registers.cells().get(offset).copied().unwrap_or_default();
        cell.writable() | cell.driven()
    }
}
