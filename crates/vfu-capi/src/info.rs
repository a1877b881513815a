//! What the client asks about regions.

use std::ffi::c_int;

use vfu::wire::{
    Area, IoFd, IoFdFlags, IoFdKind, IoFdLayout, IoFdsReply, IoFdsRequest, RegionCapability,
    RegionFlags, RegionInfo, RegionInfoRequest,
};

use crate::ctx::{Context, MAX_TRANSFER, context};
use crate::errno::{EINVAL, ENOSPC, entry};
use crate::setup::{FLAG_READ, FLAG_WRITE, IoEvent, REGIONS};
use crate::types::Ctx;

/// An index that stands for no descriptor.
const NO_FD: u32 = u32::MAX;

/// Descriptors that Linux sends with one message: `SCM_MAX_FD`.
const MOST_FDS: usize = 253;

impl Context {
    pub(crate) fn region_info(
        &self,
        request: RegionInfoRequest,
        out: &mut Vec<u8>,
        send: &mut Vec<c_int>,
    ) -> Result<(), c_int> {
        let setup = self.setup();
        let region = setup.regions.get(request.index as usize).ok_or(EINVAL)?;
        let mut flags = RegionFlags::empty();
        for (ours, theirs) in [(FLAG_READ, RegionFlags::READ), (FLAG_WRITE, RegionFlags::WRITE)] {
            if region.flags & ours != 0 {
                flags = flags | theirs;
            }
        }
        let mut capabilities = Vec::new();
        if region.fd != -1 {
            flags = flags | RegionFlags::MMAP;
            if region.size > 0 && !region.areas.is_empty() {
                let areas = region.areas.iter().map(|&(offset, size)| Area { offset, size });
                capabilities.push(RegionCapability::SparseMmap(areas.collect()));
            }
        }
        let has_areas = !capabilities.is_empty();
        let (index, size, offset) = (request.index, region.size, region.offset);
        let info = RegionInfo { flags, index, size, offset, capabilities, needed_argsz: None };
        if info.emit_for(request.argsz, out) && has_areas {
            send.push(region.fd);
        }
        Ok(())
    }

    pub(crate) fn region_io_fds(
        &self,
        request: IoFdsRequest,
        out: &mut Vec<u8>,
        send: &mut Vec<c_int>,
    ) -> Result<(), c_int> {
        let setup = self.setup();
        let region = setup.regions.get(request.index as usize).ok_or(EINVAL)?;
        if request.argsz > MAX_TRANSFER || region.flags == 0 {
            return Err(EINVAL);
        }
        let mut fds = Vec::new();
        // Newest first.
        let entries = region.ioeventfds.iter().rev().map(|event| entry_of(event, &mut fds));
        let entries = entries.collect();
        let (index, layout) = (request.index, IoFdLayout::Wide);
        let reply = IoFdsReply { index, layout, entries, truncated: None };
        if reply.emit_for(request.argsz, out) {
            send.append(&mut fds);
        }
        Ok(())
    }
}

/// The index of a descriptor among those that are sent. Each is sent once.
fn index_of(fd: c_int, fds: &mut Vec<c_int>) -> u32 {
    if fd < 0 {
        return NO_FD;
    }
    let known = fds.iter().position(|known| *known == fd);
    let index = known.unwrap_or_else(|| {
        fds.push(fd);
        fds.len() - 1
    });
    index as u32
}

fn entry_of(event: &IoEvent, fds: &mut Vec<c_int>) -> IoFd {
    let fd_index = index_of(event.fd, fds);
    let datamatch = event.datamatch;
    let kind = if event.shadow_fd < 0 {
        IoFdKind::IoEventFd { datamatch }
    } else {
        IoFdKind::ShadowIoEventFd {
            datamatch,
            shadow_fd_index: index_of(event.shadow_fd, fds),
            shadow_offset: event.shadow_offset,
        }
    };
    IoFd {
        offset: event.offset,
        size: event.size.into(),
        fd_index,
        flags: IoFdFlags::from_bits_retain(event.flags),
        kind,
    }
}

/// A client may have writes to a part of a region signal an eventfd, without a message.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_create_ioeventfd(
    ctx: *mut Ctx,
    region: u32,
    fd: c_int,
    offset: usize,
    size: u32,
    flags: u32,
    datamatch: u64,
    shadow_fd: c_int,
    shadow_offset: usize,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let index = usize::try_from(region).ok().filter(|i| *i < REGIONS).ok_or(EINVAL)?;
        let mut setup = ctx.setup();
        let region = &mut setup.regions[index];
        let end = (offset as u64).checked_add(size.into());
        if end.is_none_or(|end| end > region.size) || fd < -1 || shadow_fd < -1 {
            return Err(EINVAL);
        }
        let known = region.ioeventfds.iter().flat_map(|event| [event.fd, event.shadow_fd]);
        let mut fds: Vec<c_int> = known.chain([fd, shadow_fd]).filter(|fd| *fd >= 0).collect();
        fds.sort_unstable();
        fds.dedup();
        if fds.len() > MOST_FDS {
            return Err(ENOSPC);
        }
        region.ioeventfds.push(IoEvent {
            fd,
            offset: offset as u64,
            size,
            flags,
            datamatch,
            shadow_fd,
            shadow_offset: shadow_offset as u64,
        });
        Ok(0)
    })
}
