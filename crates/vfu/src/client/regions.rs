//! What the server says of a region, checked.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, fstat};
use vfu_proto::wire::{Area, RegionCapability, RegionFlags, RegionInfo};

/// A region of the device (specification, "VFIO_USER_DEVICE_GET_REGION_INFO").
#[derive(Debug)]
pub struct RegionDetails {
    /// VFIO's number: 0 to 5 BARs, 6 ROM, 7 configuration space, 8 VGA, then device-specific.
    pub index: u32,
    /// Length in bytes; 0 if the device does not have it.
    pub size: u64,
    /// It can be read.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// What can be mapped of it, if anything can.
    pub mmap: Option<RegionMmap>,
    /// Type and subtype of a device-specific region.
    pub type_: Option<(u32, u32)>,
}

/// What can be mapped of a region.
#[derive(Debug)]
pub struct RegionMmap {
    /// The file to map.
    pub fd: OwnedFd,
    /// Where in the file the region begins, in bytes.
    pub offset: u64,
    /// The areas, in bytes from the region's start; all lie in the region and in the file.
    pub areas: Vec<Area>,
}

/// Puts info and descriptors together. What can't be mapped safely is left out: the region can
/// still be reached by messages.
pub(super) fn details(info: RegionInfo, fds: Vec<OwnedFd>) -> RegionDetails {
    let mut type_ = None;
    let mut areas = None;
    for capability in info.capabilities {
        match capability {
            RegionCapability::SparseMmap(list) => areas = Some(list),
            RegionCapability::Type { type_: t, subtype } => type_ = Some((t, subtype)),
            RegionCapability::MsixMappable | RegionCapability::SparseMmapFds(_) => {}
        }
    }
    let mappable = info.flags.contains(RegionFlags::MMAP);
    let fd = fds.into_iter().next().filter(|_| mappable);
    let mmap = fd.and_then(|fd| {
        let whole = || vec![Area { offset: 0, size: info.size }];
        let mut areas = areas.unwrap_or_else(whole);
        let limit = file_length(&fd)?;
        areas.retain(|area| {
            let end = area.offset.checked_add(area.size).filter(|end| *end <= info.size);
            let end = end.and_then(|end| info.offset.checked_add(end));
            area.size > 0 && end.is_some_and(|end| end <= limit)
        });
        (!areas.is_empty()).then_some(RegionMmap { fd, offset: info.offset, areas })
    });
    RegionDetails {
        index: info.index,
        size: info.size,
        readable: info.flags.contains(RegionFlags::READ),
        writable: info.flags.contains(RegionFlags::WRITE),
        mmap,
        type_,
    }
}

/// How many bytes a file has; more than any if it is not the kind that has a length.
fn file_length(fd: &OwnedFd) -> Option<u64> {
    let stat = fstat(fd).ok()?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        u64::try_from(stat.st_size).ok()
    } else {
        Some(u64::MAX)
    }
}
