//! REGION_WRITE_MULTI: many small writes in one message (specification, VFIO_USER_REGION_WRITE_MULTI).

use std::fmt;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Errno;
use super::raw::{put, take, take_table};
use super::region::check_end;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawCount {
    count: U64,
}

/// One write of up to 8 bytes, as it is on the wire: 24 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct WriteEntry {
    offset: U64,
    region: U32,
    count: U32,
    data: [u8; 8],
}

impl WriteEntry {
    /// Most bytes that one entry can write.
    pub const MAX_DATA: usize = 8;

    /// A write of `data` at `offset` in `region`; `None` unless it has 1 to 8 bytes.
    pub fn new(offset: u64, region: u32, data: &[u8]) -> Option<WriteEntry> {
        let mut padded = [0; WriteEntry::MAX_DATA];
        padded.get_mut(..data.len())?.copy_from_slice(data);
        let count = u32::try_from(data.len()).ok().filter(|&count| count != 0)?;
        Some(WriteEntry {
            offset: offset.into(),
            region: region.into(),
            count: count.into(),
            data: padded,
        })
    }

    /// Where in the region, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset.get()
    }

    /// Index of the region.
    pub fn region(&self) -> u32 {
        self.region.get()
    }

    /// What to write.
    pub fn data(&self) -> &[u8] {
        self.data.get(..self.count.get() as usize).unwrap_or(&self.data)
    }

    fn check(&self) -> Result<(), Errno> {
        match self.count.get() {
            1..=8 => check_end(self.offset(), self.count.get()),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl fmt::Debug for WriteEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteEntry")
            .field("offset", &self.offset())
            .field("region", &self.region())
            .field("data", &self.data())
            .finish()
    }
}

/// The request REGION_WRITE_MULTI. The writes are to be made in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteMulti<'a> {
    entries: &'a [WriteEntry],
}

impl<'a> WriteMulti<'a> {
    /// A message of these writes.
    pub fn new(entries: &'a [WriteEntry]) -> WriteMulti<'a> {
        WriteMulti { entries }
    }

    /// Reads the payload. Each entry has 1 to 8 bytes, and none of them wraps; whether the regions
    /// exist is still to be checked.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if the number of entries does not fit the payload exactly, and if any of
    /// them has a bad count or wraps: then none of the writes may be made.
    pub fn parse(payload: &'a [u8]) -> Result<WriteMulti<'a>, Errno> {
        let (raw, rest) = take::<RawCount>(payload)?;
        let (entries, rest) = take_table::<WriteEntry>(rest, raw.count.get())?;
        if !rest.is_empty() {
            return Err(Errno::EINVAL);
        }
        entries.iter().try_for_each(WriteEntry::check)?;
        Ok(WriteMulti { entries })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put(out, &RawCount { count: (self.entries.len() as u64).into() });
        put(out, self.entries);
    }

    /// The writes, in program order.
    pub fn entries(&self) -> &'a [WriteEntry] {
        self.entries
    }

    /// Walks over the writes, in program order.
    pub fn iter(&self) -> std::slice::Iter<'a, WriteEntry> {
        self.entries.iter()
    }
}

impl<'a> IntoIterator for WriteMulti<'a> {
    type Item = &'a WriteEntry;
    type IntoIter = std::slice::Iter<'a, WriteEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

/// The reply to REGION_WRITE_MULTI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteMultiReply {
    /// How many of the writes were made, from the first one on.
    pub count: u64,
}

impl WriteMultiReply {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload.
    pub fn parse(payload: &[u8]) -> Result<WriteMultiReply, Errno> {
        let (raw, _) = take::<RawCount>(payload)?;
        Ok(WriteMultiReply { count: raw.count.get() })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put(out, &RawCount { count: self.count.into() });
    }
}
