//! Doorbells of a device as ioeventfds of its regions (specification,
//! VFIO_USER_DEVICE_GET_REGION_IO_FDS).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tracing::warn;
use vfu_proto::wire::{IoFd, IoFdFlags, IoFdKind, IoFdLayout, IoFdsReply};

use super::{CONFIG_REGION, Regions, ShareError};
use crate::doorbell::{Doorbell, IoEventFd};
use crate::seldom::Seldom;

const NO_EVENTFD: &str = "no eventfd for a doorbell; it is rung by messages";

/// The doorbells of all regions, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct IoFds {
    list: Vec<(IoEventFd, Doorbell)>,
}

/// A reply and its descriptors.
#[derive(Debug)]
pub(crate) struct IoFdsAnswer {
    pub(crate) reply: IoFdsReply,
    pub(crate) fds: Vec<Arc<OwnedFd>>,
}

impl IoFds {
    pub(super) fn new(
        regions: &Regions,
        asked: Vec<(IoEventFd, Option<Doorbell>)>,
    ) -> Result<IoFds, ShareError> {
        let mut list = Vec::new();
        for (at, bell) in asked {
            check(regions, at)?;
            let bell = match bell {
                Some(bell) => bell,
                None => Doorbell::new().map_err(|e| {
                    let errno = e.raw_os_error().unwrap_or_default();
                    ShareError::System(vfu_proto::wire::Errno::from_raw(errno))
                })?,
            };
            list.push((at, bell));
        }
        Ok(IoFds { list })
    }

    pub(super) fn at(&self, region: u32, offset: u64) -> Option<&Doorbell> {
        let here = |at: &IoEventFd| (at.region, at.offset) == (region, offset);
        self.list.iter().find(|(at, _)| here(at)).map(|(_, bell)| bell)
    }

    pub(super) fn rung(&self, region: u32, offset: u64, data: &[u8]) -> Option<&Doorbell> {
        let rings = |at: &IoEventFd| at.region == region && at.is_rung_by(offset, data);
        self.list.iter().find(|(at, _)| rings(at)).map(|(_, bell)| bell)
    }

    /// One entry for each, and each descriptor once. What the client can't take is left out: those
    /// doorbells are rung by messages.
    pub(super) fn answer(&self, region: u32, max_fds: usize, seldom: &Seldom) -> IoFdsAnswer {
        let (mut entries, mut fds) = (Vec::new(), Vec::new());
        let mut sent: Vec<&Doorbell> = Vec::new();
        for (at, bell) in self.list.iter().filter(|(at, _)| at.region == region) {
            let fd_index = match sent.iter().position(|other| other.is(bell)) {
                Some(index) => index,
                None if fds.len() >= max_fds => continue,
                None => match bell.for_client() {
                    Ok(fd) => {
                        sent.push(bell);
                        fds.push(fd);
                        fds.len() - 1
                    }
                    Err(e) => {
                        if let Some(kept) = seldom.ask(NO_EVENTFD) {
                            warn!(error = %e, "{NO_EVENTFD}{kept}");
                        }
                        continue;
                    }
                },
            };
            let match_flag = at.datamatch.map_or(IoFdFlags::empty(), |_| IoFdFlags::DATAMATCH);
            entries.push(IoFd {
                offset: at.offset,
                size: at.width,
                fd_index: fd_index as u32,
                flags: match_flag,
                kind: IoFdKind::IoEventFd { datamatch: at.datamatch.unwrap_or(0) },
            });
        }
        let layout = IoFdLayout::Standard;
        IoFdsAnswer { reply: IoFdsReply { index: region, layout, entries, truncated: None }, fds }
    }

    pub(super) fn disconnect(&self) {
        self.list.iter().for_each(|(_, bell)| bell.disconnect());
    }
}

fn check(regions: &Regions, at: IoEventFd) -> Result<(), ShareError> {
    let IoEventFd { region, offset, width, datamatch } = at;
    let is_ours = regions.entry(region).is_ok_and(|entry| {
        let in_area = entry.shared.as_ref().is_some_and(|share| share.covers(offset, width.max(1)));
        let end = offset.checked_add(width.max(1));
        !entry.read_only && !in_area && end.is_some_and(|end| end <= entry.size)
    });
    let width_fits = match datamatch {
        Some(value) => matches!(width, 1 | 2 | 4 | 8) && (width == 8 || value >> (8 * width) == 0),
        None => matches!(width, 0 | 1 | 2 | 4 | 8),
    };
    if !is_ours || !width_fits || region == CONFIG_REGION {
        return Err(ShareError::Doorbell { region, offset, width });
    }
    Ok(())
}
