//! DMA_READ and DMA_WRITE: the device uses the client's memory by message (specification,
//! VFIO_USER_DMA_READ, VFIO_USER_DMA_WRITE).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Errno;
use super::raw::{put, take};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    address: U64,
    count: U64,
}

/// The reply to DMA_WRITE with a 32-bit count, as the printed specification once had it.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawShort {
    address: U64,
    count: U32,
}

/// The request DMA_READ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaReadRequest {
    /// The first IOVA.
    pub address: u64,
    /// Bytes to read. `[address, address + count)` does not wrap; whether the number is within the
    /// receiver's limit is still to be checked.
    pub count: u64,
}

impl DmaReadRequest {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload and for a range that wraps.
    pub fn parse(payload: &[u8]) -> Result<DmaReadRequest, Errno> {
        let (raw, _) = take::<Raw>(payload)?;
        let request = DmaReadRequest { address: raw.address.get(), count: raw.count.get() };
        check_access(request.address, request.count)?;
        Ok(request)
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_access(out, self.address, self.count);
    }
}

/// The reply to DMA_READ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaReadReply<'a> {
    /// The request's value.
    pub address: u64,
    /// What was read. It may be less than was asked for.
    pub data: &'a [u8],
}

impl<'a> DmaReadReply<'a> {
    /// Bytes of the payload before the data.
    pub const HEAD: usize = size_of::<Raw>();

    /// Reads the payload. Whether it fits the request is for the asker to check.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload and for a count that is not the length of the data.
    pub fn parse(payload: &'a [u8]) -> Result<DmaReadReply<'a>, Errno> {
        DmaReadReply::parse_part(payload, 0)
    }

    /// Reads a payload whose last `away` bytes, which are data, are elsewhere.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_part(payload: &'a [u8], away: usize) -> Result<DmaReadReply<'a>, Errno> {
        let (address, data) = take_access_data(payload, away)?;
        Ok(DmaReadReply { address, data })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        DmaReadReply::emit_head(self.address, self.data.len() as u64, out);
        out.extend_from_slice(self.data);
    }

    /// Appends the payload up to the data, for a sender that then appends `count` bytes in place.
    pub fn emit_head(address: u64, count: u64, out: &mut Vec<u8>) {
        put_access(out, address, count);
    }
}

/// The request DMA_WRITE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaWriteRequest<'a> {
    /// The first IOVA. `[address, address + data.len())` does not wrap.
    pub address: u64,
    /// What to write.
    pub data: &'a [u8],
}

impl<'a> DmaWriteRequest<'a> {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload, a count that is not the length of the data, and a
    /// range that wraps.
    pub fn parse(payload: &'a [u8]) -> Result<DmaWriteRequest<'a>, Errno> {
        let (address, data) = take_access_data(payload, 0)?;
        check_access(address, data.len() as u64)?;
        Ok(DmaWriteRequest { address, data })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        DmaWriteRequest::emit_head(self.address, self.data.len() as u64, out);
        out.extend_from_slice(self.data);
    }

    /// Appends the payload up to the data, for a sender that then appends `count` bytes in place.
    pub fn emit_head(address: u64, count: u64, out: &mut Vec<u8>) {
        put_access(out, address, count);
    }
}

/// The reply to DMA_WRITE.
///
/// Old clients send 12 bytes (a 32-bit count) or none at all; we read all three forms, and send the
/// one with 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaWriteReply {
    /// The request's address; `None` if the reply had no payload.
    pub address: Option<u64>,
    /// Bytes written; `None` if the reply had no payload.
    pub count: Option<u64>,
}

impl DmaWriteReply {
    /// The reply that says that `count` bytes were written at `address`.
    pub fn new(address: u64, count: u64) -> DmaWriteReply {
        DmaWriteReply { address: Some(address), count: Some(count) }
    }

    /// Reads the payload. Whether it fits the request is for the asker to check.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a payload that has none of the three sizes and less than 16 bytes.
    pub fn parse(payload: &[u8]) -> Result<DmaWriteReply, Errno> {
        if payload.is_empty() {
            return Ok(DmaWriteReply { address: None, count: None });
        }
        if payload.len() == size_of::<RawShort>() {
            let (raw, _) = take::<RawShort>(payload)?;
            return Ok(DmaWriteReply::new(raw.address.get(), raw.count.get().into()));
        }
        let (raw, _) = take::<Raw>(payload)?;
        Ok(DmaWriteReply::new(raw.address.get(), raw.count.get()))
    }

    /// Appends the payload: 16 bytes, or nothing if both fields are `None`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        if self.address.is_some() || self.count.is_some() {
            put_access(out, self.address.unwrap_or(0), self.count.unwrap_or(0));
        }
    }
}

fn put_access(out: &mut Vec<u8>, address: u64, count: u64) {
    put(out, &Raw { address: address.into(), count: count.into() });
}

/// The address, and what is here of the data, of which `away` bytes are not.
fn take_access_data(payload: &[u8], away: usize) -> Result<(u64, &[u8]), Errno> {
    let (raw, data) = take::<Raw>(payload)?;
    if raw.count.get() != (data.len() + away) as u64 {
        return Err(Errno::EINVAL);
    }
    Ok((raw.address.get(), data))
}

/// A range may end exactly at 2^64, and it may be empty.
fn check_access(address: u64, count: u64) -> Result<(), Errno> {
    match address.checked_add(count.saturating_sub(1)) {
        Some(_) => Ok(()),
        None => Err(Errno::EINVAL),
    }
}
