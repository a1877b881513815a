//! The regions of a device: its BARs and its configuration space, as the client asks for them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vfu_proto::wire::{Area, Errno, RegionCapability, RegionFlags, RegionInfo};

use crate::pci::{BARS, ConfigSpace};

/// VFIO's number of the expansion ROM region.
pub(crate) const ROM_REGION: u32 = 6;
/// VFIO's number of the configuration space region.
pub(crate) const CONFIG_REGION: u32 = 7;
/// VFIO's count of regions of a PCI device: six BARs, ROM, configuration space, VGA.
pub(crate) const REGIONS: u32 = 9;

/// A piece of a BAR that the client may map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmapArea {
    /// Where it begins in the BAR, in bytes; a multiple of the page size.
    pub offset: u64,
    /// How many bytes; a multiple of the page size.
    pub size: u64,
}

/// The memory behind a BAR that the client may map: accesses to it never reach the device's
/// handlers.
#[derive(Debug)]
pub struct Shareable {
    fd: OwnedFd,
    offset: u64,
    areas: Vec<MmapArea>,
}

impl Shareable {
    /// Memory in `fd` (a memfd, or a file), of which the byte at `offset` is the BAR's first.
    pub fn new(fd: OwnedFd, offset: u64) -> Self {
        Shareable { fd, offset, areas: Vec::new() }
    }

    /// Lets the client map a piece only. Without any the whole BAR may be mapped.
    pub fn area(mut self, offset: u64, size: u64) -> Self {
        self.areas.push(MmapArea { offset, size });
        self
    }
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
    /// The kernel maps pages.
    #[error(
        "BAR {bar}: the area at {offset:#x} of {size:#x} bytes is not made of whole pages of \
         {page:#x} bytes inside its {len:#x} bytes"
    )]
    BadArea {
        /// The BAR.
        bar: usize,
        /// The area's start.
        offset: u64,
        /// The area's length.
        size: u64,
        /// The page size.
        page: u64,
        /// The BAR's length.
        len: u64,
    },
}

/// Sizes and shared memory of all regions.
#[derive(Debug)]
pub(crate) struct Regions {
    sizes: [u64; REGIONS as usize],
    shared: [Option<Shareable>; BARS],
}

impl Regions {
    pub(crate) fn new(
        config: &ConfigSpace,
        shared: [Option<Shareable>; BARS],
    ) -> Result<Self, ShareError> {
        let mut sizes = [0; REGIONS as usize];
        for (index, size) in sizes.iter_mut().enumerate().take(BARS) {
            *size = config.bar(index).map_or(0, |bar| bar.size);
        }
        sizes[ROM_REGION as usize] = config.rom().map_or(0, |rom| rom.size);
        sizes[CONFIG_REGION as usize] = config.size() as u64;
        for (bar, share) in shared.iter().enumerate() {
            let Some(share) = share else { continue };
            let len = sizes.get(bar).copied().filter(|len| *len > 0);
            let len = len.ok_or(ShareError::NoBar { bar })?;
            check_areas(bar, len, &share.areas)?;
        }
        Ok(Regions { sizes, shared })
    }

    /// A region's length in bytes; 0 if the device does not have it.
    ///
    /// # Errors
    /// `EINVAL`: there is no region of that number at all.
    pub(crate) fn size(&self, index: u32) -> Result<u64, Errno> {
        self.sizes.get(index as usize).copied().ok_or(Errno::EINVAL)
    }

    /// What DEVICE_GET_REGION_INFO answers, and the descriptor to send with the whole of it.
    pub(crate) fn info(&self, index: u32) -> Result<(RegionInfo, Option<BorrowedFd<'_>>), Errno> {
        let size = self.size(index)?;
        let mut info = RegionInfo {
            flags: RegionFlags::default(),
            index,
            size,
            offset: 0,
            capabilities: Vec::new(),
            needed_argsz: None,
        };
        if size == 0 {
            return Ok((info, None));
        }
        info.flags = RegionFlags::READ;
        if index == ROM_REGION {
            return Ok((info, None));
        }
        info.flags = info.flags | RegionFlags::WRITE;
        let Some(share) = self.shared.get(index as usize).and_then(Option::as_ref) else {
            return Ok((info, None));
        };
        info.flags = info.flags | RegionFlags::MMAP;
        info.offset = share.offset;
        if !share.areas.is_empty() {
            let areas = share.areas.iter().map(|a| Area { offset: a.offset, size: a.size });
            info.capabilities.push(RegionCapability::SparseMmap(areas.collect()));
        }
        Ok((info, Some(share.fd.as_fd())))
    }
}

fn check_areas(bar: usize, len: u64, areas: &[MmapArea]) -> Result<(), ShareError> {
    let page = rustix::param::page_size() as u64;
    for &MmapArea { offset, size } in areas {
        let inside = offset.checked_add(size).is_some_and(|end| end <= len);
        if !inside || size == 0 || offset % page != 0 || size % page != 0 {
            return Err(ShareError::BadArea { bar, offset, size, page, len });
        }
    }
    Ok(())
}
