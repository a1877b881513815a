//! Dirty page logging, as the server serves it (specification, "VFIO_USER_DEVICE_FEATURE",
//! "VFIO_USER_DMA_UNMAP").
//!
//! It does not depend on the device, nor on the state of its migration. Everything is logged,
//! whatever ranges the client names. Mappings that are reached by messages are always clean: the
//! client itself writes there.

use std::sync::Arc;

use vfu_proto::wire::{
    DmaUnmapReply, Errno, Feature, FeatureOp, FeatureReply, FeatureRequest, FeatureResult,
    LoggingRanges,
};

use super::executor::Executor;
use crate::dma::Region;
use crate::dma::dirty::{Grid, Picture};

/// More than there is in a reply besides a bitmap, or ranges.
const FIXED: usize = 64;

/// The reply to a DMA_UNMAP, once the mappings are unused.
#[derive(Debug)]
pub(super) struct Unmapped {
    reply: DmaUnmapReply<'static>,
    dirty: Option<Dirty>,
}

/// What the reply says of the pages that were written.
#[derive(Debug)]
struct Dirty {
    page_size: u64,
    grid: Grid,
    region: Option<Arc<Region>>,
    /// Has room for the whole reply: when it is sent it is too late to refuse.
    room: Vec<u8>,
}

impl Unmapped {
    pub(super) fn new(reply: DmaUnmapReply<'static>) -> Self {
        Unmapped { reply, dirty: None }
    }

    /// Appends the payload. Nobody writes to the mapping any more.
    pub(super) fn emit(&mut self, out: &mut Vec<u8>) {
        let Some(dirty) = &mut self.dirty else { return self.reply.emit(out) };
        let mut room = std::mem::take(&mut dirty.room);
        room.append(out);
        *out = room;
        self.reply.emit_head(dirty.page_size, dirty.grid.bitmap_len(), out);
        let Ok(mut picture) = Picture::append(dirty.grid, out) else { return };
        if let Some(pages) = dirty.region.as_ref().and_then(|region| region.logged()) {
            pages.report(&mut picture);
        }
        picture.finish();
    }
}

impl Executor {
    /// Whether a feature is about logging. The device has these always.
    pub(super) fn is_logging(feature: Feature) -> bool {
        use Feature::{LoggingReport, LoggingStart, LoggingStop};
        matches!(feature, LoggingStart | LoggingStop | LoggingReport)
    }

    pub(super) fn logging(
        &self,
        request: &FeatureRequest<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let (log, argsz) = (&self.shared.dirty, request.argsz);
        let result = match request.op {
            FeatureOp::Probe { feature, get, set } => FeatureResult::Probe { feature, get, set },
            FeatureOp::SetLoggingStart { page_size, ranges } => {
                check_apart(ranges)?;
                // They are sent back, too.
                let len = size_of_val(ranges.entries()) + FIXED;
                out.try_reserve(len).map_err(|_| Errno::ENOMEM)?;
                let regions = self.shared.table.overlapping(0, u64::MAX);
                let page_size = log.start(page_size, regions.iter().filter_map(|r| r.logged()))?;
                FeatureResult::SetLoggingStart { page_size, ranges }
            }
            FeatureOp::SetLoggingStop => {
                self.stop_logging();
                FeatureResult::SetLoggingStop
            }
            FeatureOp::GetLoggingReport { iova, length, page_size } => {
                return self.report(iova, length, page_size, out);
            }
            _ => return Err(Errno::EINVAL),
        };
        FeatureReply { argsz, result }.emit(out);
        Ok(())
    }

    pub(super) fn stop_logging(&self) {
        let regions = self.shared.table.overlapping(0, u64::MAX);
        self.shared.dirty.stop(regions.iter().filter_map(|region| region.logged()));
    }

    fn report(
        &self,
        iova: u64,
        length: u64,
        page_size: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let grid = self.grid_of_reply(iova, length, page_size)?;
        FeatureReply::emit_report_head(iova, length, page_size, out);
        let mut picture = Picture::append(grid, out)?;
        for region in self.shared.table.overlapping(grid.first(), grid.last()) {
            if let Some(pages) = region.logged() {
                pages.report(&mut picture);
            }
        }
        picture.finish();
        Ok(())
    }

    /// What the bits of a reply stand for.
    ///
    /// # Errors
    /// `EINVAL` if logging is off, or there are more of them than a message may carry.
    fn grid_of_reply(&self, iova: u64, length: u64, page_size: u64) -> Result<Grid, Errno> {
        self.shared.dirty.page_size().ok_or(Errno::EINVAL)?;
        let most = self.shared.live().map_or(0, |live| live.max_transfer as u64);
        let grid = Grid::new(iova, length, page_size).ok_or(Errno::EINVAL)?;
        if grid.bitmap_len() > most { Err(Errno::EINVAL) } else { Ok(grid) }
    }

    /// Takes the mapping of a range out, of which the client wants to know the dirty pages. Gives
    /// the mapping, if there is one, and the reply for when it is unused.
    pub(super) fn unmap_with_dirty(
        &self,
        (address, size): (u64, u64),
        page_size: u64,
        reply: impl FnOnce(u64) -> DmaUnmapReply<'static>,
    ) -> Result<(Option<Arc<Region>>, Unmapped), Errno> {
        let grid = self.grid_of_reply(address, size, page_size)?;
        let mut room = Vec::new();
        let len = grid.bitmap_len() as usize + FIXED;
        room.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        let region = self.shared.table.remove(address, size)?;
        let reply = reply(if region.is_some() { size } else { 0 });
        let dirty = Some(Dirty { page_size, grid, region: region.clone(), room });
        Ok((region, Unmapped { reply, dirty }))
    }
}

/// Ranges to log may lie anywhere, but only once.
fn check_apart(ranges: LoggingRanges<'_>) -> Result<(), Errno> {
    let mut sorted = Vec::new();
    sorted.try_reserve_exact(ranges.entries().len()).map_err(|_| Errno::ENOMEM)?;
    sorted.extend(ranges.iter().map(|r| (r.iova(), r.length())));
    sorted.sort_unstable();
    let overlap = |pair: &[(u64, u64)]| pair[1].0 - pair[0].0 < pair[0].1;
    if sorted.windows(2).any(overlap) { Err(Errno::EINVAL) } else { Ok(()) }
}
