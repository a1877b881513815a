//! The driver: it has the memory, and uses the device's registers.

use std::rc::Rc;

use vfu_proto::session::{Channel, Message};
use vfu_proto::wire::{
    Command, DmaReadReply, DmaReadRequest, DmaWriteReply, DmaWriteRequest, Errno, Header,
    RegionReadReply, RegionReadRequest, RegionWriteReply, RegionWriteRequest,
};

use super::book::{Ask, Request, State};
use super::device::{BULK, DOORBELL, REGISTERS, STATUS};
use super::net::Sent;
use super::rng::Rng;
use super::world::{CLIENT, Reply, SERVER, SLOT, SLOTS, World, base, some_slot};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    None,
    Asked,
    Mapped,
    UnmapAsked,
    /// We do not know whether the server did what we asked.
    Limbo,
}

#[derive(Debug)]
pub(super) struct Client {
    /// What the registers will be when all that was sent is executed.
    registers: [u32; REGISTERS],
    /// Commands sent.
    pub(super) commands: u64,
    maps: [Mapping; SLOTS],
    pub(super) memory: Vec<u8>,
    executing: Option<(Message<u32>, Rc<Sent>)>,
    /// Answers that are kept back.
    kept: Vec<Reply>,
    /// DMA commands executed, and the writes among them.
    pub(super) served: u64,
    pub(super) applied: u64,
    /// Requests of the server that are never answered.
    pub(super) unanswered: Vec<u64>,
}

impl Client {
    pub(super) fn new() -> Client {
        Client {
            registers: [0; REGISTERS],
            commands: 0,
            maps: [Mapping::None; SLOTS],
            memory: vec![0; SLOTS * SLOT as usize],
            executing: None,
            kept: Vec::new(),
            served: 0,
            applied: 0,
            unanswered: Vec::new(),
        }
    }

    /// Nobody will learn the outcome of this.
    pub(super) fn abandon(&mut self, ask: &Ask) {
        if let Ask::Map(slot) | Ask::Unmap(slot) = ask {
            self.maps[*slot] = Mapping::Limbo;
        }
    }

    /// Where in our memory the device's address is, and in which piece.
    pub(super) fn locate(address: u64, len: usize) -> (usize, usize) {
        let slot = (0..SLOTS).find(|s| address.wrapping_sub(base(*s)) < SLOT);
        let slot = slot.expect("an address that was never mapped");
        let offset = (address - base(slot)) as usize;
        assert!(offset + len <= SLOT as usize);
        (slot, slot * SLOT as usize + offset)
    }
}

impl World {
    fn client_sends(
        &mut self,
        rng: &mut Rng,
        command: Command,
        payload: Vec<u8>,
        ask: Ask,
    ) -> bool {
        if !self.may_send(CLIENT, Channel::Main) {
            return false;
        }
        let deadline = (!rng.one_in(4)).then(|| self.deadline(rng));
        let Some((ticket, serial)) =
            self.sides[CLIENT].start((command, ask), deadline, None, false)
        else {
            return false;
        };
        let header = Header::command(ticket.id(), command, payload.len());
        self.client_sent(rng, header, payload, Some(serial));
        true
    }

    fn client_sent(
        &mut self,
        rng: &mut Rng,
        header: Header,
        payload: Vec<u8>,
        serial: Option<u64>,
    ) {
        let fds = if rng.one_in(8) { vec![rng.word(); 1 + rng.below(3) as usize] } else { vec![] };
        let sent = Sent { header, payload, fds, serial, writes_before: 0, bogus: false };
        self.client.commands += 1;
        self.send(CLIENT, Channel::Main, sent);
    }

    pub(super) fn region_read(&mut self, rng: &mut Rng) -> bool {
        let (offset, expect) = if rng.one_in(4) {
            (STATUS, self.client.commands.to_le_bytes().to_vec())
        } else {
            let register = rng.below(REGISTERS as u32) as usize;
            (4 * register as u64, self.client.registers[register].to_le_bytes().to_vec())
        };
        let mut payload = Vec::new();
        RegionReadRequest { offset, region: 0, count: expect.len() as u32 }.emit(&mut payload);
        self.client_sends(rng, Command::RegionRead, payload, Ask::RegionRead { expect })
    }

    pub(super) fn region_write(&mut self, rng: &mut Rng, posted: bool) -> bool {
        let (register, value) = (rng.below(REGISTERS as u32) as usize, rng.word());
        let mut payload = Vec::new();
        let data = &value.to_le_bytes();
        RegionWriteRequest { offset: 4 * register as u64, region: 0, data }.emit(&mut payload);
        let sent = if posted {
            self.client_posts(rng, payload)
        } else {
            self.client_sends(rng, Command::RegionWrite, payload, Ask::RegionWrite)
        };
        if sent {
            self.client.registers[register] = value;
        }
        sent
    }

    fn client_posts(&mut self, rng: &mut Rng, payload: Vec<u8>) -> bool {
        if !self.may_send(CLIENT, Channel::Main) {
            return false;
        }
        let Some(mut id) = self.sides[CLIENT].start_posted() else { return false };
        let requests = &self.sides[CLIENT].book.requests;
        if let Some(other) = requests.last().filter(|_| self.config.double_ids) {
            id = other.ticket.id();
        }
        let header = Header::command(id, Command::RegionWrite, payload.len()).with_no_reply();
        self.client_sent(rng, header, payload, None);
        true
    }

    pub(super) fn bulk(&mut self, rng: &mut Rng) -> bool {
        let len = rng.pick(&[4079, 4080, 4081, 4200, 10_000, 70_000, 200_000]);
        let len = if self.config.receive < 1000 { len.min(4200) } else { len };
        let data = vec![rng.word() as u8; len];
        let mut payload = Vec::new();
        RegionWriteRequest { offset: BULK, region: 0, data: &data }.emit(&mut payload);
        if rng.one_in(2) {
            return self.client_posts(rng, payload);
        }
        self.client_sends(rng, Command::RegionWrite, payload, Ask::RegionWrite)
    }

    pub(super) fn doorbell(&mut self, rng: &mut Rng) -> bool {
        let mut payload = Vec::new();
        let choice = rng.below(3);
        if choice == 0 {
            RegionReadRequest { offset: DOORBELL, region: 0, count: 4 }.emit(&mut payload);
            return self.client_sends(rng, Command::RegionRead, payload, Ask::Doorbell);
        }
        RegionWriteRequest { offset: DOORBELL, region: 0, data: &[0; 4] }.emit(&mut payload);
        if choice == 1 {
            return self.client_posts(rng, payload);
        }
        self.client_sends(rng, Command::RegionWrite, payload, Ask::Doorbell)
    }

    pub(super) fn map(&mut self, rng: &mut Rng) -> bool {
        let Some(slot) = some_slot(rng, |slot| self.client.maps[slot] == Mapping::None) else {
            return false;
        };
        let sent = self.client_sends(rng, Command::DmaMap, vec![slot as u8], Ask::Map(slot));
        if sent {
            self.client.maps[slot] = Mapping::Asked;
        }
        sent
    }

    pub(super) fn unmap(&mut self, rng: &mut Rng) -> bool {
        let Some(slot) = some_slot(rng, |slot| self.client.maps[slot] == Mapping::Mapped) else {
            return false;
        };
        let sent = self.client_sends(rng, Command::DmaUnmap, vec![slot as u8], Ask::Unmap(slot));
        if sent {
            self.client.maps[slot] = Mapping::UnmapAsked;
        }
        sent
    }

    pub(super) fn reset(&mut self) -> bool {
        let rng = &mut Rng::new(self.client.commands);
        let sent = self.client_sends(rng, Command::DeviceReset, Vec::new(), Ask::Reset);
        if sent {
            self.client.registers = [0; REGISTERS];
        }
        sent
    }

    /// Writes to the piece of memory in which the device expects nothing in particular.
    pub(super) fn poke(&mut self, rng: &mut Rng) -> bool {
        let at = SLOT as usize * (SLOTS - 2) + rng.below(SLOT as u32) as usize;
        self.client.memory[at] = rng.word() as u8;
        true
    }

    pub(super) fn client_finish(&mut self, request: &Request, reply: Option<&Message<u32>>) {
        let honest = match &request.state {
            State::Done { reply, .. } if !reply.bogus => Some(reply),
            _ => None,
        };
        let (Some(reply), Some(sent)) = (reply, honest) else {
            return self.client.abandon(&request.ask);
        };
        if !self.config.twin && self.sides[CLIENT].book.closed.is_none() {
            let (applied, before) = (self.client.applied, sent.writes_before);
            assert!(applied >= before, "a reply is seen before the data: {applied} of {before}");
        }
        assert!(!reply.header().is_error() || matches!(request.ask, Ask::Doorbell));
        match &request.ask {
            Ask::RegionRead { expect } => {
                let reply = RegionReadReply::parse(reply.payload()).unwrap();
                assert_eq!(reply.data, expect, "the value of a register");
            }
            Ask::RegionWrite => drop(RegionWriteReply::parse(reply.payload()).unwrap()),
            Ask::Map(slot) => self.client.maps[*slot] = Mapping::Mapped,
            Ask::Unmap(slot) => self.client.maps[*slot] = Mapping::None,
            Ask::Doorbell | Ask::Reset => {}
            Ask::DmaRead { .. } | Ask::DmaWrite { .. } => panic!("not of the client"),
        }
    }

    pub(super) fn begin(&mut self) -> bool {
        if !self.sides[CLIENT].book.executing && self.sides[CLIENT].book.queue.is_empty() {
            return false;
        }
        let Some(taken) = self.sides[CLIENT].take(true) else { return false };
        assert!(self.client.executing.is_none());
        self.client.executing = Some(taken);
        true
    }

    pub(super) fn end(&mut self, rng: &mut Rng) -> bool {
        let channel = self.sides[CLIENT].book.command_channel();
        // However much waits to be sent: the device may be waiting for us to go on, and if both sides
        // waited for the other to read, neither would.
        let Some((message, sent)) = self.client.executing.take() else { return false };
        let reply = self.serve(&message, &sent);
        if self.config.mute && rng.one_in(20) {
            self.client.unanswered.extend(sent.serial);
        } else if rng.one_in(5) {
            self.client.kept.push(reply);
        } else {
            self.send_reply(CLIENT, channel, reply, false);
        }
        self.sides[CLIENT].recycle(message);
        self.sides[CLIENT].end();
        true
    }

    fn serve(&mut self, message: &Message<u32>, sent: &Sent) -> Reply {
        let header = *message.header();
        let client = &mut self.client;
        client.served += 1;
        let mut payload = Vec::new();
        let mut refused = !message.fds().is_empty();
        if header.command == Command::DmaRead.as_u16() {
            let DmaReadRequest { address, count } =
                DmaReadRequest::parse(message.payload()).unwrap();
            let (slot, at) = Client::locate(address, count as usize);
            refused |= client.maps[slot] == Mapping::None;
            let data = &client.memory[at..][..count as usize];
            DmaReadReply { address, data }.emit(&mut payload);
        } else {
            let DmaWriteRequest { address, data } =
                DmaWriteRequest::parse(message.payload()).unwrap();
            let (slot, at) = Client::locate(address, data.len());
            client.applied += 1;
            refused |= client.maps[slot] == Mapping::None;
            if refused {
                self.device.is_tainted = true;
            } else {
                client.memory[at..][..data.len()].copy_from_slice(data);
            }
            DmaWriteReply::new(address, data.len() as u64).emit(&mut payload);
        }
        if !refused {
            return Reply { header: header.reply(payload.len()), payload, serial: sent.serial };
        }
        if message.fds().is_empty() && self.sides[SERVER].book.closed.is_none() {
            // An unmap that the server has answered: then it has given this up before.
            let requests = &self.sides[SERVER].book.requests;
            let still = requests.iter().any(|r| Some(r.serial) == sent.serial && r.is_waiting());
            self.seen.add("DMA to memory that was unmapped", 1);
            assert!(self.config.twin && !still, "DMA to memory that is not mapped: {sent:?}");
        }
        let header = header.error_reply(Errno::EFAULT);
        Reply { header, payload: Vec::new(), serial: sent.serial }
    }

    /// Sends one of the replies that were kept back, not the oldest in particular.
    pub(super) fn release(&mut self, rng: &mut Rng) -> bool {
        if self.client.kept.is_empty() {
            return false;
        }
        let at = rng.below(self.client.kept.len() as u32) as usize;
        let reply = self.client.kept.swap_remove(at);
        self.send_reply(CLIENT, self.sides[CLIENT].book.command_channel(), reply, false);
        true
    }
}
