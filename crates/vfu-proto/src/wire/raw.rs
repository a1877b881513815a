//! The two verbs under every `parse` and `emit`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Errno;

/// Splits a fixed structure off the front of `bytes`; [`Errno::EINVAL`] if they are too few.
#[inline]
pub(super) fn take<T>(bytes: &[u8]) -> Result<(&T, &[u8]), Errno>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::ref_from_prefix(bytes).map_err(|_| Errno::EINVAL)
}

/// Splits a table of `count` entries off the front of `bytes`; [`Errno::EINVAL`] if they are too
/// few. `count` is the claim of a peer: nothing is allocated by it.
pub(super) fn take_table<T>(bytes: &[u8], count: u64) -> Result<(&[T], &[u8]), Errno>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let len = count.checked_mul(size_of::<T>() as u64).ok_or(Errno::EINVAL)?;
    let (table, rest) = take_bytes(bytes, len)?;
    Ok((<[T]>::ref_from_bytes(table).map_err(|_| Errno::EINVAL)?, rest))
}

/// Splits `len` bytes off the front of `bytes`; [`Errno::EINVAL`] if they are too few.
#[inline]
pub(super) fn take_bytes(bytes: &[u8], len: u64) -> Result<(&[u8], &[u8]), Errno> {
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    bytes.split_at_checked(len).ok_or(Errno::EINVAL)
}

/// Appends a fixed structure.
#[inline]
pub(super) fn put<T>(out: &mut Vec<u8>, value: &T)
where
    T: IntoBytes + Immutable + ?Sized,
{
    out.extend_from_slice(value.as_bytes());
}

/// [`Errno::EINVAL`] if `argsz` is less than the `needed` bytes.
pub(super) fn need(argsz: u32, needed: u64) -> Result<(), Errno> {
    if u64::from(argsz) < needed { Err(Errno::EINVAL) } else { Ok(()) }
}

/// A length of ours as the 32-bit number of the wire. No message of ours comes near the limit; if
/// one did, the receiver would see that the count does not match the payload.
#[inline]
pub(super) fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// [`Errno::EINVAL`] unless `[start, start + len)` is not empty and ends at or below 2^64.
pub(super) fn check_range(start: u64, len: u64) -> Result<(), Errno> {
    match len.checked_sub(1) {
        Some(last) if start.checked_add(last).is_some() => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}
