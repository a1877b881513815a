//! Putting the bytes of a saved space back.

use super::{ConfigSpace, regs};

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
        for (offset, &saved) in saved.iter().enumerate() {
            let here = self.registers.u8(offset);
            let mutable = self.writable_bits(offset) | self.driven_bits(offset);
            if (saved ^ here) & !mutable != 0 {
                return Err(SnapshotError::Differs { offset, saved, here, mutable });
            }
            // With 0 for the old value, a field that would be refused does not come out as it is.
            if self.settle(offset, 0, saved) != saved {
                return Err(SnapshotError::Impossible { offset, saved });
            }
        }
        for (cell, &saved) in self.registers.cells_mut().iter_mut().zip(saved) {
            cell.now = saved;
        }
        Ok(())
    }

    /// The bits at `offset` that the device changes and software cannot.
    fn driven_bits(&self, offset: usize) -> u8 {
        if offset == regs::STATUS {
            return regs::STATUS_INTERRUPT as u8;
        }
        if self.known.pcie.is_some_and(|cap| offset == cap + regs::DEVICE_STATUS) {
            return regs::DEVICE_STATUS_PENDING as u8;
        }
        let Some(msi) = self.known.msi else { return 0 };
        let Some(byte) = msi.pending().and_then(|at| offset.checked_sub(at)) else { return 0 };
        let vectors = u32::from(msi.state(&self.registers).vectors_supported);
        let all = u32::MAX >> (32 - vectors);
        all.to_le_bytes().get(byte).copied().unwrap_or(0)
    }
}
