//! The request DEVICE_FEATURE (specification, VFIO_USER_DEVICE_FEATURE).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::raw::{check_range, len32, need, put, take, take_table};
use super::{DeviceState, Errno};

/// Size of the part that all requests and replies have.
pub(super) const HEAD_SIZE: u32 = 8;

const INDEX_MASK: u32 = 0xffff;
pub(super) const GET: u32 = 1 << 16;
pub(super) const SET: u32 = 1 << 17;
pub(super) const PROBE: u32 = 1 << 18;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHead {
    pub(super) argsz: U32,
    pub(super) flags: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawState {
    pub(super) state: U32,
    pub(super) data_fd: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawStart {
    page_size: U64,
    num_ranges: U32,
    reserved: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawReport {
    pub(super) iova: U64,
    pub(super) length: U64,
    pub(super) page_size: U64,
}

flags! {
    /// Which ways of migration a device supports.
    pub struct MigrationFlags(u64) {
        /// Its state can be read while it is stopped.
        STOP_COPY = 1 << 0;
        /// It knows the states without peer-to-peer DMA.
        P2P = 1 << 1;
        /// Its state can also be read while it runs.
        PRE_COPY = 1 << 2;
    }
}

/// A feature of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u16)]
pub enum Feature {
    /// Which ways of migration there are. Get.
    Migration = 1,
    /// The migration state. Get, set.
    DeviceState = 2,
    /// Starts the logging of dirty pages. Set.
    LoggingStart = 6,
    /// Stops it. Set.
    LoggingStop = 7,
    /// Reads what was logged, and clears it. Get.
    LoggingReport = 8,
}

impl Feature {
    /// Every feature, in the order of their numbers.
    pub const ALL: [Feature; 5] = [
        Feature::Migration,
        Feature::DeviceState,
        Feature::LoggingStart,
        Feature::LoggingStop,
        Feature::LoggingReport,
    ];

    /// The feature with this index, if there is one.
    pub fn from_u16(index: u16) -> Option<Feature> {
        Feature::ALL.into_iter().find(|feature| feature.as_u16() == index)
    }

    /// The index on the wire.
    pub const fn as_u16(self) -> u16 {
        self as u16
    }

    /// True if the feature can be read.
    pub const fn has_get(self) -> bool {
        matches!(self, Feature::Migration | Feature::DeviceState | Feature::LoggingReport)
    }

    /// True if the feature can be written.
    pub const fn has_set(self) -> bool {
        matches!(self, Feature::DeviceState | Feature::LoggingStart | Feature::LoggingStop)
    }
}

/// Size in bytes of the bitmap for `length` bytes with one bit for each `page_size` bytes: whole
/// 64-bit words.
///
/// # Errors
/// [`Errno::EINVAL`] for a page size that is no power of two. (The result is at most 2^61, so it
/// never wraps; whether it is sent is another question.)
pub fn bitmap_len(length: u64, page_size: u64) -> Result<u64, Errno> {
    if !page_size.is_power_of_two() {
        return Err(Errno::EINVAL);
    }
    Ok(length.div_ceil(page_size).div_ceil(64) * 8)
}

/// What DEVICE_FEATURE asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FeatureOp<'a> {
    /// Does the device have the feature, and these ways to use it?
    Probe {
        /// The feature. It has the ways that are asked for; whether this device has it is still
        /// to be checked.
        feature: Feature,
        /// Can it be read?
        get: bool,
        /// Can it be written?
        set: bool,
    },
    /// Which ways of migration are there?
    GetMigration,
    /// In which state is the device?
    GetDeviceState,
    /// Change the state.
    SetDeviceState {
        /// The target; [`DeviceState::is_requestable`] is true.
        state: DeviceState,
        /// Not used by the protocol; repeated in the reply.
        data_fd: u32,
    },
    /// Start to log which pages the device writes.
    SetLoggingStart {
        /// Bytes for one bit of the log: a power of two.
        page_size: u64,
        /// Where to log; everywhere if there are no ranges.
        ranges: LoggingRanges<'a>,
    },
    /// Stop to log.
    SetLoggingStop,
    /// Which pages of a range were written? And forget it.
    GetLoggingReport {
        /// The first IOVA.
        iova: u64,
        /// Length in bytes, never 0. The range does not wrap.
        length: u64,
        /// Bytes for one bit of the reply: a power of two, at most `length`.
        page_size: u64,
    },
}

/// The request DEVICE_FEATURE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeatureRequest<'a> {
    /// Largest reply payload that the sender can take, in bytes. The reply fits.
    pub argsz: u32,
    /// What is asked for.
    pub op: FeatureOp<'a>,
}

impl<'a> FeatureRequest<'a> {
    /// A request with the `argsz` that its reply needs.
    pub fn new(op: FeatureOp<'a>) -> FeatureRequest<'a> {
        FeatureRequest { argsz: u32::try_from(op.argsz_needed()).unwrap_or(u32::MAX), op }
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for unknown features, methods and flags; get and set together (other than
    /// to probe) or neither; data that is too short, or for LOGGING_START not of exactly the
    /// length that its ranges need; an `argsz` below the reply, or for a set below the request; a
    /// state that nobody may ask for; page sizes that are no power of two; ranges that are empty
    /// or wrap.
    pub fn parse(payload: &'a [u8]) -> Result<FeatureRequest<'a>, Errno> {
        let (raw, data) = take::<RawHead>(payload)?;
        let flags = raw.flags.get();
        let op = FeatureOp::parse(flags, data)?;
        let request = FeatureRequest { argsz: raw.argsz.get(), op };
        need(request.argsz, op.argsz_needed())?;
        if flags & (SET | PROBE) == SET {
            need(request.argsz, payload.len() as u64)?;
        }
        Ok(request)
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_head(out, self.argsz, self.op.flags());
        match self.op {
            FeatureOp::SetDeviceState { state, data_fd } => put_state(out, state, data_fd),
            FeatureOp::SetLoggingStart { page_size, ranges } => {
                put_start(out, page_size, ranges);
            }
            FeatureOp::GetLoggingReport { iova, length, page_size } => {
                put_report(out, iova, length, page_size);
            }
            FeatureOp::Probe { .. }
            | FeatureOp::GetMigration
            | FeatureOp::GetDeviceState
            | FeatureOp::SetLoggingStop => {}
        }
    }
}

impl<'a> FeatureOp<'a> {
    /// The feature that it is about.
    pub fn feature(&self) -> Feature {
        match self {
            FeatureOp::Probe { feature, .. } => *feature,
            FeatureOp::GetMigration => Feature::Migration,
            FeatureOp::GetDeviceState | FeatureOp::SetDeviceState { .. } => Feature::DeviceState,
            FeatureOp::SetLoggingStart { .. } => Feature::LoggingStart,
            FeatureOp::SetLoggingStop => Feature::LoggingStop,
            FeatureOp::GetLoggingReport { .. } => Feature::LoggingReport,
        }
    }

    fn parse(flags: u32, data: &'a [u8]) -> Result<FeatureOp<'a>, Errno> {
        let (feature, get, set, probe) = split_flags(flags)?;
        if (get && !feature.has_get()) || (set && !feature.has_set()) {
            return Err(Errno::EINVAL);
        }
        if probe {
            return Ok(FeatureOp::Probe { feature, get, set });
        }
        if get == set {
            return Err(Errno::EINVAL);
        }
        match feature {
            Feature::Migration => Ok(FeatureOp::GetMigration),
            Feature::DeviceState if get => Ok(FeatureOp::GetDeviceState),
            Feature::DeviceState => {
                let (raw, _) = take::<RawState>(data)?;
                let state = DeviceState::from_u32(raw.state.get())
                    .filter(|state| state.is_requestable())
                    .ok_or(Errno::EINVAL)?;
                Ok(FeatureOp::SetDeviceState { state, data_fd: raw.data_fd.get() })
            }
            Feature::LoggingStart => {
                let (page_size, ranges, rest) = take_start(data)?;
                if !rest.is_empty() || !page_size.is_power_of_two() {
                    return Err(Errno::EINVAL);
                }
                ranges.entries.iter().try_for_each(LoggingRange::check)?;
                Ok(FeatureOp::SetLoggingStart { page_size, ranges })
            }
            Feature::LoggingStop => Ok(FeatureOp::SetLoggingStop),
            Feature::LoggingReport => {
                let (raw, _) = take::<RawReport>(data)?;
                let (iova, length) = (raw.iova.get(), raw.length.get());
                let page_size = raw.page_size.get();
                check_range(iova, length)?;
                if !page_size.is_power_of_two() || page_size > length {
                    return Err(Errno::EINVAL);
                }
                Ok(FeatureOp::GetLoggingReport { iova, length, page_size })
            }
        }
    }

    fn flags(&self) -> u32 {
        let method = match self {
            FeatureOp::Probe { get, set, .. } => probe_flags(*get, *set),
            FeatureOp::GetMigration
            | FeatureOp::GetDeviceState
            | FeatureOp::GetLoggingReport { .. } => GET,
            FeatureOp::SetDeviceState { .. }
            | FeatureOp::SetLoggingStart { .. }
            | FeatureOp::SetLoggingStop => SET,
        };
        method | u32::from(self.feature().as_u16())
    }

    /// Size of the payload of the reply in bytes.
    fn argsz_needed(&self) -> u64 {
        let data = match self {
            FeatureOp::Probe { .. } | FeatureOp::SetLoggingStop => 0,
            FeatureOp::GetMigration => size_of::<U64>() as u64,
            FeatureOp::GetDeviceState | FeatureOp::SetDeviceState { .. } => {
                size_of::<RawState>() as u64
            }
            FeatureOp::SetLoggingStart { ranges, .. } => ranges.data_size(),
            FeatureOp::GetLoggingReport { length, page_size, .. } => {
                // A page size that `parse` refuses needs no room, as there will be no reply.
                bitmap_len(*length, *page_size).unwrap_or(0) + size_of::<RawReport>() as u64
            }
        };
        u64::from(HEAD_SIZE) + data
    }
}

/// A range of addresses to log, as it is on the wire: 16 bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct LoggingRange {
    iova: U64,
    length: U64,
}

impl LoggingRange {
    /// The range `[iova, iova + length)`; both in bytes.
    pub fn new(iova: u64, length: u64) -> LoggingRange {
        LoggingRange { iova: iova.into(), length: length.into() }
    }

    /// The first IOVA.
    pub fn iova(&self) -> u64 {
        self.iova.get()
    }

    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.length.get()
    }

    fn check(&self) -> Result<(), Errno> {
        check_range(self.iova(), self.length())
    }
}

/// The ranges of LOGGING_START.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoggingRanges<'a> {
    entries: &'a [LoggingRange],
}

impl<'a> LoggingRanges<'a> {
    /// These ranges.
    pub fn new(entries: &'a [LoggingRange]) -> LoggingRanges<'a> {
        LoggingRanges { entries }
    }

    /// The ranges as a slice. After parsing a request, none of them is empty or wraps.
    pub fn entries(&self) -> &'a [LoggingRange] {
        self.entries
    }

    /// True if there are none: then everything is logged.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Walks over the ranges.
    pub fn iter(&self) -> std::slice::Iter<'a, LoggingRange> {
        self.entries.iter()
    }

    pub(super) fn data_size(&self) -> u64 {
        (size_of::<RawStart>() + size_of_val(self.entries)) as u64
    }
}

impl<'a> IntoIterator for LoggingRanges<'a> {
    type Item = &'a LoggingRange;
    type IntoIter = std::slice::Iter<'a, LoggingRange>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

/// The feature, and whether GET, SET and PROBE are set.
pub(super) fn split_flags(flags: u32) -> Result<(Feature, bool, bool, bool), Errno> {
    if flags & !(INDEX_MASK | GET | SET | PROBE) != 0 {
        return Err(Errno::EINVAL);
    }
    let index = (flags & INDEX_MASK) as u16;
    let feature = Feature::from_u16(index).ok_or(Errno::EINVAL)?;
    Ok((feature, flags & GET != 0, flags & SET != 0, flags & PROBE != 0))
}

pub(super) fn probe_flags(get: bool, set: bool) -> u32 {
    PROBE | if get { GET } else { 0 } | if set { SET } else { 0 }
}

/// Page size and ranges of LOGGING_START, and what follows.
pub(super) fn take_start(data: &[u8]) -> Result<(u64, LoggingRanges<'_>, &[u8]), Errno> {
    let (raw, rest) = take::<RawStart>(data)?;
    let (entries, rest) = take_table::<LoggingRange>(rest, raw.num_ranges.get().into())?;
    Ok((raw.page_size.get(), LoggingRanges { entries }, rest))
}

pub(super) fn put_head(out: &mut Vec<u8>, argsz: u32, flags: u32) {
    put(out, &RawHead { argsz: argsz.into(), flags: flags.into() });
}

pub(super) fn put_state(out: &mut Vec<u8>, state: DeviceState, data_fd: u32) {
    put(out, &RawState { state: state.as_u32().into(), data_fd: data_fd.into() });
}

pub(super) fn put_start(out: &mut Vec<u8>, page_size: u64, ranges: LoggingRanges<'_>) {
    let num_ranges = len32(ranges.entries.len()).into();
    put(out, &RawStart { page_size: page_size.into(), num_ranges, reserved: U32::ZERO });
    put(out, ranges.entries);
}

pub(super) fn put_report(out: &mut Vec<u8>, iova: u64, length: u64, page_size: u64) {
    put(out, &RawReport { iova: iova.into(), length: length.into(), page_size: page_size.into() });
}
