//! DMA_MAP and DMA_UNMAP (specification, VFIO_USER_DMA_MAP, VFIO_USER_DMA_UNMAP).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::raw::{check_range, need, put, take, take_bytes};
use super::{Errno, bitmap_len};

const MAP_SIZE: u32 = 32;
const UNMAP_SIZE: u32 = 24;
const BITMAP_HEADER_SIZE: u64 = 16;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMap {
    argsz: U32,
    flags: U32,
    offset: U64,
    address: U64,
    size: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawUnmap {
    argsz: U32,
    flags: U32,
    address: U64,
    size: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBitmap {
    pgsize: U64,
    size: U64,
}

flags! {
    /// Flags of DMA_MAP.
    pub struct DmaMapFlags(u32) {
        /// The device may read.
        READ = 1 << 0;
        /// The device may write.
        WRITE = 1 << 1;
        /// Map the fd into memory.
        MMAP = 1 << 2;
        /// Use `pread` and `pwrite` on the fd.
        FILE_IO = 1 << 3;
    }
}

/// How the memory of a map is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum AccessMode {
    /// Through a mapping of the fd.
    Mmap,
    /// Through `pread` and `pwrite` on the fd.
    FileIo,
    /// Through DMA_READ and DMA_WRITE messages; there is no fd.
    Message,
}

/// The request DMA_MAP: here is memory. Its reply has no payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaMap {
    /// What the device may do, and how.
    pub flags: DmaMapFlags,
    /// Where in the fd the memory starts, in bytes.
    pub offset: u64,
    /// The first IOVA.
    pub address: u64,
    /// Size in bytes, never 0. `address + (size - 1)` does not wrap.
    pub size: u64,
}

impl DmaMap {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`, unknown flags, both access modes or no
    /// permission at all, a size of 0, and a range of addresses or of the file that wraps.
    pub fn parse(payload: &[u8]) -> Result<DmaMap, Errno> {
        let (raw, _) = take::<RawMap>(payload)?;
        need(raw.argsz.get(), MAP_SIZE.into())?;
        let flags = DmaMapFlags::from_bits(raw.flags.get()).ok_or(Errno::EINVAL)?;
        let map = DmaMap {
            flags,
            offset: raw.offset.get(),
            address: raw.address.get(),
            size: raw.size.get(),
        };
        check_range(map.address, map.size)?;
        if !flags.intersects(DmaMapFlags::READ | DmaMapFlags::WRITE)
            || flags.contains(DmaMapFlags::MMAP | DmaMapFlags::FILE_IO)
            || i64::try_from(map.offset).is_err()
            || map.offset.checked_add(map.size).is_none()
        {
            return Err(Errno::EINVAL);
        }
        Ok(map)
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put(
            out,
            &RawMap {
                argsz: MAP_SIZE.into(),
                flags: self.flags.bits().into(),
                offset: self.offset.into(),
                address: self.address.into(),
                size: self.size.into(),
            },
        );
    }

    /// How the memory is reached, once it is known whether an fd came with the message.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if the flags name a mode that needs an fd and there is none, or both.
    pub fn access_mode(&self, has_fd: bool) -> Result<AccessMode, Errno> {
        let mmap = self.flags.contains(DmaMapFlags::MMAP);
        let file_io = self.flags.contains(DmaMapFlags::FILE_IO);
        match (mmap, file_io, has_fd) {
            (_, false, true) => Ok(AccessMode::Mmap),
            (false, true, true) => Ok(AccessMode::FileIo),
            (false, false, false) => Ok(AccessMode::Message),
            _ => Err(Errno::EINVAL),
        }
    }
}

flags! {
    /// Flags of DMA_UNMAP.
    pub struct DmaUnmapFlags(u32) {
        /// Hand back the dirty pages of the range.
        GET_DIRTY_BITMAP = 1 << 0;
        /// Everything, not a range.
        ALL = 1 << 1;
    }
}

/// What DMA_UNMAP takes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnmapWhat {
    /// A range of addresses.
    Range {
        /// The first IOVA.
        address: u64,
        /// Size in bytes, never 0.
        size: u64,
    },
    /// A range, and the sender wants to know which of its pages the device wrote.
    RangeWithDirty {
        /// The first IOVA.
        address: u64,
        /// Size in bytes, never 0.
        size: u64,
        /// Bytes that one bit of the bitmap stands for, a power of two.
        pgsize: u64,
        /// Size of the bitmap in bytes; what [`bitmap_len`] gives for the range.
        bitmap_size: u64,
    },
    /// Everything that is mapped.
    All,
}

/// The request DMA_UNMAP: the memory goes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaUnmapRequest {
    /// Largest reply payload that the sender can take, in bytes.
    pub argsz: u32,
    /// What goes away.
    pub what: UnmapWhat,
}

impl DmaUnmapRequest {
    /// A request with the `argsz` that its reply needs.
    pub fn new(what: UnmapWhat) -> DmaUnmapRequest {
        let argsz = u32::try_from(reply_size(&what)).unwrap_or(u32::MAX);
        DmaUnmapRequest { argsz, what }
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload, an `argsz` below the size of the reply, flags other
    /// than none or exactly one known one, `ALL` with a range, a range that is empty or wraps, and
    /// a bitmap whose size does not fit the range.
    pub fn parse(payload: &[u8]) -> Result<DmaUnmapRequest, Errno> {
        let (raw, rest) = take::<RawUnmap>(payload)?;
        let (address, size) = (raw.address.get(), raw.size.get());
        let flags = DmaUnmapFlags::from_bits_retain(raw.flags.get());
        let what = if flags == DmaUnmapFlags::ALL {
            if address != 0 || size != 0 {
                return Err(Errno::EINVAL);
            }
            UnmapWhat::All
        } else {
            check_range(address, size)?;
            if flags == DmaUnmapFlags::GET_DIRTY_BITMAP {
                let (bitmap, _) = take::<RawBitmap>(rest)?;
                let (pgsize, bitmap_size) = (bitmap.pgsize.get(), bitmap.size.get());
                if bitmap_len(size, pgsize)? != bitmap_size {
                    return Err(Errno::EINVAL);
                }
                UnmapWhat::RangeWithDirty { address, size, pgsize, bitmap_size }
            } else if flags.is_empty() {
                UnmapWhat::Range { address, size }
            } else {
                return Err(Errno::EINVAL);
            }
        };
        let request = DmaUnmapRequest { argsz: raw.argsz.get(), what };
        need(request.argsz, reply_size(&what))?;
        Ok(request)
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_unmap(out, self.argsz, self.flags(), self.address(), self.size());
        if let UnmapWhat::RangeWithDirty { pgsize, bitmap_size, .. } = self.what {
            put(out, &RawBitmap { pgsize: pgsize.into(), size: bitmap_size.into() });
        }
    }

    /// The flags that say what goes away.
    pub fn flags(&self) -> DmaUnmapFlags {
        match self.what {
            UnmapWhat::Range { .. } => DmaUnmapFlags::empty(),
            UnmapWhat::RangeWithDirty { .. } => DmaUnmapFlags::GET_DIRTY_BITMAP,
            UnmapWhat::All => DmaUnmapFlags::ALL,
        }
    }

    /// The first IOVA; 0 for everything.
    pub fn address(&self) -> u64 {
        match self.what {
            UnmapWhat::Range { address, .. } | UnmapWhat::RangeWithDirty { address, .. } => address,
            UnmapWhat::All => 0,
        }
    }

    /// Size in bytes; 0 for everything.
    pub fn size(&self) -> u64 {
        match self.what {
            UnmapWhat::Range { size, .. } | UnmapWhat::RangeWithDirty { size, .. } => size,
            UnmapWhat::All => 0,
        }
    }

    /// The reply, which repeats the request; `size` is what was really taken back, in bytes.
    pub fn reply(&self, size: u64) -> DmaUnmapReply<'static> {
        DmaUnmapReply {
            argsz: self.argsz,
            flags: self.flags(),
            address: self.address(),
            size,
            bitmap: None,
        }
    }
}

/// The dirty pages in the reply to DMA_UNMAP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirtyBitmap<'a> {
    /// Bytes that one bit stands for.
    pub pgsize: u64,
    /// The bits; that of page `p` is bit `p % 8` of byte `p / 8`.
    pub data: &'a [u8],
}

/// The reply to DMA_UNMAP. It always has its 24 bytes: there are clients that block without them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaUnmapReply<'a> {
    /// The request's value.
    pub argsz: u32,
    /// The request's value. `GET_DIRTY_BITMAP` is set if and only if there is a bitmap.
    pub flags: DmaUnmapFlags,
    /// The request's value.
    pub address: u64,
    /// Bytes that were taken back.
    pub size: u64,
    /// The dirty pages, if the request asked for them.
    pub bitmap: Option<DirtyBitmap<'a>>,
}

impl<'a> DmaUnmapReply<'a> {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload.
    pub fn parse(payload: &'a [u8]) -> Result<DmaUnmapReply<'a>, Errno> {
        let (raw, rest) = take::<RawUnmap>(payload)?;
        let flags = DmaUnmapFlags::from_bits_retain(raw.flags.get());
        let bitmap = if flags.contains(DmaUnmapFlags::GET_DIRTY_BITMAP) {
            let (header, rest) = take::<RawBitmap>(rest)?;
            let (data, _) = take_bytes(rest, header.size.get())?;
            Some(DirtyBitmap { pgsize: header.pgsize.get(), data })
        } else {
            None
        };
        Ok(DmaUnmapReply {
            argsz: raw.argsz.get(),
            flags,
            address: raw.address.get(),
            size: raw.size.get(),
            bitmap,
        })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        if let Some(bitmap) = self.bitmap {
            let size = bitmap.data.len() as u64;
            self.emit_head(bitmap.pgsize, size, out);
            out.extend_from_slice(bitmap.data);
        } else {
            put_unmap(out, self.argsz, self.flags, self.address, self.size);
        }
    }

    /// Appends what stands before a bitmap of `size` bytes. That is for the caller to append, whatever
    /// [`bitmap`](Self::bitmap) is.
    pub fn emit_head(&self, pgsize: u64, size: u64, out: &mut Vec<u8>) {
        put_unmap(out, self.argsz, self.flags, self.address, self.size);
        put(out, &RawBitmap { pgsize: pgsize.into(), size: size.into() });
    }
}

fn reply_size(what: &UnmapWhat) -> u64 {
    let fixed = u64::from(UNMAP_SIZE);
    match what {
        UnmapWhat::RangeWithDirty { bitmap_size, .. } => {
            bitmap_size.saturating_add(fixed + BITMAP_HEADER_SIZE)
        }
        _ => fixed,
    }
}

fn put_unmap(out: &mut Vec<u8>, argsz: u32, flags: DmaUnmapFlags, address: u64, size: u64) {
    put(
        out,
        &RawUnmap {
            argsz: argsz.into(),
            flags: flags.bits().into(),
            address: address.into(),
            size: size.into(),
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_mode_of_every_combination() {
        let mode =
            |flags, has_fd| DmaMap { flags, offset: 0, address: 0, size: 1 }.access_mode(has_fd);
        let none = DmaMapFlags::READ;
        assert_eq!(mode(none, false), Ok(AccessMode::Message));
        assert_eq!(mode(none, true), Ok(AccessMode::Mmap));
        assert_eq!(mode(DmaMapFlags::MMAP, true), Ok(AccessMode::Mmap));
        assert_eq!(mode(DmaMapFlags::FILE_IO, true), Ok(AccessMode::FileIo));
        assert_eq!(mode(DmaMapFlags::MMAP, false), Err(Errno::EINVAL));
        assert_eq!(mode(DmaMapFlags::FILE_IO, false), Err(Errno::EINVAL));
        let both = DmaMapFlags::MMAP | DmaMapFlags::FILE_IO;
        assert_eq!(mode(both, true), Err(Errno::EINVAL));
        assert_eq!(mode(both, false), Err(Errno::EINVAL));
    }
}
