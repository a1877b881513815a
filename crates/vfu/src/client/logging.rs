//! Dirty page logging, from the client's side (specification, "VFIO_USER_DEVICE_FEATURE",
//! DMA_LOGGING; "VFIO_USER_DMA_UNMAP").

use vfu_proto::wire::{
    Command, DmaUnmapRequest, Errno, Feature, FeatureOp, FeatureResult, LoggingRange,
    LoggingRanges, Reply, Request, UnmapWhat, bitmap_len,
};

use super::calls::is_about;
use super::{Client, ClientError, DirtyPages};

const BAD_PAGE_SIZE: ClientError =
    ClientError::Invalid("dirty pages are logged with another page size, or with a bad one");
const BAD_RANGE: ClientError = ClientError::Invalid(
    "dirty pages: the range is empty, wraps or is too long, or the page size is no power of two",
);
const OFF: ClientError = ClientError::Invalid("dirty pages are not logged");

impl Client {
    /// Whether the server can log which pages the device writes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn has_dma_logging(&self) -> Result<bool, ClientError> {
        for feature in [Feature::LoggingStart, Feature::LoggingStop, Feature::LoggingReport] {
            let (get, set) = (feature.has_get(), feature.has_set());
            let op = FeatureOp::Probe { feature, get, set };
            match self
                .feature(op, |result| matches!(result, FeatureResult::Probe { .. }).then_some(()))
            {
                Ok(()) => {}
                Err(ClientError::Refused { errno: Errno::EINVAL | Errno::ENOTTY, .. }) => {
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Starts to log which pages of its mappings the device writes, with one bit for `page_size`
    /// bytes, a power of two. Gives the page size that the server chose. Mappings that are made
    /// later are logged, too.
    ///
    /// What the device writes by messages is logged here, as it is this side that stores it.
    ///
    /// # Errors
    /// See [`ClientError`]. A server may refuse to start twice; ours does if the page size differs.
    pub fn start_dma_logging(&self, page_size: u64) -> Result<u64, ClientError> {
        self.start_dma_logging_in(page_size, &[])
    }

    /// As [`start_dma_logging`](Self::start_dma_logging), for ranges of addresses: `(iova, length)`
    /// in bytes. A server may log more than that.
    ///
    /// # Errors
    /// As for [`start_dma_logging`](Self::start_dma_logging).
    pub fn start_dma_logging_in(
        &self,
        page_size: u64,
        ranges: &[(u64, u64)],
    ) -> Result<u64, ClientError> {
        let maps = &self.inner.maps;
        let was_on = maps.is_logging();
        maps.start_logging(page_size).map_err(|errno| match errno {
            Errno::ENOMEM => ClientError::no_room_to_log(),
            _ => BAD_PAGE_SIZE,
        })?;
        let entries: Vec<_> =
            ranges.iter().map(|&(iova, len)| LoggingRange::new(iova, len)).collect();
        let ranges = LoggingRanges::new(&entries);
        let op = FeatureOp::SetLoggingStart { page_size, ranges };
        let result = self.feature(op, |result| match result {
            FeatureResult::SetLoggingStart { page_size, .. } if page_size.is_power_of_two() => {
                Some(page_size)
            }
            _ => None,
        });
        match &result {
            Ok(page_size) => maps.set_server_page_size(*page_size),
            Err(_) if !was_on => maps.stop_logging(),
            Err(_) => {}
        }
        result
    }

    /// Stops to log, and forgets what was logged.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn stop_dma_logging(&self) -> Result<(), ClientError> {
        let result = self.feature(FeatureOp::SetLoggingStop, |result| {
            matches!(result, FeatureResult::SetLoggingStop).then_some(())
        });
        self.inner.maps.stop_logging();
        result
    }

    /// Which pages of `length` bytes from `iova` the device has written since logging started, or
    /// since the last report on them; they are clean from then on. What is not mapped is clean.
    ///
    /// The range may be any, and `page_size` any power of two. It is best if both are multiples of
    /// what [`start_dma_logging`](Self::start_dma_logging) gave: a page that is asked for in part
    /// only stays dirty in the server.
    ///
    /// What is written while this runs is in this report or in the next. It takes a message for each
    /// mapping that is shared, and more if the bits are more than one can carry.
    ///
    /// # Errors
    /// See [`ClientError`]. What had come by then is lost: everything has to be taken for dirty.
    pub fn dma_logging_report(
        &self,
        iova: u64,
        length: u64,
        page_size: u64,
    ) -> Result<DirtyPages, ClientError> {
        let mut pages = DirtyPages::new(iova, length, page_size).ok_or(BAD_RANGE)?;
        if !self.inner.maps.is_logging() {
            return Err(OFF);
        }
        let last = iova + (length - 1);
        for (first, last) in self.inner.maps.shared(iova, last) {
            self.report_mapping(first, last, &mut pages)?;
        }
        // Last: what the server has written before its answer is stored by now.
        self.inner.maps.report(&mut pages.picture());
        Ok(pages)
    }

    /// Asks the server for the pages of (a part of) a mapping, in pieces.
    ///
    /// Always in its own page size, or less than that for a range that is shorter: libvfio-user gets
    /// lost where it has to convert.
    fn report_mapping(
        &self,
        first: u64,
        last: u64,
        to: &mut DirtyPages,
    ) -> Result<(), ClientError> {
        let maps = &self.inner.maps;
        let words = (self.inner.max_transfer as u64 / 8).max(1);
        let page_size = maps.server_page_size((last - first).saturating_add(1));
        let piece = page_size.saturating_mul(64).saturating_mul(words);
        let mut at = first;
        loop {
            let length = (last - at).saturating_add(1).min(piece);
            let page_size = maps.server_page_size(length);
            let mut pages = DirtyPages::new(at, length, page_size).ok_or(BAD_RANGE)?;
            let op = FeatureOp::GetLoggingReport { iova: at, length, page_size };
            self.feature(op, |result| match result {
                FeatureResult::GetLoggingReport { iova, length: len, page_size: size, bitmap } => {
                    let fits = (iova, len, size) == (at, length, page_size);
                    fits.then(|| pages.or_bits(bitmap))
                }
                _ => None,
            })?;
            to.union(&pages);
            match at.checked_add(length).filter(|next| *next <= last) {
                Some(next) => at = next,
                None => return Ok(()),
            }
        }
    }

    /// Takes a mapping back, as [`dma_unmap`](Self::dma_unmap), and says which of its pages the
    /// device has written since the last report on them. Logging must be on.
    ///
    /// # Errors
    /// See [`ClientError`]. If it is the server's reply that can't be understood, the mapping has to
    /// be taken for existing and dirty.
    pub fn dma_unmap_dirty(
        &self,
        address: u64,
        size: u64,
        page_size: u64,
    ) -> Result<DirtyPages, ClientError> {
        let mut pages = DirtyPages::new(address, size, page_size).ok_or(BAD_RANGE)?;
        let maps = &self.inner.maps;
        if !maps.is_logging() {
            return Err(OFF);
        }
        let last = address + (size - 1);
        if maps.shared(address, last).is_empty() {
            // Nothing that the server could know.
            self.unmap(UnmapWhat::Range { address, size })?;
        } else {
            // All bits come in one message.
            let mut pgsize = maps.server_page_size(size);
            while bitmap_len(size, pgsize).is_ok_and(|len| len > self.inner.max_transfer as u64) {
                pgsize = pgsize.checked_mul(2).ok_or(BAD_RANGE)?;
            }
            let bitmap_size = bitmap_len(size, pgsize).map_err(|_| BAD_RANGE)?;
            let mut theirs = DirtyPages::new(address, size, pgsize).ok_or(BAD_RANGE)?;
            let what = UnmapWhat::RangeWithDirty { address, size, pgsize, bitmap_size };
            let request = DmaUnmapRequest::new(what);
            let reply = self.call(&Request::DmaUnmap(request), &[])?;
            self.parse(Command::DmaUnmap, &reply, |reply| match reply {
                Reply::DmaUnmap(reply) if is_about(&reply, &request) => {
                    let bitmap = reply.bitmap.filter(|bitmap| {
                        bitmap.pgsize == pgsize && bitmap.data.len() as u64 == bitmap_size
                    });
                    bitmap.map(|bitmap| theirs.or_bits(bitmap.data))
                }
                _ => None,
            })?;
            pages.union(&theirs);
            self.recycle(reply);
        }
        maps.report(&mut pages.picture());
        maps.remove(address);
        Ok(pages)
    }
}
