//! DEVICE_GET_REGION_IO_FDS (specification, VFIO_USER_DEVICE_GET_REGION_IO_FDS).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Errno;
use super::raw::{len32, need, put, take, take_bytes};

const HEAD_SIZE: u32 = 16;

const TYPE_IOEVENTFD: u32 = 0;
const TYPE_IOREGIONFD: u32 = 1;
const TYPE_SHADOW: u32 = 2;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHead {
    argsz: U32,
    flags: U32,
    index: U32,
    count: U32,
}

/// The 40 bytes that all entries have.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    offset: U64,
    size: U64,
    fd_index: U32,
    kind: U32,
    flags: U32,
    shadow_fd_index: U32,
    /// Data to match, or the user's data; the wide layout has the offset of the shadow here.
    value: U64,
}

flags! {
    /// Flags of an entry of DEVICE_GET_REGION_IO_FDS.
    pub struct IoFdFlags(u32) {
        /// ioeventfd: signal only if the data written is the data to match.
        DATAMATCH = 1 << 0;
        /// The region is in I/O space.
        PIO = 1 << 1;
        /// ioregionfd: writes need no answer.
        POSTED_WRITES = 1 << 2;
        /// ioeventfd: for virtio over channel I/O.
        VIRTIO_CCW = 1 << 3;
    }
}

/// How the entries are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub enum IoFdLayout {
    /// 40 bytes, as specified.
    #[default]
    Standard,
    /// 48 bytes, as libvfio-user sends them: with a place for the offset of a shadow.
    Wide,
}

impl IoFdLayout {
    /// Size of one entry in bytes.
    pub const fn stride(self) -> u32 {
        match self {
            IoFdLayout::Standard => 40,
            IoFdLayout::Wide => 48,
        }
    }
}

/// What the fd of an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoFdKind {
    /// An eventfd that is signalled by a write.
    IoEventFd {
        /// The value that the write must have, with [`IoFdFlags::DATAMATCH`].
        datamatch: u64,
    },
    /// A socket over which each access is sent.
    IoRegionFd {
        /// Sent with each access.
        user_data: u64,
    },
    /// An eventfd that is signalled by a write, which is also stored in shared memory.
    ShadowIoEventFd {
        /// The value that the write must have, with [`IoFdFlags::DATAMATCH`].
        datamatch: u64,
        /// Which of the message's fds is the shared memory.
        shadow_fd_index: u32,
        /// Where in the shared memory, in bytes. The standard layout has no place for it: 0.
        shadow_offset: u64,
    },
}

/// A part of a region that is served through an fd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoFd {
    /// Where in the region, in bytes.
    pub offset: u64,
    /// Width of the accesses in bytes; 0 for any.
    pub size: u64,
    /// Which of the message's fds; an index that it has not means that there is none.
    pub fd_index: u32,
    /// Flags.
    pub flags: IoFdFlags,
    /// What the fd is.
    pub kind: IoFdKind,
}

/// The request DEVICE_GET_REGION_IO_FDS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoFdsRequest {
    /// Largest reply payload that the sender can take, in bytes; at least 16.
    pub argsz: u32,
    /// Index of the region.
    pub index: u32,
}

impl IoFdsRequest {
    /// Smallest `argsz`: room for a reply without entries.
    pub const MIN_ARGSZ: u32 = HEAD_SIZE;

    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`, and for flags or a count.
    pub fn parse(payload: &[u8]) -> Result<IoFdsRequest, Errno> {
        let (raw, _) = take::<RawHead>(payload)?;
        need(raw.argsz.get(), HEAD_SIZE.into())?;
        if raw.flags.get() != 0 || raw.count.get() != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(IoFdsRequest { argsz: raw.argsz.get(), index: raw.index.get() })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_head(out, self.argsz, self.index, 0);
    }
}

/// The reply to DEVICE_GET_REGION_IO_FDS.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IoFdsReply {
    /// The request's value.
    pub index: u32,
    /// How the entries are laid out.
    pub layout: IoFdLayout,
    /// The entries of types that we know; none if `truncated` is set.
    pub entries: Vec<IoFd>,
    /// Set in a reply that left its entries and fds out because the `argsz` of the request was too
    /// small: the number of entries. With [`IoFdsReply::full_size`] it says what to ask again with.
    /// It is the claim of the peer: bound it before use.
    pub truncated: Option<u32>,
}

impl IoFdsReply {
    /// Size of the payload with all entries, in bytes.
    pub fn full_size(&self) -> u32 {
        self.count().saturating_mul(self.layout.stride()).saturating_add(HEAD_SIZE)
    }

    fn count(&self) -> u32 {
        self.truncated.unwrap_or(len32(self.entries.len()))
    }

    /// Reads the payload. Entries may be longer than we know; the tail is ignored.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`, entries below 40 bytes, and more of them
    /// than the payload has (unless it has none at all).
    pub fn parse(payload: &[u8]) -> Result<IoFdsReply, Errno> {
        let (raw, rest) = take::<RawHead>(payload)?;
        let entries_size = raw.argsz.get().checked_sub(HEAD_SIZE).ok_or(Errno::EINVAL)?;
        let (index, count) = (raw.index.get(), raw.count.get());
        let Some(stride) = entries_size.checked_div(count) else {
            return Ok(IoFdsReply { index, ..IoFdsReply::default() });
        };
        if stride < IoFdLayout::Standard.stride() {
            return Err(Errno::EINVAL);
        }
        let is_wide = stride >= IoFdLayout::Wide.stride();
        let layout = if is_wide { IoFdLayout::Wide } else { IoFdLayout::Standard };
        if rest.is_empty() {
            return Ok(IoFdsReply { index, layout, entries: Vec::new(), truncated: Some(count) });
        }
        let (table, _) = take_bytes(rest, u64::from(stride) * u64::from(count))?;
        let mut entries = Vec::new();
        for entry in table.chunks_exact(stride as usize) {
            entries.extend(IoFd::parse(entry, layout)?);
        }
        let layout = if entries.is_empty() { IoFdLayout::Standard } else { layout };
        Ok(IoFdsReply { index, layout, entries, truncated: None })
    }

    /// Appends the payload with all entries; without them if `truncated` is set.
    pub fn emit(&self, out: &mut Vec<u8>) {
        self.emit_for(u32::MAX, out);
    }

    /// Appends the payload for a request with this `argsz`. If that is too small for the entries,
    /// only the fixed 16 bytes are sent, and the client asks again with more.
    ///
    /// Returns true if the reply is complete. Only then may it carry the fds.
    pub fn emit_for(&self, argsz: u32, out: &mut Vec<u8>) -> bool {
        let full_size = self.full_size();
        let is_complete = argsz >= full_size && self.truncated.is_none();
        put_head(out, full_size, self.index, self.count());
        if is_complete {
            for entry in &self.entries {
                entry.emit(self.layout, out);
            }
        }
        is_complete
    }
}

impl IoFd {
    /// Reads an entry of at least the size that `layout` says. `Ok(None)` for an unknown type.
    fn parse(entry: &[u8], layout: IoFdLayout) -> Result<Option<IoFd>, Errno> {
        let (raw, rest) = take::<RawEntry>(entry)?;
        let value = raw.value.get();
        // The wide layout has the data to match behind the common 40 bytes.
        let (shadow_offset, datamatch) = match layout {
            IoFdLayout::Standard => (0, value),
            IoFdLayout::Wide => (value, take::<U64>(rest)?.0.get()),
        };
        let kind = match raw.kind.get() {
            TYPE_IOEVENTFD => IoFdKind::IoEventFd { datamatch },
            TYPE_IOREGIONFD => IoFdKind::IoRegionFd { user_data: value },
            TYPE_SHADOW => IoFdKind::ShadowIoEventFd {
                datamatch,
                shadow_fd_index: raw.shadow_fd_index.get(),
                shadow_offset,
            },
            _ => return Ok(None),
        };
        Ok(Some(IoFd {
            offset: raw.offset.get(),
            size: raw.size.get(),
            fd_index: raw.fd_index.get(),
            flags: IoFdFlags::from_bits_retain(raw.flags.get()),
            kind,
        }))
    }

    fn emit(&self, layout: IoFdLayout, out: &mut Vec<u8>) {
        let is_wide = layout == IoFdLayout::Wide;
        let (kind, shadow_fd_index, value, tail) = match self.kind {
            IoFdKind::IoEventFd { datamatch } if is_wide => (TYPE_IOEVENTFD, 0, 0, datamatch),
            IoFdKind::IoEventFd { datamatch } => (TYPE_IOEVENTFD, 0, datamatch, 0),
            IoFdKind::IoRegionFd { user_data } => (TYPE_IOREGIONFD, 0, user_data, 0),
            IoFdKind::ShadowIoEventFd { datamatch, shadow_fd_index, shadow_offset } => {
                let value = if is_wide { shadow_offset } else { datamatch };
                (TYPE_SHADOW, shadow_fd_index, value, datamatch)
            }
        };
        put(
            out,
            &RawEntry {
                offset: self.offset.into(),
                size: self.size.into(),
                fd_index: self.fd_index.into(),
                kind: kind.into(),
                flags: self.flags.bits().into(),
                shadow_fd_index: shadow_fd_index.into(),
                value: value.into(),
            },
        );
        if is_wide {
            put(out, &U64::new(tail));
        }
    }
}

fn put_head(out: &mut Vec<u8>, argsz: u32, index: u32, count: u32) {
    put(
        out,
        &RawHead {
            argsz: argsz.into(),
            flags: U32::ZERO,
            index: index.into(),
            count: count.into(),
        },
    );
}
