//! Which pages of a region the client may map, and of which file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, fstat};

use crate::memory::SharedMemory;

/// A piece of a region that the client may map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmapArea {
    /// Where it begins in the region, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub size: u64,
}

/// The memory behind a region that the client may map: accesses to it do not reach the device's
/// handlers.
///
/// The kernel maps whole pages. So each [`area`](Self::area) is taken to be the whole pages inside
/// it; what is left at its ends is trapped, as is everything outside. The pages of a BAR that hold the
/// MSI-X table or PBA are never mapped, whatever the areas say.
///
/// Accesses by message, which a client may always use, are done by the library in
/// [`SharedMemory`]. If the memory is a file of your own ([`new`](Self::new)) they go to the
/// device's handlers, which are to do the same.
#[derive(Debug)]
pub struct Shareable {
    source: Source,
    offset: u64,
    areas: Vec<MmapArea>,
}

#[derive(Debug)]
enum Source {
    File(OwnedFd),
    Memory(SharedMemory),
}

impl Shareable {
    /// Memory in `fd` (a memfd, or a file), of which the byte at `offset`, a multiple of the page
    /// size, is the region's first.
    ///
    /// Who else has the file may cut it off under the client's feet, unless it is sealed:
    /// [`SharedMemory`] is.
    pub fn new(fd: OwnedFd, offset: u64) -> Self {
        Shareable { source: Source::File(fd), offset, areas: Vec::new() }
    }

    /// Lets the client map a piece only; may be called again. Without any the whole region may be
    /// mapped. The place in the memory is that in the region: there may be holes between the areas,
    /// and the memory may end with the last one.
    pub fn area(mut self, offset: u64, size: u64) -> Self {
        self.areas.push(MmapArea { offset, size });
        self
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::File(fd) => fd.as_fd(),
            Source::Memory(memory) => memory.as_fd(),
        }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn areas(&self) -> &[MmapArea] {
        &self.areas
    }

    pub(super) fn memory(&self) -> Option<&SharedMemory> {
        match &self.source {
            Source::File(_) => None,
            Source::Memory(memory) => Some(memory),
        }
    }

    /// Whether an access lies in an area.
    pub(super) fn covers(&self, offset: u64, len: u64) -> bool {
        let Some(end) = offset.checked_add(len) else { return false };
        self.areas.iter().any(|a| a.offset <= offset && end - a.offset <= a.size)
    }

    /// Makes the areas what the client may map of region `region` of `len` bytes: whole pages, in
    /// order, without what is in `kept` (offset and length of what must be trapped).
    pub(super) fn settle(
        &mut self,
        region: u32,
        len: u64,
        kept: &[(u64, u64)],
    ) -> Result<(), ShareError> {
        let page = rustix::param::page_size() as u64;
        if self.offset % page != 0 {
            return Err(ShareError::FileOffset { region, offset: self.offset, page });
        }
        if self.areas.is_empty() {
            self.areas.push(MmapArea { offset: 0, size: len });
        }
        let mut pages = Vec::new();
        for &MmapArea { offset, size } in &self.areas {
            let end = offset.checked_add(size).filter(|end| *end <= len);
            let end = end.ok_or(ShareError::OutOfRegion { region, offset, size, len })?;
            let (start, end) = (offset.next_multiple_of(page), end - end % page);
            if start >= end {
                return Err(ShareError::NoWholePage { region, offset, size, page });
            }
            pages.push((start, end));
        }
        pages = merge(pages);
        for &(at, len) in kept {
            let hole = (at - at % page, (at + len).next_multiple_of(page));
            pages = pages.into_iter().flat_map(|piece| without(piece, hole)).collect();
        }
        let Some(&(_, end)) = pages.last() else {
            return Err(ShareError::OnlyMsix { region });
        };
        let length = self.length();
        if self.offset.checked_add(end).is_none_or(|end| end > length) {
            let end = self.offset.saturating_add(end);
            return Err(ShareError::FileTooShort { region, end, length });
        }
        let area = |(start, end)| MmapArea { offset: start, size: end - start };
        self.areas = pages.into_iter().map(area).collect();
        match self.areas.len() {
            count if count > MAX_AREAS => Err(ShareError::TooManyAreas { region, count }),
            _ => Ok(()),
        }
    }

    /// How many bytes the file has; more than any if it is not the kind that has a length.
    fn length(&self) -> u64 {
        match (&self.source, fstat(self.fd())) {
            (Source::Memory(memory), _) => memory.size(),
            (_, Ok(stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                u64::try_from(stat.st_size).unwrap_or(0)
            }
            _ => u64::MAX,
        }
    }
}

/// All of the memory, from its start; [`area`](Shareable::area) chooses.
impl From<SharedMemory> for Shareable {
    fn from(memory: SharedMemory) -> Self {
        Shareable { source: Source::Memory(memory), offset: 0, areas: Vec::new() }
    }
}

/// The areas that a client is told of. QEMU and ours take a description of 64 KiB.
pub(super) const MAX_AREAS: usize = 4000;

/// In order; what overlaps or touches is one.
fn merge(mut pieces: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    pieces.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in pieces {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// What is left of a piece on both sides of a hole.
fn without((start, end): (u64, u64), (from, to): (u64, u64)) -> impl Iterator<Item = (u64, u64)> {
    let sides = [(start, end.min(from)), (start.max(to), end)];
    sides.into_iter().filter(|(start, end)| start < end)
}

/// Why a piece of memory can't be shared as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// There is no such BAR.
    #[error("BAR {bar} can't be shared: the device has no memory BAR of that number")]
    NoBar {
        /// The BAR.
        bar: usize,
    },
    /// An area leaves its region.
    #[error(
        "region {region}: the area at {offset:#x} of {size:#x} bytes is not inside its {len:#x} bytes"
    )]
    OutOfRegion {
        /// The region; a BAR has its own number.
        region: u32,
        /// The area's start.
        offset: u64,
        /// The area's length.
        size: u64,
        /// The region's length.
        len: u64,
    },
    /// The kernel maps pages.
    #[error(
        "region {region}: the area at {offset:#x} of {size:#x} bytes holds no whole page; an area \
         begins and ends at multiples of {page:#x}, and what is beside those is trapped"
    )]
    NoWholePage {
        /// The region.
        region: u32,
        /// The area's start.
        offset: u64,
        /// The area's length.
        size: u64,
        /// The page size.
        page: u64,
    },
    /// Nothing is left to map.
    #[error(
        "region {region}: all that may be mapped lies in pages of the MSI-X table or PBA, which are \
         never mapped; move those to another BAR or another page (Pci::msix_at)"
    )]
    OnlyMsix {
        /// The region.
        region: u32,
    },
    /// The region does not begin at a page of the file.
    #[error("region {region}: its offset in the file is {offset:#x}; give a multiple of {page:#x}")]
    FileOffset {
        /// The region.
        region: u32,
        /// The offset in the file.
        offset: u64,
        /// The page size.
        page: u64,
    },
    /// An access to what is mapped behind the end of a file is a SIGBUS.
    #[error(
        "region {region}: the areas reach to {end:#x} in a file of {length:#x} bytes; make the file \
         longer, or name the areas that it holds (Shareable::area)"
    )]
    FileTooShort {
        /// The region.
        region: u32,
        /// Where the last area ends in the file.
        end: u64,
        /// The file's length.
        length: u64,
    },
    /// A client would not take the description.
    #[error("region {region}: {count} areas; the most that a client is told of is {MAX_AREAS}")]
    TooManyAreas {
        /// The region.
        region: u32,
        /// How many there are.
        count: usize,
    },
    /// QEMU takes no device with more than 100 regions.
    #[error("{count} device-specific regions; the most is {MAX_REGIONS}")]
    TooManyRegions {
        /// How many were asked for.
        count: usize,
    },
    /// A region without a byte is one that the device does not have.
    #[error("region {region} has no bytes; a region that the device has holds at least one")]
    EmptyRegion {
        /// The region.
        region: u32,
    },
    /// A doorbell is not where it can be.
    #[error(
        "the doorbell at {offset:#x} of region {region} can't be there: its width is {width}, and it \
         must be 0 (any), 1, 2, 4 or 8 bytes, inside a BAR or a region of the device that can be \
         written, and in no area that may be mapped"
    )]
    Doorbell {
        /// The region.
        region: u32,
        /// Where it should be.
        offset: u64,
        /// Its width in bytes.
        width: u64,
    },
    /// The system has no descriptor left.
    #[error("can't make a doorbell: {0}")]
    System(vfu_proto::wire::Errno),
}

/// Of 100 regions that QEMU takes, nine are those of PCI.
pub(super) const MAX_REGIONS: usize = 91;

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    /// Offset and length.
    type Piece = (u64, u64);

    fn settled(
        len: u64,
        areas: &[(u64, u64)],
        kept: &[(u64, u64)],
    ) -> Result<Vec<(u64, u64)>, ShareError> {
        let memory = SharedMemory::new(len.max(1)).unwrap();
        let mut share = Shareable::from(memory);
        for &(offset, size) in areas {
            share = share.area(offset, size);
        }
        share.settle(0, len, kept)?;
        Ok(share.areas().iter().map(|a| (a.offset, a.size)).collect())
    }

    #[test]
    fn areas_are_the_whole_pages_inside() {
        if rustix::param::page_size() as u64 != PAGE {
            return;
        }
        let cases: &[(&[Piece], &[Piece])] = &[
            (&[], &[(0, 8 * PAGE)]),
            (&[(0, PAGE)], &[(0, PAGE)]),
            (&[(1, 2 * PAGE)], &[(PAGE, PAGE)]),
            (&[(PAGE - 1, PAGE + 1)], &[(PAGE, PAGE)]),
            (&[(PAGE, PAGE + 5)], &[(PAGE, PAGE)]),
            (&[(3 * PAGE, PAGE), (0, PAGE)], &[(0, PAGE), (3 * PAGE, PAGE)]),
            (&[(0, PAGE), (PAGE, PAGE)], &[(0, 2 * PAGE)]),
            (&[(0, 3 * PAGE), (PAGE, PAGE)], &[(0, 3 * PAGE)]),
        ];
        for (asked, expected) in cases {
            assert_eq!(settled(8 * PAGE, asked, &[]).as_deref(), Ok(*expected), "{asked:?}");
        }
        for bad in [(0, 0), (0, PAGE - 1), (1, PAGE), (1, 2 * PAGE - 2)] {
            let error = settled(8 * PAGE, &[bad], &[]).unwrap_err();
            assert!(matches!(error, ShareError::NoWholePage { .. }), "{bad:?}");
        }
        for bad in [(0, 8 * PAGE + 1), (8 * PAGE, 1), (u64::MAX, 1), (1, u64::MAX)] {
            let error = settled(8 * PAGE, &[bad], &[]).unwrap_err();
            assert!(matches!(error, ShareError::OutOfRegion { .. }), "{bad:?}");
        }
    }

    #[test]
    fn the_pages_of_msix_are_left_out() {
        if rustix::param::page_size() as u64 != PAGE {
            return;
        }
        let all = |kept: &[(u64, u64)]| settled(8 * PAGE, &[], kept);
        assert_eq!(all(&[(0x10, 0x40)]), Ok(vec![(PAGE, 7 * PAGE)]));
        let both = [(2 * PAGE + 0x800, 0x40), (5 * PAGE - 8, 16)];
        assert_eq!(all(&both), Ok(vec![(0, 2 * PAGE), (3 * PAGE, PAGE), (6 * PAGE, 2 * PAGE)]));
        let one = settled(8 * PAGE, &[(PAGE, PAGE)], &[(PAGE + 8, 16)]);
        assert_eq!(one, Err(ShareError::OnlyMsix { region: 0 }));
    }
}
