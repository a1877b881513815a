//! The MSI-X Table and Pending Bit Array in device memory (PCI 6.8.2.6 to 6.8.2.10).

use std::ops::Range;

/// Bytes of a table entry.
const ENTRY: usize = 16;
/// Vector Control, the last dword of an entry; bit 0 masks the vector.
const CONTROL: usize = 12;
/// The bits of an entry that can be written: address (dword aligned), data, Mask Bit.
const WRITABLE: [u8; ENTRY] =
    [0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0, 0];
/// An entry after reset: masked.
const RESET: [u8; ENTRY] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0, 0, 0];

/// The length of the table in bytes.
pub(super) fn table_len(vectors: u16) -> u64 {
    u64::from(vectors) * ENTRY as u64
}

/// The length of the Pending Bit Array in bytes: whole qwords.
pub(super) fn pba_len(vectors: u16) -> u64 {
    u64::from(vectors).div_ceil(64) * 8
}

/// One entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixEntry {
    /// The message address.
    pub address: u64,
    /// The message data.
    pub data: u32,
    /// Mask Bit. The capability's Function Mask comes on top of it.
    pub masked: bool,
}

/// The memory behind an MSI-X capability: the table, which software writes, and the Pending Bit
/// Array, which the device does. Offsets are from the start of the one or the other. Any offset and
/// width is fine, byte by byte; PCI demands aligned dwords and qwords of software.
///
/// It holds 16 bytes and one bit per vector, allocated once.
#[derive(Clone)]
pub struct MsixTable {
    entries: Box<[[u8; ENTRY]]>,
    pending: Box<[u64]>,
}

impl MsixTable {
    /// A table after reset: every vector masked, none pending.
    pub fn new(vectors: u16) -> Self {
        Self {
            entries: vec![RESET; usize::from(vectors)].into_boxed_slice(),
            pending: vec![0; usize::from(vectors).div_ceil(64)].into_boxed_slice(),
        }
    }

    /// Entries in the table.
    pub fn vectors(&self) -> u16 {
        // new() took a u16
        self.entries.len() as u16
    }

    /// The length of the table in bytes.
    pub fn table_len(&self) -> u64 {
        table_len(self.vectors())
    }

    /// The length of the Pending Bit Array in bytes.
    pub fn pba_len(&self) -> u64 {
        pba_len(self.vectors())
    }

    /// Reads from the table; 0 past its end.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        fill(data, self.entries.as_flattened(), offset);
    }

    /// Writes to the table; ignored past its end. Returns the vectors whose entries changed, as the
    /// shortest range that has them all: those of them that are now unmasked and pending are due.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Range<u16> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let table = self.entries.as_flattened_mut().get_mut(start..).unwrap_or_default();
        let mut changed = 0..0;
        for (i, (byte, &value)) in table.iter_mut().zip(data).enumerate() {
            let at = start + i;
            let mask = WRITABLE[at % ENTRY];
            let new = *byte & !mask | value & mask;
            if new != *byte {
                *byte = new;
                let vector = (at / ENTRY) as u16;
                let first = if changed.is_empty() { vector } else { changed.start };
                changed = first..vector + 1;
            }
        }
        changed
    }

    /// Reads from the Pending Bit Array; 0 past its end. Software's writes to it have no effect
    /// (PCI 6.8.2.10 leaves them undefined), so there is no function for them.
    pub fn read_pba(&self, offset: u64, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            let at = offset.saturating_add(i as u64);
            let qword = usize::try_from(at / 8).ok().and_then(|at| self.pending.get(at));
            *byte = qword.map_or(0, |qword| qword.to_le_bytes()[(at % 8) as usize]);
        }
    }

    /// The entry of `vector`, if there is one.
    pub fn entry(&self, vector: u16) -> Option<MsixEntry> {
        let [a, b, c, d, e, f, g, h, data @ .., control, _, _, _] =
            *self.entries.get(usize::from(vector))?;
        Some(MsixEntry {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            data: u32::from_le_bytes(data),
            masked: control & 1 != 0,
        })
    }

    /// The Mask Bit of `vector`; true if there is no such vector.
    pub fn is_masked(&self, vector: u16) -> bool {
        self.entries.get(usize::from(vector)).is_none_or(|entry| entry[CONTROL] & 1 != 0)
    }

    /// The Pending Bit of `vector`; false if there is no such vector.
    pub fn is_pending(&self, vector: u16) -> bool {
        let qword = self.pending.get(usize::from(vector / 64)).copied().unwrap_or(0);
        qword >> (vector % 64) & 1 != 0
    }

    /// Sets the Pending Bit: the vector was raised while masked.
    pub fn set_pending(&mut self, vector: u16) {
        if vector < self.vectors() {
            if let Some(qword) = self.pending.get_mut(usize::from(vector / 64)) {
                *qword |= 1 << (vector % 64);
            }
        }
    }

    /// Clears the Pending Bit and returns what it was: true means that a message is due.
    pub fn clear_pending(&mut self, vector: u16) -> bool {
        let was = self.is_pending(vector);
        if let Some(qword) = self.pending.get_mut(usize::from(vector / 64)) {
            *qword &= !(1 << (vector % 64));
        }
        was
    }

    /// Back to the state after [`new`](Self::new).
    pub fn reset(&mut self) {
        self.entries.fill(RESET);
        self.pending.fill(0);
    }
}

impl std::fmt::Debug for MsixTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MsixTable").field("vectors", &self.vectors()).finish_non_exhaustive()
    }
}

/// Copies `bytes` from `offset` on into `data`, and 0 where they end.
fn fill(data: &mut [u8], bytes: &[u8], offset: u64) {
    let bytes = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    let (inside, outside) = data.split_at_mut(bytes.len().min(data.len()));
    for (to, from) in inside.iter_mut().zip(bytes) {
        *to = *from;
    }
    outside.fill(0);
}
