//! Doorbells of the device that are rung without a message (specification,
//! VFIO_USER_DEVICE_GET_REGION_IO_FDS).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tracing::debug;
use vfu_proto::wire::{
    Command, IoFd, IoFdFlags, IoFdKind, IoFdsReply, IoFdsRequest, Reply, Request,
};

use super::{Client, ClientError};
use crate::doorbell::IoEventFd;
use crate::irq::EventFd;
use crate::irq::rescue::Distrust;

/// The most that the list of a region's descriptors may take, in bytes.
const MAX_LIST: u32 = 64 << 10;

/// How a write reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// By an eventfd: the device is told that it was rung, and not what was written.
    ByEventFd,
    /// By a posted message.
    ByMessage,
}

/// The doorbells of a region; made by [`Client::doorbells`].
///
/// A write goes by eventfd if the server has given one for just that offset, width and value, else by
/// a posted message; for the device it is the same.
///
/// The order is kept: while posted writes of this client (of any of its clones) may still be under
/// way a doorbell is rung by a message, behind them. Any request that waits for its reply, such as a
/// read, ends that. What comes after a ring by eventfd is not ordered with it: a device that has an
/// eventfd looks when it comes to it, so a read right behind the ring may find that it has not yet.
#[derive(Debug)]
pub struct Doorbells {
    client: Client,
    region: u32,
    bells: Vec<(IoEventFd, Arc<EventFd>)>,
}

impl Client {
    /// The doorbells of a region. Entries of the server that make no sense, or that are of a kind
    /// that we do not use, are left out: there it gets messages.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn doorbells(&self, region: u32) -> Result<Doorbells, ClientError> {
        let size = self.region_info(region)?.size;
        let (list, fds) = self.region_io_fds(region)?;
        let distrust = Distrust::default();
        let eventfd = |fd: OwnedFd| EventFd::new(fd, &distrust).ok().map(Arc::new);
        let fds: Vec<_> = fds.into_iter().map(eventfd).collect();
        let mut bells = Vec::new();
        for entry in &list.entries {
            let fd = usize::try_from(entry.fd_index).ok().and_then(|index| fds.get(index));
            match (place(region, size, entry), fd.and_then(Option::as_ref)) {
                (Some(at), Some(fd)) => bells.push((at, fd.clone())),
                _ => debug!(region, ?entry, "no doorbell that can be used"),
            }
        }
        Ok(Doorbells { client: self.clone(), region, bells })
    }

    /// The descriptors that stand for pieces of a region (DEVICE_GET_REGION_IO_FDS), as the server
    /// sent them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn region_io_fds(&self, index: u32) -> Result<(IoFdsReply, Vec<OwnedFd>), ClientError> {
        let (list, fds) = self.region_io_fds_once(index, 4096)?;
        if list.truncated.is_none() {
            return Ok((list, fds));
        }
        let command = Command::DeviceGetRegionIoFds;
        let needed = list.full_size();
        if needed > MAX_LIST {
            return Err(ClientError::Malformed { command, why: "the list is too long" });
        }
        let (list, fds) = self.region_io_fds_once(index, needed)?;
        if list.truncated.is_some() {
            return Err(ClientError::Malformed { command, why: "the list keeps growing" });
        }
        Ok((list, fds))
    }

    fn region_io_fds_once(
        &self,
        index: u32,
        argsz: u32,
    ) -> Result<(IoFdsReply, Vec<OwnedFd>), ClientError> {
        let request = Request::DeviceGetRegionIoFds(IoFdsRequest { argsz, index });
        let mut reply = self.call(&request, &[])?;
        let fds = reply.take_fds();
        let list = self.parse(Command::DeviceGetRegionIoFds, &reply, |reply| match reply {
            Reply::DeviceGetRegionIoFds(list) if list.index == index => Some(list),
            _ => None,
        })?;
        Ok((list, fds))
    }
}

impl Doorbells {
    /// How many doorbells have an eventfd.
    pub fn len(&self) -> usize {
        self.bells.len()
    }

    /// Whether all writes go by message.
    pub fn is_empty(&self) -> bool {
        self.bells.is_empty()
    }

    /// Writes to the region, without waiting.
    ///
    /// # Errors
    /// The session has ended.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<Rung, ClientError> {
        let bell = self.bells.iter().find(|(at, _)| at.is_rung_by(offset, data));
        let bell = bell.filter(|_| !self.client.inner.posted.are_under_way());
        let Some((_, fd)) = bell else {
            self.client.region_write_posted(self.region, offset, data)?;
            return Ok(Rung::ByMessage);
        };
        if let Some(why) = self.client.closed() {
            return Err(ClientError::Closed(why));
        }
        let what = "can't write to the server's eventfd";
        fd.signal().map_err(|e| ClientError::System { what, source: e.into() })?;
        Ok(Rung::ByEventFd)
    }
}

/// Where an ioeventfd is, if it is one and lies in its region.
fn place(region: u32, size: u64, entry: &IoFd) -> Option<IoEventFd> {
    let IoFdKind::IoEventFd { datamatch } = entry.kind else { return None };
    let known = IoFdFlags::DATAMATCH | IoFdFlags::PIO;
    let matches = entry.flags.contains(IoFdFlags::DATAMATCH);
    let width_fits = matches!(entry.size, 1 | 2 | 4 | 8) || (entry.size == 0 && !matches);
    let end = entry.offset.checked_add(entry.size.max(1))?;
    if !known.contains(entry.flags) || !width_fits || end > size {
        return None;
    }
    let at = IoEventFd::at(region, entry.offset).width(entry.size);
    Some(if matches { at.datamatch(datamatch) } else { at })
}
