//! A region of the device, reached through its memory where the server shares it.

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use tracing::debug;
use vfu_proto::wire;

use super::{Client, ClientError, RegionMmap};
use crate::dma::{File, Mapping, MemoryPolicy};

/// A region whose shared memory is used directly; made by [`Client::map_region`].
///
/// Where the server shares no memory, or lies about it, accesses go by message as ever. Those that
/// lie in one area are copies, without a system call; an aligned one of 1, 2, 4 or 8 bytes is one load
/// or one store. A server that takes pages away is sent messages for the rest; see [`MemoryPolicy`] for
/// what else can be done about that.
///
/// The order is kept: while posted writes of this client may still be under way all accesses go by
/// message, behind them; any request that waits for its reply ends that.
#[derive(Debug)]
pub struct MappedRegion {
    client: Client,
    index: u32,
    size: u64,
    /// What is mapped is mapped for writing, too.
    writable: bool,
    areas: Vec<Area>,
}

#[derive(Debug)]
struct Area {
    offset: u64,
    size: u64,
    how: How,
}

#[derive(Debug)]
enum How {
    Mapped(Mapping),
    File(File),
}

impl Client {
    /// Maps what can be mapped of a region.
    ///
    /// # Errors
    /// The region can't be asked about; see [`ClientError`]. That nothing can be mapped is none.
    pub fn map_region(&self, index: u32) -> Result<MappedRegion, ClientError> {
        let details = self.region_info(index)?;
        let mut areas = Vec::new();
        if let Some(mmap) = &details.mmap {
            match open(mmap, details.writable, self.inner.memory) {
                Ok(file) => areas = reach(&file, &mmap.areas, self.inner.memory),
                Err(e) => debug!(index, error = %e, "can't be mapped"),
            }
        }
        let (size, writable) = (details.size, details.writable);
        Ok(MappedRegion { client: self.clone(), index, size, writable, areas })
    }
}

fn open(mmap: &RegionMmap, writable: bool, policy: MemoryPolicy) -> Result<File, Errno> {
    File::new(fcntl_dupfd_cloexec(&mmap.fd, 3)?, mmap.offset, writable, policy)
}

/// The areas that can be reached in the file.
fn reach(file: &File, areas: &[wire::Area], policy: MemoryPolicy) -> Vec<Area> {
    let reach = |area: &wire::Area| {
        let how =
            how(file, area, policy).inspect_err(|e| debug!(?area, error = %e, "can't be mapped"));
        Some(Area { offset: area.offset, size: area.size, how: how.ok()? })
    };
    areas.iter().filter_map(reach).collect()
}

fn how(file: &File, area: &wire::Area, policy: MemoryPolicy) -> Result<How, Errno> {
    let piece = file.piece(area.offset).ok_or(Errno::INVAL)?;
    // The file may have been cut off since its length was looked at.
    let holds = usize::try_from(area.size).is_ok_and(|len| piece.holds(0, len));
    if holds && policy != MemoryPolicy::Copying {
        Ok(How::Mapped(piece.map(area.size)?))
    } else {
        Ok(How::File(piece))
    }
}

impl MappedRegion {
    /// The region's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether an access of `len` bytes needs no message.
    pub fn is_direct(&self, offset: u64, len: usize) -> bool {
        self.area(offset, len).is_some()
    }

    fn area(&self, offset: u64, len: usize) -> Option<(&Area, u64)> {
        let here = |area: &&Area| {
            let at = offset.checked_sub(area.offset);
            let fits = at.and_then(|at| at.checked_add(len as u64)).is_some_and(|e| e <= area.size);
            fits && !matches!(&area.how, How::Mapped(mapping) if mapping.is_lost())
        };
        self.areas.iter().find(here).map(|area| (area, offset - area.offset))
    }

    /// Reads from the region.
    ///
    /// # Errors
    /// See [`ClientError`]; `to` may then be filled in part.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), ClientError> {
        if !self.client.inner.posted.are_under_way() {
            if let Some((area, at)) = self.area(offset, to.len()) {
                let done = match &area.how {
                    How::Mapped(mapping) => mapping.read(at, to).is_ok(),
                    How::File(file) => file.read(at, to).is_ok(),
                };
                if done {
                    return Ok(());
                }
            }
        }
        self.client.region_read(self.index, offset, to)
    }

    /// Writes to the region. Where that takes a message it is a posted one; so it always is for a
    /// region that can't be written, and it is for the server to refuse it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), ClientError> {
        if self.writable && !self.client.inner.posted.are_under_way() {
            if let Some((area, at)) = self.area(offset, from.len()) {
                let done = match &area.how {
                    How::Mapped(mapping) => mapping.write(at, from).is_ok(),
                    How::File(file) => file.write(at, from).is_ok(),
                };
                if done {
                    return Ok(());
                }
            }
        }
        self.client.region_write_posted(self.index, offset, from)
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

    use super::*;

    /// What is touched behind the end of a file that is mapped is a SIGBUS.
    #[test]
    fn a_file_that_was_cut_off_before_it_was_sealed_is_not_mapped() {
        let fd = memfd_create("vfu", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, 0x2000).unwrap();
        fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
        let policy = MemoryPolicy::default();
        let mmap = RegionMmap { fd, offset: 0x1000, areas: Vec::new() };
        let file = open(&mmap, true, policy).unwrap();
        let is_mapped = |offset, size| {
            let how = how(&file, &wire::Area { offset, size }, policy);
            matches!(how, Ok(How::Mapped(_)))
        };
        assert!(is_mapped(0, 0x1000));
        assert!(!is_mapped(0, 0x2000) && !is_mapped(0x1000, 0x1000) && !is_mapped(0, u64::MAX));
    }
}
