//! The peer's memory, as the device reaches it.

mod addresses;
mod copy;
pub(crate) mod dirty;
mod entry;
mod file;
mod future;
mod guard;
mod index;
mod lease;
mod mapping;
mod message;
mod pin;
mod policy;
mod region;
mod span;
mod table;
mod transfer;

use std::sync::Arc;

use vfu_proto::session::{Abort, Start};
use vfu_proto::wire::Errno;

use crate::link::RequestError;
use crate::shared::Shared;

pub(crate) use file::File;
pub(crate) use future::run as run_to_end;
pub(crate) use mapping::{Mapping, Wanted};
pub(crate) use region::{Backing, Region};
pub(crate) use table::{Inserted, Table};
pub(crate) use transfer::{Buffer, How, Transfer, copy_at_once};

pub use future::DmaFuture;
pub use lease::Lease;
pub use pin::{Pinned, Slice};
pub use policy::MemoryPolicy;

/// Which way bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the peer's memory to the device.
    Read,
    /// From the device to the peer's memory.
    Write,
}

/// Why a DMA did not happen, or not wholly.
// With a whole word to tell them apart: what shares its place in a `Result` is moved in whole words, too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u64)]
pub enum DmaError {
    /// The peer has mapped nothing at this address.
    #[error("address {address:#x} is not mapped for DMA")]
    NotMapped {
        /// The first address without a mapping.
        address: u64,
    },
    /// The peer does not allow this direction there.
    #[error("the mapping of address {address:#x} does not allow a {direction:?}")]
    Permission {
        /// The first address that is not allowed.
        address: u64,
        /// What was tried.
        direction: Direction,
    },
    /// The driver has not set Bus Master Enable in the Command register, or the function is not in D0.
    #[error(
        "the driver has not enabled bus mastering (Command register, bit 2), or has put the device \
         to sleep"
    )]
    BusMasterDisabled,
    /// The memory could not be reached: past the end of the peer's file, which the peer may have moved,
    /// or an I/O error.
    #[error("the mapped file can't be accessed at {address:#x}: {errno}")]
    File {
        /// Where the access began.
        address: u64,
        /// What the system said; `EFAULT` past the end of the file.
        errno: Errno,
    },
    /// No client is connected, or it went away.
    #[error("no client is connected")]
    NotConnected,
    /// The peer did not answer in time.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// A reset, or the end of the mapping, came in between.
    #[error("canceled by a reset or an unmap")]
    Canceled,
    /// The device may not do it now: it is quiesced, or it asks from a callback that tells it of a
    /// reset or an unmap, which could wait for itself; or it may have to wait for the peer, and asks
    /// from within a [pin](Dma::pin).
    #[error(
        "no DMA while the device is quiesced, nor from a callback of a reset or an unmap; no \
         waiting for the peer while memory is pinned"
    )]
    Busy,
    /// A lease was asked for, or a slice of pinned memory, of memory that is not mapped into this
    /// process as a whole; or a slice of a file that may have whoever touches it wait.
    #[error("the memory at {address:#x} is not shared, or not in one mapping, or not in memory")]
    NotDirect {
        /// Where it was asked for.
        address: u64,
    },
    /// The peer answered without any data.
    #[error("the peer gave no data")]
    NoData,
    /// The peer refused.
    #[error("the peer refused: {0}")]
    Refused(Errno),
    /// The peer's answer makes no sense.
    #[error("the peer's answer does not fit the request: {0}")]
    Malformed(&'static str),
}

impl DmaError {
    /// The errno that stands for it, as the C interface reports it.
    pub fn errno(&self) -> Errno {
        match self {
            DmaError::NotMapped { .. } => Errno::EFAULT,
            DmaError::Permission { .. } => Errno::EFAULT,
            DmaError::BusMasterDisabled => Errno::EACCES,
            DmaError::File { errno, .. } | DmaError::Refused(errno) => *errno,
            DmaError::NotConnected => Errno::ENOTCONN,
            DmaError::TimedOut => Errno::ETIMEDOUT,
            DmaError::Canceled => Errno::ECANCELED,
            DmaError::Busy => Errno::EBUSY,
            DmaError::NotDirect { .. } => Errno::EFAULT,
            DmaError::NoData => Errno::EIO,
            DmaError::Malformed(_) => Errno::EPROTO,
        }
    }
}

impl From<RequestError> for DmaError {
    fn from(e: RequestError) -> Self {
        match e {
            RequestError::Aborted(Abort::TimedOut) => DmaError::TimedOut,
            RequestError::Aborted(Abort::Canceled) => DmaError::Canceled,
            RequestError::Aborted(Abort::WrongCommand) => DmaError::Malformed("another command"),
            RequestError::Aborted(Abort::Closed) => DmaError::NotConnected,
            RequestError::NotStarted(Start::Closed | Start::Full) => DmaError::NotConnected,
            RequestError::Gone => DmaError::Canceled,
        }
    }
}

/// The device's way to the peer's memory.
///
/// Cheap to clone, usable from any thread, and safe to keep: without a client every call ends with
/// [`DmaError::NotConnected`]. Addresses are IOVAs, in bytes, as the driver gave them to the
/// device. A range may span adjacent mappings of different kinds; permission is checked for the
/// whole before any byte moves.
///
/// Memory that the peer shared by file descriptor is copied directly,
/// [leased](Self::lease), or [pinned](Self::pin) for a moment. The rest moves by DMA_READ and DMA_WRITE messages (specification,
/// sections "VFIO_USER_DMA_READ" and "VFIO_USER_DMA_WRITE"), in pieces that the peer can take, several
/// of them under way at once. There are three ways to wait for them:
///
/// | way | for |
/// |---|---|
/// | [`read`](Self::read), [`write`](Self::write) | threads: they block |
/// | [`read_async`](Self::read_async), [`write_async`](Self::write_async) | tasks of any executor |
/// | [`read_then`](Self::read_then), [`write_then`](Self::write_then) | callbacks |
///
/// Which pages are written is logged by itself, for a client that wants to know.
///
/// Every one ends, whatever the peer does: with its reply, after the session's reply timeout
/// ([`DmaError::TimedOut`], 2 s by default), with a reset of the device or the end of the mapping
/// ([`DmaError::Canceled`]), or with the session. A reply that comes later changes nothing.
///
/// # In a handler
///
/// The handler of an access may call the blocking ways, too. The client's next commands wait
/// meanwhile, unless the device is a [`SharedDevice`](crate::SharedDevice); the client's own access
/// waits in any case. All DMA of one call of a handler may take 4 s together
/// ([`Limits::handler_timeout`](crate::Limits)), and a reset that is queued behind it ends it.
/// From a callback that tells of a reset or an unmap it is refused ([`DmaError::Busy`]).
///
/// **QEMU** answers no DMA message while it waits for an answer to an access of its own. So DMA by
/// message inside the handler of an access that the driver waits for ends with
/// [`DmaError::TimedOut`], and after that the guest goes on. In the handler of a posted write (which
/// memory BARs get) it works for a `SharedDevice`. On another thread it always works, and so it does
/// for memory that is shared (`memory-backend-memfd,share=on`).
#[derive(Clone, Debug)]
pub struct Dma {
    shared: Arc<Shared>,
}

impl Dma {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Dma { shared }
    }

    /// Fills `to` from the peer's memory at `address`.
    ///
    /// # Errors
    /// See [`DmaError`]; `to` may then be filled in part.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError> {
        if copy_at_once(&self.shared, address, Buffer::Read(to)) {
            return Ok(());
        }
        Transfer::new(&self.shared, address, Buffer::Read(to)).block()
    }

    /// Writes `from` to the peer's memory at `address`. When it returns the peer can see it.
    ///
    /// # Errors
    /// See [`DmaError`]; a part may have been written.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        if copy_at_once(&self.shared, address, Buffer::Write(from)) {
            return Ok(());
        }
        Transfer::new(&self.shared, address, Buffer::Write(from)).block()
    }

    /// As [`read`](Self::read), without blocking.
    pub fn read_async<'a>(&'a self, address: u64, to: &'a mut [u8]) -> DmaFuture<'a> {
        DmaFuture::new(Transfer::new(&self.shared, address, Buffer::Read(to)))
    }

    /// As [`write`](Self::write), without blocking.
    pub fn write_async<'a>(&'a self, address: u64, from: &'a [u8]) -> DmaFuture<'a> {
        DmaFuture::new(Transfer::new(&self.shared, address, Buffer::Write(from)))
    }
}

fn file_error(address: u64, e: rustix::io::Errno) -> DmaError {
    DmaError::File { address, errno: Errno::from_raw(e.raw_os_error()) }
}
