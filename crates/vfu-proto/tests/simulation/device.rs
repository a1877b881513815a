//! The device: registers, handlers that may wait, and DMA at any time.

use std::rc::Rc;
use std::sync::Arc;

use vfu_proto::session::{Channel, Message, Ticket};
use vfu_proto::wire::{
    Command, DmaReadReply, DmaReadRequest, DmaWriteReply, DmaWriteRequest, Errno, Header,
    RegionReadReply, RegionReadRequest, RegionWriteRequest,
};

use super::book::{Ask, Flag, Request, State};
use super::client::Client;
use super::net::Sent;
use super::rng::Rng;
use super::world::{Reply, SERVER, SLOT, SLOTS, World, base, some_slot};

/// Registers of 4 bytes, from offset 0.
pub(super) const REGISTERS: usize = 16;
/// 8 bytes: how many commands were executed before this one.
pub(super) const STATUS: u64 = 0x40;
/// Touching it has the handler wait for DMA.
pub(super) const DOORBELL: u64 = 0x80;
/// What is written there is looked at by nobody.
pub(super) const BULK: u64 = 0x1000;

/// Handlers that wait, of a device that can be entered again.
const DEPTH: usize = 4;

#[derive(Debug)]
pub(super) struct Device {
    registers: [u32; REGISTERS],
    pub(super) executed: u64,
    maps: [bool; SLOTS],
    /// What the memory of the client will be when all that was sent is executed.
    mirror: Vec<u8>,
    /// The client has refused a write: the mirror is wrong.
    pub(super) is_tainted: bool,
    /// DMA commands sent, and the writes among them.
    pub(super) dmas: u64,
    pub(super) writes: u64,
    /// Handlers that wait for DMA; the last one was called last.
    handlers: Vec<(Rc<Sent>, Ticket)>,
    /// Answers that come later.
    late: Vec<Reply>,
    /// Answers that may not overtake the writes before them.
    held: Vec<(Arc<Flag>, Reply)>,
}

impl Device {
    pub(super) fn new() -> Device {
        Device {
            registers: [0; REGISTERS],
            executed: 0,
            maps: [false; SLOTS],
            mirror: vec![0; SLOTS * SLOT as usize],
            is_tainted: false,
            dmas: 0,
            writes: 0,
            handlers: Vec::new(),
            late: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Nobody waits, and nothing is left to be answered.
    pub(super) fn is_idle(&self) -> bool {
        self.handlers.is_empty() && self.late.is_empty() && self.held.is_empty()
    }
}

impl World {
    /// Executes the oldest command.
    pub(super) fn execute(&mut self, rng: &mut Rng) -> bool {
        let depth = if self.config.reentrant { DEPTH } else { 1 };
        let unsent = self.streams[SERVER][Channel::Main as usize].unsent();
        let book = &self.sides[SERVER].book;
        if book.queue.is_empty()
            || self.device.handlers.len() >= depth
            || unsent > book.limits.unsent_bytes
        {
            return false;
        }
        let Some((message, sent)) = self.sides[SERVER].take(false) else { return false };
        let before = self.device.executed;
        let nested = u64::from(!self.device.handlers.is_empty());
        self.seen.add("a command while a handler waits", nested);
        self.device.executed += 1;
        let header = *message.header();
        let mut out = Vec::new();
        let command = Command::from_u16(header.command).unwrap();
        let waits = match command {
            Command::RegionRead => {
                let request = RegionReadRequest::parse(message.payload()).unwrap();
                let RegionReadRequest { offset, region, count } = request;
                let data = match offset {
                    STATUS => before.to_le_bytes().to_vec(),
                    DOORBELL => vec![0; count as usize],
                    _ => self.device.registers[offset as usize / 4].to_le_bytes().to_vec(),
                };
                RegionReadReply { offset, region, data: &data }.emit(&mut out);
                offset == DOORBELL
            }
            Command::RegionWrite => {
                let write = RegionWriteRequest::parse(message.payload()).unwrap();
                if let Some(register) = self.device.registers.get_mut(write.offset as usize / 4) {
                    *register = u32::from_le_bytes(write.data.try_into().unwrap());
                }
                write.reply().emit(&mut out);
                write.offset == DOORBELL
            }
            Command::DmaMap => {
                self.device.maps[message.payload()[0] as usize] = true;
                false
            }
            Command::DmaUnmap => {
                let slot = message.payload()[0] as usize;
                self.device.maps[slot] = false;
                self.sides[SERVER].cancel(Some((base(slot), SLOT)));
                false
            }
            Command::DeviceReset => {
                self.device.registers = [0; REGISTERS];
                self.sides[SERVER].cancel(None);
                false
            }
            _ => panic!("a command that nobody sent"),
        };
        self.sides[SERVER].recycle(message);
        if waits && self.dma_read(rng, Some(&sent)) {
            return true;
        }
        let header = header.reply(out.len());
        self.give(rng, &sent, Reply { header, payload: out, serial: sent.serial });
        true
    }

    /// Raises an interrupt when all that was written is there.
    pub(super) fn interrupt(&mut self) -> bool {
        let waits = self.sides[SERVER].fence().is_some();
        self.seen.add("an interrupt behind writes", u64::from(waits));
        waits
    }

    /// Answers a command: now, later, or behind the writes before it.
    fn give(&mut self, rng: &mut Rng, to: &Sent, reply: Reply) {
        if to.header.wants_no_reply() {
            return;
        }
        if self.config.twin && self.config.holds {
            if let Some(flag) = self.sides[SERVER].fence() {
                self.device.held.push((flag, reply));
                self.seen.add("a reply behind writes", 1);
                return;
            }
        }
        if rng.one_in(6) {
            self.device.late.push(reply);
        } else {
            self.send_reply(SERVER, Channel::Main, reply, false);
        }
    }

    /// Gives one of the answers that were put off.
    pub(super) fn answer(&mut self, rng: &mut Rng) -> bool {
        if self.device.late.is_empty() {
            return false;
        }
        let at = rng.below(self.device.late.len() as u32) as usize;
        let reply = self.device.late.swap_remove(at);
        self.send_reply(SERVER, Channel::Main, reply, false);
        true
    }

    /// Sends the replies whose writes have all ended.
    pub(super) fn send_held(&mut self) {
        if self.device.held.is_empty() {
            return;
        }
        for (flag, reply) in std::mem::take(&mut self.device.held) {
            if flag.count() > 0 {
                self.send_reply(SERVER, Channel::Main, reply, false);
            } else {
                self.device.held.push((flag, reply));
            }
        }
    }

    /// The handler that was called last looks whether it can go on.
    pub(super) fn resume(&mut self, rng: &mut Rng) -> bool {
        let Some((sent, ticket)) = self.device.handlers.pop() else { return false };
        // A device that can't be entered again would keep the reset waiting.
        let reset = !self.config.reentrant && self.sides[SERVER].engine.reset_is_queued();
        if reset {
            self.seen.add("a handler that a reset ends", 1);
            self.sides[SERVER].forget(ticket);
        } else {
            let Some((request, reply)) = self.sides[SERVER].outcome(ticket) else {
                self.device.handlers.push((sent, ticket));
                return false;
            };
            self.finish(SERVER, request, reply);
        }
        let header = sent.header.error_reply(Errno::EIO);
        self.give(rng, &sent, Reply { header, payload: Vec::new(), serial: sent.serial });
        true
    }

    /// Bytes of one piece of mapped memory, often at its ends.
    fn some_memory(&self, rng: &mut Rng) -> Option<(u64, usize)> {
        let slot = some_slot(rng, |slot| self.device.maps[slot])?;
        if !self.may_send(SERVER, self.dma_channel()) {
            return None;
        }
        let len = rng.pick(&[1, 2, 64, 4096, SLOT as u32]).min(1 << rng.below(14));
        let len = 1 + rng.below(len);
        let last = SLOT as u32 - len;
        let offset = rng.pick(&[0, last, rng.clone().below(last + 1)]);
        Some((base(slot) + u64::from(offset), len as usize))
    }

    fn dma_channel(&self) -> Channel {
        self.sides[SERVER].book.request_channel()
    }

    /// Reads memory, for a handler that waits if `handler` says so.
    pub(super) fn dma_read(&mut self, rng: &mut Rng, handler: Option<&Rc<Sent>>) -> bool {
        let Some((address, len)) = self.some_memory(rng) else { return false };
        let (slot, at) = Client::locate(address, len);
        let known = slot + 2 != SLOTS && !self.device.is_tainted;
        let expect = known.then(|| self.device.mirror[at..][..len].to_vec());
        let fds = if rng.one_in(20) { vec![rng.word()] } else { Vec::new() };
        let ask = Ask::DmaRead { address, expect, len, may_fail: !fds.is_empty() };
        let mut payload = Vec::new();
        DmaReadRequest { address, count: len as u64 }.emit(&mut payload);
        let patient = handler.is_none() && rng.one_in(5);
        let deadline = (!patient).then(|| self.deadline(rng));
        let request = (Command::DmaRead, ask);
        let Some(ticket) =
            self.dma(request, (address, len as u64), payload, fds, deadline, handler.is_some())
        else {
            return false;
        };
        if let Some(sent) = handler {
            self.device.handlers.push((sent.clone(), ticket));
        }
        true
    }

    pub(super) fn dma_write(&mut self, rng: &mut Rng) -> bool {
        let Some((address, len)) = self.some_memory(rng) else { return false };
        let mut data = vec![rng.word() as u8; len];
        data[len / 2] ^= 0x5a;
        let mut payload = Vec::new();
        DmaWriteRequest { address, data: &data }.emit(&mut payload);
        let request = (Command::DmaWrite, Ask::DmaWrite { address, len });
        // What waits for a write must not wait for ever.
        let patient = !self.config.mute && rng.one_in(5);
        let deadline = (!patient).then(|| self.deadline(rng));
        let started =
            self.dma(request, (address, len as u64), payload, Vec::new(), deadline, false);
        if started.is_none() {
            return false;
        }
        let (_, at) = Client::locate(address, len);
        self.device.mirror[at..][..len].copy_from_slice(&data);
        self.device.writes += 1;
        true
    }

    fn dma(
        &mut self,
        request: (Command, Ask),
        range: (u64, u64),
        payload: Vec<u8>,
        fds: Vec<u32>,
        deadline: Option<u64>,
        by_handler: bool,
    ) -> Option<Ticket> {
        let command = request.0;
        let (ticket, serial) =
            self.sides[SERVER].start(request, deadline, Some(range), by_handler)?;
        let header = Header::command(ticket.id(), command, payload.len());
        let serial = Some(serial);
        let sent = Sent { header, payload, fds, serial, writes_before: 0, bogus: false };
        self.device.dmas += 1;
        self.send(SERVER, self.dma_channel(), sent);
        Some(ticket)
    }

    /// Gives up DMA to addresses that may begin and end anywhere.
    pub(super) fn cancel_range(&mut self, rng: &mut Rng) -> bool {
        let slot = rng.below(SLOTS as u32) as usize;
        let len = u64::from(rng.pick(&[0, 1, 2, 64, SLOT as u32]));
        let start = base(slot) + u64::from(rng.pick(&[0, 1, SLOT as u32 / 2, SLOT as u32 - 1]));
        let len = len.min(u64::MAX - start + u64::from(start > 0));
        self.sides[SERVER].cancel(Some((start, len)));
        true
    }

    pub(super) fn device_finish(&mut self, request: &Request, reply: Option<&Message<u32>>) {
        let honest = matches!(&request.state, State::Done { reply, .. } if !reply.bogus);
        let Some(reply) = reply.filter(|_| honest) else { return };
        match &request.ask {
            Ask::DmaRead { may_fail: true, .. } => assert!(reply.header().is_error()),
            _ if reply.header().is_error() => panic!("a peer that refuses: {request:?}"),
            Ask::DmaRead { address, expect, len, .. } => {
                let read = DmaReadReply::parse(reply.payload()).unwrap();
                assert_eq!((read.address, read.data.len()), (*address, *len));
                if let Some(expect) = expect.as_ref().filter(|_| !self.device.is_tainted) {
                    assert!(read.data == expect, "memory at {address:#x}");
                }
            }
            Ask::DmaWrite { address, len } => {
                let want = DmaWriteReply::new(*address, *len as u64);
                assert_eq!(DmaWriteReply::parse(reply.payload()), Ok(want));
            }
            ask => panic!("not of the device: {ask:?}"),
        }
    }

    /// With nothing under way, what the device thinks of the memory is true.
    pub(super) fn check_memory(&self) {
        let poked = (SLOTS - 2) * SLOT as usize..(SLOTS - 1) * SLOT as usize;
        for (i, (a, b)) in self.device.mirror.iter().zip(&self.client.memory).enumerate() {
            assert!(a == b || poked.contains(&i) || self.device.is_tainted, "memory at {i:#x}");
        }
    }
}
