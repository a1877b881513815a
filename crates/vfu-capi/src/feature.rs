//! Migration: states, the program's data, and which pages it wrote.

use std::ffi::c_int;

use vfu::wire::{
    DeviceState, Errno, Feature, FeatureOp, FeatureReply, FeatureRequest, FeatureResult,
    MigDataReadRequest, MigDataWriteRequest, MigrationFlags, next_hop,
};

use crate::ctx::Context;
use crate::errno::{EINVAL, ENOMEM, checked};
use crate::setup::Migration;

/// What stands before the bitmap of a report.
const HEAD: usize = 32;

impl Context {
    fn migration(&self) -> Result<Migration, c_int> {
        self.setup().migration.ok_or(EINVAL)
    }

    pub(crate) fn feature(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), c_int> {
        let migration = self.migration()?;
        let request = FeatureRequest::parse(payload).map_err(Errno::raw)?;
        let needs_dma = matches!(
            request.op.feature(),
            Feature::LoggingStart | Feature::LoggingStop | Feature::LoggingReport
        );
        if needs_dma && self.dma().is_none() {
            return Err(EINVAL);
        }
        // Some of it is sent back.
        out.try_reserve(payload.len()).map_err(|_| ENOMEM)?;
        match request.op {
            FeatureOp::Probe { .. } => out.extend_from_slice(payload),
            FeatureOp::GetMigration => {
                let flags = MigrationFlags::STOP_COPY | MigrationFlags::PRE_COPY;
                FeatureReply::new(FeatureResult::GetMigration { flags }).emit(out);
            }
            FeatureOp::GetDeviceState => {
                let state = migration.state;
                FeatureReply::new(FeatureResult::GetDeviceState { state, data_fd: 0 }).emit(out);
            }
            FeatureOp::SetDeviceState { state, .. } => {
                self.go(state)?;
                out.extend_from_slice(payload);
            }
            FeatureOp::SetLoggingStart { page_size, .. } => {
                self.start_logging(page_size)?;
                out.extend_from_slice(payload);
            }
            FeatureOp::SetLoggingStop => {
                self.stop_logging();
                out.extend_from_slice(payload);
            }
            FeatureOp::GetLoggingReport { iova, length, page_size } => {
                let bitmap = self.report(iova, length, page_size)?;
                out.try_reserve(HEAD + bitmap.len()).map_err(|_| ENOMEM)?;
                let result =
                    FeatureResult::GetLoggingReport { iova, length, page_size, bitmap: &bitmap };
                FeatureReply::new(result).emit(out);
            }
        }
        Ok(())
    }

    /// Takes the device to a state, step by step. If one fails it stays where it has come to.
    fn go(&self, target: DeviceState) -> Result<(), c_int> {
        loop {
            let Migration { callbacks, state } = self.migration()?;
            let Some(next) = next_hop(state, target).map_err(Errno::raw)? else { return Ok(()) };
            if let (Some(transition), Some(number)) = (callbacks.transition, number_of(next)) {
                self.station().notify(|| {
                    // SAFETY: the program's callback, called as the header says.
                    checked(|| unsafe { transition(self.as_ptr(), number) })
                })?;
            }
            if let Some(migration) = &mut self.setup().migration {
                migration.state = next;
            }
        }
    }

    /// The client has gone: its session of saving or loading ends, and only a reset leads out of a device
    /// that is loaded by half. The program hears of it by a reset.
    pub(crate) fn leave_migration(&self) {
        if let Some(migration) = &mut self.setup().migration {
            migration.state = match migration.state {
                DeviceState::PreCopy => DeviceState::Running,
                DeviceState::StopCopy => DeviceState::Stop,
                DeviceState::Resuming => DeviceState::Error,
                state => state,
            };
        }
    }

    /// The device was reset, and runs.
    pub(crate) fn end_migration(&self) {
        if let Some(migration) = &mut self.setup().migration {
            migration.state = DeviceState::Running;
        }
    }

    pub(crate) fn mig_data_read(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), c_int> {
        let Migration { callbacks, state } = self.migration()?;
        let request = MigDataReadRequest::parse(payload).map_err(Errno::raw)?;
        let size = request.size as usize;
        if !matches!(state, DeviceState::PreCopy | DeviceState::StopCopy) || size > self.most() {
            return Err(EINVAL);
        }
        let start = out.len();
        out.try_reserve(8 + size).map_err(|_| ENOMEM)?;
        out.resize(start + 8 + size, 0);
        let read = callbacks.read_data.ok_or(EINVAL)?;
        let got = self.station().handle(|| {
            let to = out[start + 8..].as_mut_ptr();
            // SAFETY: the program's callback, with room for `size` bytes.
            checked(|| unsafe { read(self.as_ptr(), to.cast(), size as u64) } as i64)
        })?;
        let got = usize::try_from(got).ok().filter(|got| *got <= size).ok_or(EINVAL)?;
        out.truncate(start + 8 + got);
        // argsz and size.
        out[start..start + 4].copy_from_slice(&(8 + got as u32).to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&(got as u32).to_le_bytes());
        Ok(())
    }

    pub(crate) fn mig_data_write(&self, payload: &[u8]) -> Result<(), c_int> {
        let Migration { callbacks, state } = self.migration()?;
        let request = MigDataWriteRequest::parse(payload).map_err(Errno::raw)?;
        if state != DeviceState::Resuming || request.data.len() > self.most() {
            return Err(EINVAL);
        }
        let mut data = Vec::new();
        data.try_reserve_exact(request.data.len()).map_err(|_| ENOMEM)?;
        data.extend_from_slice(request.data);
        let write = callbacks.write_data.ok_or(EINVAL)?;
        let taken = self.station().handle(|| {
            // SAFETY: the program's callback, with bytes of its own.
            checked(|| unsafe { write(self.as_ptr(), data.as_mut_ptr().cast(), data.len() as u64) }
                as i64)
        })?;
        if taken == data.len() as i64 { Ok(()) } else { Err(EINVAL) }
    }

    /// The most data in one message.
    fn most(&self) -> usize {
        self.session().map_or(0, |session| session.max_transfer(self.station()))
    }
}

/// `vfu_migr_state_t`.
fn number_of(state: DeviceState) -> Option<c_int> {
    match state {
        DeviceState::Stop => Some(0),
        DeviceState::Running => Some(1),
        DeviceState::StopCopy => Some(2),
        DeviceState::PreCopy => Some(3),
        DeviceState::Resuming => Some(4),
        _ => None,
    }
}
