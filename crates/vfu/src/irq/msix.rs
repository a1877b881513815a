//! The MSI-X Table and the Pending Bit Array of the device that is served.
//!
//! Some clients hand the guest's accesses to the table on to the device; others (QEMU, Cloud
//! Hypervisor) keep the table to themselves, and tell only by DEVICE_SET_IRQS which vectors have an
//! eventfd. To those the device's table stays as after a reset: every vector masked. So its Mask Bits
//! count from the first write to the table on, until a reset or the end of the session. What holds
//! for both is that a vector without an eventfd is as good as masked.

use std::ops::Range;

use super::IrqIndex;
use super::table::Irqs;
use crate::pci::MsixTable;

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    entries: MsixTable,
    /// The client has written to it.
    in_use: bool,
}

/// A place in the memory of MSI-X, in bytes from its start.
enum Place {
    Table(u64),
    Pba(u64),
}

impl Table {
    pub(super) fn new(vectors: u16) -> Table {
        Table { entries: MsixTable::new(vectors), in_use: false }
    }

    /// The Mask Bit of a vector, if it counts.
    pub(super) fn masks(&self, vector: usize) -> bool {
        self.in_use && u16::try_from(vector).is_ok_and(|vector| self.entries.is_masked(vector))
    }

    /// As at power-on.
    pub(super) fn reset(&mut self) {
        self.entries.reset();
        self.in_use = false;
    }

    /// The next client may be of the other kind.
    pub(super) fn disconnect(&mut self) {
        self.in_use = false;
    }
}

impl Irqs {
    /// Whether an access lies in the table or the Pending Bit Array.
    pub(crate) fn is_msix(&self, region: u32, offset: u64, len: usize) -> bool {
        self.place(region, offset, len).is_some()
    }

    /// Reads from the table or the Pending Bit Array, if the access lies in one of them.
    pub(crate) fn msix_read(&self, region: u32, offset: u64, data: &mut [u8]) -> bool {
        let Some(place) = self.place(region, offset, data.len()) else { return false };
        let state = self.lock();
        match (place, &state.table) {
            (Place::Table(at), Some(table)) => table.entries.read(at, data),
            (Place::Pba(at), _) => {
                // Inside of the array, so these are small numbers.
                for (byte, number) in data.iter_mut().zip(at as usize..) {
                    let pending = |bit| state.is_pending(IrqIndex::Msix, number * 8 + bit);
                    *byte = (0..8).fold(0, |byte, bit| byte | u8::from(pending(bit)) << bit);
                }
            }
            (Place::Table(_), None) => return false,
        }
        true
    }

    /// Writes to the table, if the access lies in it: what it unmasks is raised. Writes to the Pending
    /// Bit Array are dropped. False: it lies elsewhere.
    pub(crate) fn msix_write(&self, region: u32, offset: u64, data: &[u8]) -> bool {
        let Some(place) = self.place(region, offset, data.len()) else { return false };
        let mut state = self.change();
        let (Place::Table(at), Some(table)) = (place, &mut state.table) else { return true };
        let first = !std::mem::replace(&mut table.in_use, true);
        let Range { start, end } = table.entries.write(at, data);
        let changed = if first { 0..usize::MAX } else { start.into()..end.into() };
        state.settle(IrqIndex::Msix, changed, self.now());
        true
    }

    /// Where in the table or the Pending Bit Array an access lies, if it does.
    fn place(&self, region: u32, offset: u64, len: usize) -> Option<Place> {
        let state = self.msix.as_ref()?;
        let inside = |(bar, start): (usize, u64), size: u64| {
            let at = (bar == region as usize).then(|| offset.checked_sub(start)).flatten()?;
            at.checked_add(len as u64).filter(|end| *end <= size).map(|_| at)
        };
        if let Some(at) = inside(state.table, state.table_len()) {
            return Some(Place::Table(at));
        }
        inside(state.pba, state.pba_len()).map(Place::Pba)
    }

    /// The table, then the Pending Bit Array; nothing if there are none.
    pub(crate) fn save_msix(&self) -> Vec<u8> {
        let Some(msix) = self.msix else { return Vec::new() };
        let (table_len, pba_len) = (msix.table_len() as usize, msix.pba_len() as usize);
        let mut bytes = vec![0; table_len + pba_len];
        let (entries, pending) = bytes.split_at_mut(table_len);
        self.msix_read(msix.table.0 as u32, msix.table.1, entries);
        self.msix_read(msix.pba.0 as u32, msix.pba.1, pending);
        bytes
    }

    /// Puts the table back as [`save_msix`](Self::save_msix) gave it; what is pending comes with
    /// [`load`](Self::load). `None`: it was another table's.
    pub(crate) fn load_msix(&self, bytes: &[u8]) -> Option<()> {
        let Some(msix) = self.msix else { return bytes.is_empty().then_some(()) };
        let (entries, pending) = bytes.split_at_checked(msix.table_len() as usize)?;
        if pending.len() as u64 != msix.pba_len() {
            return None;
        }
        let mut state = self.change();
        let table = state.table.as_mut()?;
        table.reset();
        // A client that never wrote to it has not done so on the other side either.
        table.in_use = !table.entries.write(0, entries).is_empty();
        Some(())
    }
}
