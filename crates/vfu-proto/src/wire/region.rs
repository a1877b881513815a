//! REGION_READ and REGION_WRITE (specification, VFIO_USER_REGION_READ, VFIO_USER_REGION_WRITE).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Errno;
use super::raw::{len32, put, take, take_bytes};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    offset: U64,
    region: U32,
    count: U32,
}

/// The request REGION_READ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionReadRequest {
    /// Where in the region, in bytes. `offset + count` does not wrap.
    pub offset: u64,
    /// Index of the region.
    pub region: u32,
    /// Bytes to read. Whether the number is within the limit is still to be checked.
    pub count: u32,
}

impl RegionReadRequest {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload and for an end that is not below 2^64.
    #[inline]
    pub fn parse(payload: &[u8]) -> Result<RegionReadRequest, Errno> {
        let (raw, _) = take::<Raw>(payload)?;
        let request = RegionReadRequest {
            offset: raw.offset.get(),
            region: raw.region.get(),
            count: raw.count.get(),
        };
        check_end(request.offset, request.count)?;
        Ok(request)
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_access(out, self.offset, self.region, self.count);
    }
}

/// The reply to REGION_READ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionReadReply<'a> {
    /// The request's value.
    pub offset: u64,
    /// The request's value.
    pub region: u32,
    /// What was read; its length is the count of the reply.
    pub data: &'a [u8],
}

impl<'a> RegionReadReply<'a> {
    /// Reads the payload. Whether it fits the request is for the asker to check.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a payload that is shorter than it says.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<RegionReadReply<'a>, Errno> {
        let (raw, rest) = take::<Raw>(payload)?;
        let (data, _) = take_bytes(rest, raw.count.get().into())?;
        Ok(RegionReadReply { offset: raw.offset.get(), region: raw.region.get(), data })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_access(out, self.offset, self.region, len32(self.data.len()));
        out.extend_from_slice(self.data);
    }

    /// Appends the payload up to the data, for a sender that then appends `request.count` bytes in
    /// place.
    #[inline]
    pub fn emit_head(request: &RegionReadRequest, out: &mut Vec<u8>) {
        put_access(out, request.offset, request.region, request.count);
    }
}

/// The request REGION_WRITE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionWriteRequest<'a> {
    /// Where in the region, in bytes. `offset + data.len()` does not wrap.
    pub offset: u64,
    /// Index of the region.
    pub region: u32,
    /// What to write.
    pub data: &'a [u8],
}

impl<'a> RegionWriteRequest<'a> {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload, a count that is not exactly the length of the data,
    /// and an end that is not below 2^64.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<RegionWriteRequest<'a>, Errno> {
        let (raw, data) = take::<Raw>(payload)?;
        if raw.count.get() as usize != data.len() {
            return Err(Errno::EINVAL);
        }
        check_end(raw.offset.get(), raw.count.get())?;
        Ok(RegionWriteRequest { offset: raw.offset.get(), region: raw.region.get(), data })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_access(out, self.offset, self.region, len32(self.data.len()));
        out.extend_from_slice(self.data);
    }

    /// The reply: all of it was written.
    #[inline]
    pub fn reply(&self) -> RegionWriteReply {
        RegionWriteReply { offset: self.offset, region: self.region, count: len32(self.data.len()) }
    }
}

/// The reply to REGION_WRITE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionWriteReply {
    /// The request's value.
    pub offset: u64,
    /// The request's value.
    pub region: u32,
    /// Bytes written.
    pub count: u32,
}

impl RegionWriteReply {
    /// Reads the payload. Whether it fits the request is for the asker to check.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload.
    pub fn parse(payload: &[u8]) -> Result<RegionWriteReply, Errno> {
        let (raw, _) = take::<Raw>(payload)?;
        Ok(RegionWriteReply {
            offset: raw.offset.get(),
            region: raw.region.get(),
            count: raw.count.get(),
        })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_access(out, self.offset, self.region, self.count);
    }
}

/// [`Errno::EINVAL`] unless `offset + count` is a 64-bit number. No region ends at 2^64.
#[inline]
pub(super) fn check_end(offset: u64, count: u32) -> Result<(), Errno> {
    match offset.checked_add(count.into()) {
        Some(_) => Ok(()),
        None => Err(Errno::EINVAL),
    }
}

#[inline]
fn put_access(out: &mut Vec<u8>, offset: u64, region: u32, count: u32) {
    put(out, &Raw { offset: offset.into(), region: region.into(), count: count.into() });
}
