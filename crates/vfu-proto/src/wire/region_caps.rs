//! The chain of capabilities behind a region's info (specification, VFIO_USER_DEVICE_GET_REGION_INFO).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Errno;
use super::raw::{len32, put, take, take_table};

const ID_SPARSE_MMAP: u16 = 1;
const ID_TYPE: u16 = 2;
const ID_MSIX_MAPPABLE: u16 = 3;
const ID_SPARSE_MMAP_FDS: u16 = 0x8001;
const VERSION: u16 = 1;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    id: U16,
    version: U16,
    next: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPair {
    first: U32,
    second: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawArea {
    offset: U64,
    size: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFdArea {
    offset: U64,
    fd_offset: U64,
    size: U64,
    fd_index: U32,
    pad: U32,
}

flags! {
    /// What can be done with a region.
    pub struct RegionFlags(u32) {
        /// It can be read.
        READ = 1 << 0;
        /// It can be written.
        WRITE = 1 << 1;
        /// Parts of it can be mapped through an fd.
        MMAP = 1 << 2;
        /// Capabilities follow. Set by `emit` and removed by `parse`: the list itself says it.
        CAPS = 1 << 3;
    }
}

/// A part of a region that can be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// Where in the region, in bytes. The place in the fd is that of the region plus this.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// A part of a region that can be mapped through an fd of its own choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FdArea {
    /// Where in the region, in bytes.
    pub offset: u64,
    /// Where in the fd, in bytes.
    pub fd_offset: u64,
    /// Size in bytes.
    pub size: u64,
    /// Which of the message's fds.
    pub fd_index: u32,
}

/// A capability of a region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegionCapability {
    /// Only these parts can be mapped, all through the one fd of the message.
    SparseMmap(Vec<Area>),
    /// What a device-specific region is.
    Type {
        /// The type.
        type_: u32,
        /// The subtype.
        subtype: u32,
    },
    /// The MSI-X table may be mapped with the rest.
    MsixMappable,
    /// Only these parts can be mapped, each through an fd that it names. For clients that said
    /// `sparse_mmap_fds`.
    SparseMmapFds(Vec<FdArea>),
}

impl RegionCapability {
    /// Size of the capability in bytes, its header included.
    pub(super) fn size(&self) -> usize {
        let body = match self {
            RegionCapability::SparseMmap(areas) => {
                size_of::<RawPair>() + areas.len() * size_of::<RawArea>()
            }
            RegionCapability::Type { .. } => size_of::<RawPair>(),
            RegionCapability::MsixMappable => 0,
            RegionCapability::SparseMmapFds(areas) => {
                size_of::<RawPair>() + areas.len() * size_of::<RawFdArea>()
            }
        };
        size_of::<RawHeader>() + body
    }

    fn id(&self) -> u16 {
        match self {
            RegionCapability::SparseMmap(_) => ID_SPARSE_MMAP,
            RegionCapability::Type { .. } => ID_TYPE,
            RegionCapability::MsixMappable => ID_MSIX_MAPPABLE,
            RegionCapability::SparseMmapFds(_) => ID_SPARSE_MMAP_FDS,
        }
    }

    /// Appends the capability; `next` is where the next one starts, 0 if there is none.
    fn emit(&self, next: usize, out: &mut Vec<u8>) {
        let (id, version, next) = (self.id().into(), VERSION.into(), len32(next).into());
        put(out, &RawHeader { id, version, next });
        match self {
            RegionCapability::SparseMmap(areas) => {
                put_pair(out, len32(areas.len()), 0);
                for area in areas {
                    put(out, &RawArea { offset: area.offset.into(), size: area.size.into() });
                }
            }
            RegionCapability::Type { type_, subtype } => put_pair(out, *type_, *subtype),
            RegionCapability::MsixMappable => {}
            RegionCapability::SparseMmapFds(areas) => {
                put_pair(out, len32(areas.len()), 0);
                for area in areas {
                    put(
                        out,
                        &RawFdArea {
                            offset: area.offset.into(),
                            fd_offset: area.fd_offset.into(),
                            size: area.size.into(),
                            fd_index: area.fd_index.into(),
                            pad: 0.into(),
                        },
                    );
                }
            }
        }
    }

    /// Reads the body of a capability. `Ok(None)` for one that we do not know.
    fn parse(header: &RawHeader, body: &[u8]) -> Result<Option<RegionCapability>, Errno> {
        if header.version.get() != VERSION {
            return Ok(None);
        }
        Ok(Some(match header.id.get() {
            ID_SPARSE_MMAP => {
                let (pair, rest) = take::<RawPair>(body)?;
                let (areas, _) = take_table::<RawArea>(rest, pair.first.get().into())?;
                RegionCapability::SparseMmap(areas.iter().map(Area::from_raw).collect())
            }
            ID_TYPE => {
                let (pair, _) = take::<RawPair>(body)?;
                RegionCapability::Type { type_: pair.first.get(), subtype: pair.second.get() }
            }
            ID_MSIX_MAPPABLE => RegionCapability::MsixMappable,
            ID_SPARSE_MMAP_FDS => {
                let (pair, rest) = take::<RawPair>(body)?;
                let (areas, _) = take_table::<RawFdArea>(rest, pair.first.get().into())?;
                RegionCapability::SparseMmapFds(areas.iter().map(FdArea::from_raw).collect())
            }
            _ => return Ok(None),
        }))
    }
}

impl Area {
    fn from_raw(raw: &RawArea) -> Area {
        Area { offset: raw.offset.get(), size: raw.size.get() }
    }
}

impl FdArea {
    fn from_raw(raw: &RawFdArea) -> FdArea {
        FdArea {
            offset: raw.offset.get(),
            fd_offset: raw.fd_offset.get(),
            size: raw.size.get(),
            fd_index: raw.fd_index.get(),
        }
    }
}

/// Appends a chain that starts `at` bytes after the beginning of the payload.
pub(super) fn emit_chain(capabilities: &[RegionCapability], at: usize, out: &mut Vec<u8>) {
    let mut end = at;
    let mut left = capabilities.len();
    for capability in capabilities {
        end += capability.size();
        left -= 1;
        capability.emit(if left == 0 { 0 } else { end }, out);
    }
}

/// Walks the chain that starts `first` bytes after the beginning of the payload.
///
/// It may only lead forward, and each capability ends where the next one starts at the latest: so
/// the walk ends, and all lists together are no longer than the payload. What lies before `start`
/// is no place for a capability.
///
/// # Errors
/// [`Errno::EINVAL`] for a chain that leads back, in a circle, into a capability or out of the
/// payload, and for a list that is longer than its capability.
pub(super) fn parse_chain(
    payload: &[u8],
    start: usize,
    first: u32,
) -> Result<Vec<RegionCapability>, Errno> {
    let mut found = Vec::new();
    let mut end = start;
    let mut at = first as usize;
    while at != 0 {
        if at < end {
            return Err(Errno::EINVAL);
        }
        let (header, rest) = take::<RawHeader>(payload.get(at..).ok_or(Errno::EINVAL)?)?;
        let body_at = at + size_of::<RawHeader>();
        let next = header.next.get() as usize;
        let body =
            if next == 0 { rest } else { payload.get(body_at..next).ok_or(Errno::EINVAL)? };
        found.extend(RegionCapability::parse(header, body)?);
        end = body_at;
        at = next;
    }
    Ok(found)
}

fn put_pair(out: &mut Vec<u8>, first: u32, second: u32) {
    put(out, &RawPair { first: first.into(), second: second.into() });
}
