//! Messages as typed views over bytes.
//!
//! Bytes become a typed [`Request`] or [`Reply`] once, at the door. Every check that needs nothing
//! but the message itself (sizes, `argsz`, unknown flags, ranges that wrap, counts against the
//! payload) is made by `parse`, which answers with the [`Errno`] that the sender shall see. What
//! depends on the device or on the session (does the region exist? is the range mapped? is the
//! transfer too large?) is left to whoever knows it.
//!
//! ```text
//!   +-- 16 bytes --+----------- size - 16 -----------+
//!   |    Header    | payload: Request::parse, emit   |
//!   +--------------+---------------------------------+
//! ```
//!
//! * `parse` borrows bulk data from the payload. It never allocates by a length that a peer claims.
//! * `emit` appends the payload to a buffer; the header is written by [`Header::emit`].
//! * Bytes behind the last field are ignored, except where the protocol forbids them.
//! * All integers are little-endian, as on every host that speaks the protocol today.

#[macro_use]
mod flags;

mod caps;
mod command;
mod dma;
mod dma_access;
mod errno;
mod feature;
mod feature_reply;
mod header;
mod info;
mod iofds;
mod irq;
mod migration;
mod raw;
mod region;
mod region_caps;
mod reply;
mod request;
mod version;
mod write_multi;

pub use caps::{
    Capabilities, DEFAULT_MAX_DATA_XFER_SIZE, DEFAULT_MAX_DMA_MAPS, DEFAULT_MAX_MSG_FDS,
    DEFAULT_PGSIZES, MAX_JSON_DEPTH, MAX_JSON_LEN, MigrationCaps, TwinSocket,
};
pub use command::Command;
pub use dma::{
    AccessMode, DirtyBitmap, DmaMap, DmaMapFlags, DmaUnmapFlags, DmaUnmapReply, DmaUnmapRequest,
    UnmapWhat,
};
pub use dma_access::{DmaReadReply, DmaReadRequest, DmaWriteReply, DmaWriteRequest};
pub use errno::Errno;
pub use feature::{
    Feature, FeatureOp, FeatureRequest, LoggingRange, LoggingRanges, MigrationFlags, bitmap_len,
};
pub use feature_reply::{FeatureReply, FeatureResult};
pub use header::{HEADER_SIZE, Header, Kind};
pub use info::{DeviceFlags, DeviceInfo, DeviceInfoRequest, RegionInfo, RegionInfoRequest};
pub use iofds::{IoFd, IoFdFlags, IoFdKind, IoFdLayout, IoFdsReply, IoFdsRequest};
pub use irq::{IrqAction, IrqData, IrqFlags, IrqInfo, IrqInfoRequest, SetIrqs};
pub use migration::{
    DeviceState, MigDataReadReply, MigDataReadRequest, MigDataWriteRequest, next_hop,
};
pub use region::{RegionReadReply, RegionReadRequest, RegionWriteReply, RegionWriteRequest};
pub use region_caps::{Area, FdArea, RegionCapability, RegionFlags};
pub use reply::Reply;
pub use request::Request;
pub use version::Version;
pub use write_multi::{WriteEntry, WriteMulti, WriteMultiReply};
