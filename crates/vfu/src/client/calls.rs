//! The requests, one method each.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use vfu_proto::session::Sink;
use vfu_proto::wire::{
    Command, DeviceInfo, DeviceInfoRequest, DmaMap, DmaMapFlags, DmaUnmapReply, DmaUnmapRequest,
    HEADER_SIZE, IrqAction, IrqData, IrqInfo, IrqInfoRequest, RegionInfo, RegionInfoRequest,
    RegionReadReply, RegionReadRequest, RegionWriteRequest, Reply, Request, SetIrqs, UnmapWhat,
    WriteEntry, WriteMulti,
};

use super::regions::{RegionDetails, details};
use super::service;
use super::{Client, ClientError, Memory};
use crate::irq::IrqIndex;
use crate::link::{Answer, Draft, Extra, Message, RequestError, Waited, Wake};
use crate::poller::Poller;

/// The most that the description of a region may take, in bytes.
const MAX_REGION_INFO: u32 = 64 << 10;
/// Data up to this length, in bytes, is copied once more, for less ado.
const SHORT: usize = 4096;

impl Client {
    /// What the device is (DEVICE_GET_INFO).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn device_info(&self) -> Result<DeviceInfo, ClientError> {
        let request = Request::DeviceGetInfo(DeviceInfoRequest::new());
        let reply = self.call(&request, &[])?;
        self.parse(Command::DeviceGetInfo, &reply, |reply| match reply {
            Reply::DeviceGetInfo(info) => Some(info),
            _ => None,
        })
    }

    /// What a region is (DEVICE_GET_REGION_INFO).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn region_info(&self, index: u32) -> Result<RegionDetails, ClientError> {
        let (info, fds) = self.region_info_once(index, RegionInfoRequest::MIN_ARGSZ)?;
        let Some(needed) = info.needed_argsz else { return Ok(details(info, fds)) };
        let command = Command::DeviceGetRegionInfo;
        if needed > MAX_REGION_INFO {
            return Err(ClientError::Malformed { command, why: "the description is too long" });
        }
        let (info, fds) = self.region_info_once(index, needed)?;
        if info.needed_argsz.is_some() {
            return Err(ClientError::Malformed { command, why: "the description keeps growing" });
        }
        Ok(details(info, fds))
    }

    fn region_info_once(
        &self,
        index: u32,
        argsz: u32,
    ) -> Result<(RegionInfo, Vec<OwnedFd>), ClientError> {
        let request = Request::DeviceGetRegionInfo(RegionInfoRequest { argsz, index });
        let mut reply = self.call(&request, &[])?;
        let fds = reply.take_fds();
        let info = self.parse(Command::DeviceGetRegionInfo, &reply, |reply| match reply {
            Reply::DeviceGetRegionInfo(info) if info.index == index => Some(info),
            _ => None,
        })?;
        Ok((info, fds))
    }

    /// How many vectors an interrupt type has, and what can be done with it (DEVICE_GET_IRQ_INFO).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn irq_info(&self, index: IrqIndex) -> Result<IrqInfo, ClientError> {
        let request = Request::DeviceGetIrqInfo(IrqInfoRequest::new(index as u32));
        let reply = self.call(&request, &[])?;
        self.parse(Command::DeviceGetIrqInfo, &reply, |reply| match reply {
            Reply::DeviceGetIrqInfo(info) if info.index == index as u32 => Some(info),
            _ => None,
        })
    }

    /// Arranges interrupts (DEVICE_SET_IRQS).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_irqs(
        &self,
        request: SetIrqs<'_>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        self.ask(&Request::DeviceSetIrqs(request), fds, None).map(Answer::done)
    }

    /// Has vectors signalled on eventfds, the first on vector `start`. In as many messages as the
    /// server's `max_msg_fds` needs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn assign_irqs(
        &self,
        index: IrqIndex,
        start: u32,
        eventfds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let most = self.inner.server.max_msg_fds.unwrap_or(1).clamp(1, 253) as usize;
        let mut start = start;
        for fds in eventfds.chunks(most) {
            let count = fds.len() as u32;
            let (action, data) = (IrqAction::Trigger, IrqData::EventFd);
            self.set_irqs(SetIrqs { index: index as u32, start, count, action, data }, fds)?;
            start = start.saturating_add(count);
        }
        Ok(())
    }

    /// Takes all eventfds of a type away.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn disable_irqs(&self, index: IrqIndex) -> Result<(), ClientError> {
        let (action, data) = (IrqAction::Trigger, IrqData::None);
        self.set_irqs(SetIrqs { index: index as u32, start: 0, count: 0, action, data }, &[])
    }

    /// Unmasks vectors; for the pin, this is also the end of an interrupt.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn unmask_irqs(&self, index: IrqIndex, start: u32, count: u32) -> Result<(), ClientError> {
        let (action, data) = (IrqAction::Unmask, IrqData::None);
        self.set_irqs(SetIrqs { index: index as u32, start, count, action, data }, &[])
    }

    /// Masks vectors.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn mask_irqs(&self, index: IrqIndex, start: u32, count: u32) -> Result<(), ClientError> {
        let (action, data) = (IrqAction::Mask, IrqData::None);
        self.set_irqs(SetIrqs { index: index as u32, start, count, action, data }, &[])
    }

    /// Reads from a region (REGION_READ), in as many messages as it takes.
    ///
    /// # Errors
    /// See [`ClientError`]; `to` may then be filled in part.
    pub fn region_read(&self, region: u32, offset: u64, to: &mut [u8]) -> Result<(), ClientError> {
        let command = Command::RegionRead;
        let mut at = offset;
        for piece in to.chunks_mut(self.inner.max_transfer) {
            let count = piece.len() as u32;
            let request = RegionReadRequest { offset: at, region, count };
            let reply = self.ask(&Request::RegionRead(request), &[], Some(piece))?;
            let parsed = RegionReadReply::parse_part(reply.payload(), reply.away())
                .map_err(|_| ClientError::Malformed { command, why: "cut short" })?;
            if (parsed.offset, parsed.region) != (at, region) {
                return Err(ClientError::Malformed { command, why: "another place" });
            }
            if parsed.data.len() + reply.away() != piece.len() {
                return Err(ClientError::Malformed { command, why: "another length" });
            }
            piece[..parsed.data.len()].copy_from_slice(parsed.data);
            reply.done();
            at = at.wrapping_add(u64::from(count));
        }
        Ok(())
    }

    /// Writes to a region (REGION_WRITE), in as many messages as it takes.
    ///
    /// # Errors
    /// See [`ClientError`]; a part may have been written.
    pub fn region_write(&self, region: u32, offset: u64, from: &[u8]) -> Result<(), ClientError> {
        let mut at = offset;
        for data in from.chunks(self.inner.max_transfer) {
            let request = RegionWriteRequest { offset: at, region, data };
            let reply = self.ask(&Request::RegionWrite(request), &[], None)?;
            self.parse(Command::RegionWrite, &reply, |reply| match reply {
                Reply::RegionWrite(reply) => {
                    let place = (reply.region, reply.offset) == (region, at);
                    (place && reply.count as usize == data.len()).then_some(())
                }
                _ => None,
            })?;
            reply.done();
            at = at.wrapping_add(data.len() as u64);
        }
        Ok(())
    }

    /// Writes to a region without waiting (REGION_WRITE with NO_REPLY), as a CPU's posted write. A
    /// later read of the same client sees it done. Waits only while the socket is full.
    ///
    /// # Errors
    /// The session has ended. What the device makes of it is never known.
    pub fn region_write_posted(
        &self,
        region: u32,
        offset: u64,
        from: &[u8],
    ) -> Result<(), ClientError> {
        let mut at = offset;
        for data in from.chunks(self.inner.max_transfer) {
            self.post(&Request::RegionWrite(RegionWriteRequest { offset: at, region, data }))?;
            at = at.wrapping_add(data.len() as u64);
        }
        Ok(())
    }

    /// Several small writes in one message (REGION_WRITE_MULTI), if the server agreed to
    /// `write_multiple`. Gives how many were done.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn region_write_multi(&self, writes: &[WriteEntry]) -> Result<u64, ClientError> {
        if !self.inner.write_multiple {
            return Err(ClientError::Invalid("the server has not agreed to write_multiple"));
        }
        let reply = self.call(&Request::RegionWriteMulti(WriteMulti::new(writes)), &[])?;
        self.parse(Command::RegionWriteMulti, &reply, |reply| match reply {
            Reply::RegionWriteMulti(reply) => {
                Some(reply.count).filter(|count| *count <= writes.len() as u64)
            }
            _ => None,
        })
    }

    /// Lets the device reach `size` bytes from `address` (DMA_MAP).
    ///
    /// # Errors
    /// See [`ClientError`]; `EEXIST` if it overlaps another mapping.
    pub fn dma_map(
        &self,
        address: u64,
        size: u64,
        flags: DmaMapFlags,
        memory: Memory<'_>,
    ) -> Result<(), ClientError> {
        let (fd, offset) = match &memory {
            Memory::File(fd, offset) => (Some(*fd), *offset),
            Memory::Messages(_) | Memory::Nothing => (None, 0),
        };
        if matches!(memory, Memory::Messages(_)) {
            self.start_service()?;
        }
        // The server may use it before we see its reply.
        let before = self.inner.maps.insert(address, size, flags, &memory)?;
        let request = Request::DmaMap(DmaMap { flags, offset, address, size });
        let result = self.ask(&request, fd.as_slice(), None).map(Answer::done);
        if result.is_err() {
            self.inner.maps.restore(address, before);
        }
        result
    }

    fn start_service(&self) -> Result<(), ClientError> {
        let inner = &self.inner;
        let started = inner.service.start(&inner.link, &inner.maps, inner.max_transfer);
        started
            .map_err(|source| ClientError::System { what: "can't start a thread for DMA", source })
    }

    /// Takes a mapping back (DMA_UNMAP). Gives the bytes that were unmapped: 0 if there was none.
    ///
    /// Until this succeeds the server may still reach the memory. Which of its pages were dirty is
    /// forgotten; [`dma_unmap_dirty`](Self::dma_unmap_dirty) tells.
    ///
    /// # Errors
    /// See [`ClientError`]; `ENOENT` if the range is a part of a mapping, or more than one.
    pub fn dma_unmap(&self, address: u64, size: u64) -> Result<u64, ClientError> {
        let unmapped = self.unmap(UnmapWhat::Range { address, size })?;
        self.inner.maps.remove(address);
        Ok(unmapped)
    }

    /// Takes all mappings back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn dma_unmap_all(&self) -> Result<(), ClientError> {
        self.unmap(UnmapWhat::All)?;
        self.inner.maps.clear();
        Ok(())
    }

    pub(super) fn unmap(&self, what: UnmapWhat) -> Result<u64, ClientError> {
        let request = DmaUnmapRequest::new(what);
        let reply = self.ask(&Request::DmaUnmap(request), &[], None)?;
        let unmapped = self.parse(Command::DmaUnmap, &reply, |reply| match reply {
            Reply::DmaUnmap(reply) if is_about(&reply, &request) => Some(reply.size),
            _ => None,
        });
        reply.done();
        unmapped
    }

    /// Puts the device back to its state at power-on (DEVICE_RESET).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn reset(&self) -> Result<(), ClientError> {
        self.ask(&Request::DeviceReset, &[], None).map(Answer::done)
    }

    /// Sends a request and waits for its reply; serves the server's commands meanwhile.
    pub(super) fn call(
        &self,
        request: &Request<'_>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Message, ClientError> {
        self.ask(request, fds, None).map(Answer::into_message)
    }

    /// As [`call`](Self::call), for a reply that is looked at and done with. If there is `data`, of a
    /// REGION_READ, the last bytes of a long reply may be there already, at their place, and are then
    /// [away](Message::away) from the message.
    pub(super) fn ask(
        &self,
        request: &Request<'_>,
        fds: &[BorrowedFd<'_>],
        data: Option<&mut [u8]>,
    ) -> Result<Answer<'_>, ClientError> {
        let command = request.command();
        let inner = &self.inner;
        let failed = |e: RequestError| ClientError::from_request(&inner.link, command, e);
        if inner.service.is_missing() && inner.service.count() {
            // Without it, it goes on as it did.
            let _out_of_threads = self.start_service();
        }
        self.send_waiting()?;
        let mark = inner.posted.mark();
        let clock = inner.link.clock();
        let mut draft = Draft::lend();
        let long = match request {
            Request::RegionWrite(write) if write.data.len() > SHORT => {
                write.emit_head(&mut draft);
                write.data
            }
            other => {
                other.emit(&mut draft);
                &[]
            }
        };
        let extra = Extra { data: long, fds, ..Extra::default() };
        let asked = inner.link.request(command, &mut draft, extra, &clock);
        drop(draft);
        let mut asked = asked.map_err(failed)?;
        let head = HEADER_SIZE + RegionReadReply::HEAD;
        let data = data.filter(|data| data.len() > SHORT);
        let mut sink = data.map(|data| Sink::new(asked.ticket(), head, data));
        loop {
            match asked.wait(&clock, sink.as_mut()) {
                Waited::Command(command) => {
                    self.serve(command);
                    clock.turn();
                }
                Waited::Outcome(outcome) => {
                    let reply = outcome.map_err(failed)?;
                    inner.posted.executed(mark);
                    if reply.header().is_error() {
                        let errno = reply.header().errno();
                        reply.done();
                        return Err(ClientError::Refused { command, errno });
                    }
                    return Ok(reply);
                }
            }
        }
    }

    fn post(&self, request: &Request<'_>) -> Result<(), ClientError> {
        self.send_waiting()?;
        self.hand_over(request)?;
        self.serve_until_sent()
    }

    /// Executes a command of the server, and those behind it; says how many.
    pub(super) fn serve(&self, command: Message) -> usize {
        let inner = &self.inner;
        service::serve(&inner.link, &inner.maps, inner.max_transfer, command)
    }

    /// A descriptor for an event loop: readable when [`process`](Self::process) has something to do, be
    /// it a command of the server, room for an answer, or a deadline; and for good once the session has
    /// [ended](Self::closed). All of them are duplicates of one.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn poll_fd(&self) -> std::io::Result<OwnedFd> {
        let mut place = self.inner.poller.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(poller) = &*place {
            return poller.as_fd().try_clone_to_owned();
        }
        let wake = Arc::new(Wake::new()?);
        let mut poller = Poller::new(&wake)?;
        poller.watch(&self.inner.link)?;
        self.inner.link.in_event_loop(&wake);
        self.inner.service.is_not_wanted();
        // What has come by now was not announced.
        poller.wake();
        let fd = poller.as_fd().try_clone_to_owned();
        *place = Some(poller);
        fd
    }

    /// Serves what the server has sent, and sends what waits to be sent, without waiting; for an event
    /// loop that watches [`poll_fd`](Self::poll_fd). Gives the number of commands.
    pub fn process(&self) -> usize {
        let poller = || self.inner.poller.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(poller) = &*poller() {
            poller.clear();
        }
        self.inner.link.poll_sockets();
        let mut served = 0;
        while let Some(command) = self.inner.link.try_begin_command() {
            served += self.serve(command);
        }
        if let Some(poller) = &mut *poller() {
            let _watched_already = poller.update(&self.inner.link);
        }
        served
    }

    pub(super) fn parse<T>(
        &self,
        command: Command,
        reply: &Message,
        pick: impl FnOnce(Reply<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        let parsed = Reply::parse(command, reply.payload());
        let parsed = parsed.map_err(|_| ClientError::Malformed { command, why: "bad payload" })?;
        pick(parsed).ok_or(ClientError::Malformed { command, why: "not what was asked for" })
    }

    pub(super) fn recycle(&self, reply: Message) {
        self.inner.link.recycle(Some(reply));
    }
}

/// Whether a reply to an unmap is about what was asked: of another range it says nothing about this one.
pub(super) fn is_about(reply: &DmaUnmapReply<'_>, asked: &DmaUnmapRequest) -> bool {
    let is_all = asked.what == UnmapWhat::All;
    reply.address == asked.address() && (is_all || reply.size <= asked.size())
}
