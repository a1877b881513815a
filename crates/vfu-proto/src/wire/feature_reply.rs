//! The reply to DEVICE_FEATURE (specification, VFIO_USER_DEVICE_FEATURE).

use zerocopy::little_endian::U64;

use super::feature::{
    GET, HEAD_SIZE, RawHead, RawReport, RawState, SET, probe_flags, put_head, put_report,
    put_start, put_state, split_flags, take_start,
};
use super::raw::{len32, put, take, take_bytes};
use super::{DeviceState, Errno, Feature, LoggingRanges, MigrationFlags, bitmap_len};

/// What DEVICE_FEATURE answers. Sets and probes are repeated, sometimes with changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FeatureResult<'a> {
    /// The device has the feature and all the ways to use it that were asked for.
    Probe {
        /// The feature.
        feature: Feature,
        /// It can be read.
        get: bool,
        /// It can be written.
        set: bool,
    },
    /// The ways of migration that there are.
    GetMigration {
        /// The ways.
        flags: MigrationFlags,
    },
    /// The state of the device.
    GetDeviceState {
        /// The state.
        state: DeviceState,
        /// Not used by the protocol.
        data_fd: u32,
    },
    /// The state was changed.
    SetDeviceState {
        /// The new state.
        state: DeviceState,
        /// Not used by the protocol.
        data_fd: u32,
    },
    /// Logging has started.
    SetLoggingStart {
        /// Bytes for one bit of the log, which need not be those that were asked for.
        page_size: u64,
        /// Where it logs.
        ranges: LoggingRanges<'a>,
    },
    /// Logging has stopped.
    SetLoggingStop,
    /// The pages that were written.
    GetLoggingReport {
        /// The first IOVA.
        iova: u64,
        /// Length in bytes.
        length: u64,
        /// Bytes for one bit.
        page_size: u64,
        /// The bits, [`bitmap_len`] bytes; that of page `p` is bit `p % 8` of byte `p / 8`. Bits
        /// beyond the range mean nothing.
        bitmap: &'a [u8],
    },
}

/// The reply to DEVICE_FEATURE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeatureReply<'a> {
    /// Size of the payload for a get; the request's value for what is repeated.
    pub argsz: u32,
    /// The answer.
    pub result: FeatureResult<'a>,
}

impl<'a> FeatureReply<'a> {
    /// A reply whose `argsz` is its size.
    pub fn new(result: FeatureResult<'a>) -> FeatureReply<'a> {
        FeatureReply { argsz: result.size(), result }
    }

    /// Reads the payload. Whether it fits the request is for the asker to check.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for unknown features, flags and states, and for data that is too short.
    pub fn parse(payload: &'a [u8]) -> Result<FeatureReply<'a>, Errno> {
        let (raw, data) = take::<RawHead>(payload)?;
        let result = FeatureResult::parse(raw.flags.get(), data)?;
        Ok(FeatureReply { argsz: raw.argsz.get(), result })
    }

    /// Appends what stands before the bitmap in a report on dirty pages. The bitmap, of
    /// [`bitmap_len`] bytes, is for the caller to append.
    pub fn emit_report_head(iova: u64, length: u64, page_size: u64, out: &mut Vec<u8>) {
        let bitmap = bitmap_len(length, page_size).unwrap_or(0);
        let size = u64::from(HEAD_SIZE) + size_of::<RawReport>() as u64 + bitmap;
        let argsz = u32::try_from(size).unwrap_or(u32::MAX);
        put_head(out, argsz, GET | u32::from(Feature::LoggingReport.as_u16()));
        put_report(out, iova, length, page_size);
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_head(out, self.argsz, self.result.flags());
        match self.result {
            FeatureResult::Probe { .. } | FeatureResult::SetLoggingStop => {}
            FeatureResult::GetMigration { flags } => put(out, &U64::new(flags.bits())),
            FeatureResult::GetDeviceState { state, data_fd }
            | FeatureResult::SetDeviceState { state, data_fd } => put_state(out, state, data_fd),
            FeatureResult::SetLoggingStart { page_size, ranges } => {
                put_start(out, page_size, ranges);
            }
            FeatureResult::GetLoggingReport { iova, length, page_size, bitmap } => {
                put_report(out, iova, length, page_size);
                out.extend_from_slice(bitmap);
            }
        }
    }
}

impl<'a> FeatureResult<'a> {
    /// The feature that it is about.
    pub fn feature(&self) -> Feature {
        match self {
            FeatureResult::Probe { feature, .. } => *feature,
            FeatureResult::GetMigration { .. } => Feature::Migration,
            FeatureResult::GetDeviceState { .. } | FeatureResult::SetDeviceState { .. } => {
                Feature::DeviceState
            }
            FeatureResult::SetLoggingStart { .. } => Feature::LoggingStart,
            FeatureResult::SetLoggingStop => Feature::LoggingStop,
            FeatureResult::GetLoggingReport { .. } => Feature::LoggingReport,
        }
    }

    fn parse(flags: u32, data: &'a [u8]) -> Result<FeatureResult<'a>, Errno> {
        let (feature, get, set, probe) = split_flags(flags)?;
        if probe {
            return Ok(FeatureResult::Probe { feature, get, set });
        }
        match (feature, get, set) {
            (Feature::Migration, true, false) => {
                let (flags, _) = take::<U64>(data)?;
                let flags = MigrationFlags::from_bits_retain(flags.get());
                Ok(FeatureResult::GetMigration { flags })
            }
            (Feature::DeviceState, true, false) => {
                let (state, data_fd) = take_state(data)?;
                Ok(FeatureResult::GetDeviceState { state, data_fd })
            }
            (Feature::DeviceState, false, true) => {
                let (state, data_fd) = take_state(data)?;
                Ok(FeatureResult::SetDeviceState { state, data_fd })
            }
            (Feature::LoggingStart, false, true) => {
                let (page_size, ranges, _) = take_start(data)?;
                Ok(FeatureResult::SetLoggingStart { page_size, ranges })
            }
            (Feature::LoggingStop, false, true) => Ok(FeatureResult::SetLoggingStop),
            (Feature::LoggingReport, true, false) => {
                let (raw, rest) = take::<RawReport>(data)?;
                let (length, page_size) = (raw.length.get(), raw.page_size.get());
                let (bitmap, _) = take_bytes(rest, bitmap_len(length, page_size)?)?;
                let iova = raw.iova.get();
                Ok(FeatureResult::GetLoggingReport { iova, length, page_size, bitmap })
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn flags(&self) -> u32 {
        let method = match self {
            FeatureResult::Probe { get, set, .. } => probe_flags(*get, *set),
            FeatureResult::GetMigration { .. }
            | FeatureResult::GetDeviceState { .. }
            | FeatureResult::GetLoggingReport { .. } => GET,
            FeatureResult::SetDeviceState { .. }
            | FeatureResult::SetLoggingStart { .. }
            | FeatureResult::SetLoggingStop => SET,
        };
        method | u32::from(self.feature().as_u16())
    }

    fn size(&self) -> u32 {
        let data = match self {
            FeatureResult::Probe { .. } | FeatureResult::SetLoggingStop => 0,
            FeatureResult::GetMigration { .. } => size_of::<U64>(),
            FeatureResult::GetDeviceState { .. } | FeatureResult::SetDeviceState { .. } => {
                size_of::<RawState>()
            }
            FeatureResult::SetLoggingStart { ranges, .. } => ranges.data_size() as usize,
            FeatureResult::GetLoggingReport { bitmap, .. } => size_of::<RawReport>() + bitmap.len(),
        };
        len32(data).saturating_add(HEAD_SIZE)
    }
}

fn take_state(data: &[u8]) -> Result<(DeviceState, u32), Errno> {
    let (raw, _) = take::<RawState>(data)?;
    let state = DeviceState::from_u32(raw.state.get()).ok_or(Errno::EINVAL)?;
    Ok((state, raw.data_fd.get()))
}
