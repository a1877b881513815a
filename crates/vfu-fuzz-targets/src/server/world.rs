//! The server, its client, and what each owes the other.

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use vfu::{DmaError, Limits, Server, SharedMemory};
use vfu_proto::session::Message;
use vfu_proto::wire::{Command, HEADER_SIZE, Header, Kind, MigDataReadReply};

use super::gadget::{self, Gadget};
use crate::grammar;
use crate::pipe::{Pipe, some_descriptors};
use crate::script::Script;

/// DMA of the device that is under way.
type Dma = Pin<Box<dyn Future<Output = Result<(), DmaError>>>>;

/// The most DMA at once, and the most bytes of one.
const TRANSFERS: usize = 8;
const TRANSFER: usize = 8192;
/// Handlers may wait; so often.
const WAITS: u32 = 4;

pub(super) struct World<'a> {
    script: Script<'a>,
    server: Server<Gadget>,
    /// The main socket, and the twin.
    pipes: [Option<Pipe>; 2],
    /// Commands that want a reply.
    owed: Vec<Header>,
    /// Commands of the server that wait for ours.
    asked: Vec<(usize, Header, Vec<u8>)>,
    transfers: Vec<Dma>,
    /// The last state of the device that was read.
    saved: Vec<u8>,
    /// Everything that was sent was whole messages.
    sane: bool,
    waits: u32,
}

impl<'a> World<'a> {
    pub(super) fn new(mut script: Script<'a>, listener: OwnedFd) -> Self {
        let limits = Limits {
            max_message: 128 << 10,
            reply_timeout: None,
            handler_timeout: Some(Duration::from_millis(1)),
            outstanding: 4,
            zombies: 8,
            queued_commands: 16,
            queued_bytes: 256 << 10,
            stray_replies: 4,
            misplaced_commands: 4,
            unsent_bytes: 64 << 10,
            ..Limits::default()
        };
        let memory = SharedMemory::new(64 << 10).expect("memory");
        let bound = gadget::builder(&memory).max_dma_maps(8).limits(limits).fd(listener);
        let server = bound.expect("a server").serve(Gadget::new).expect("a device");
        let main = Pipe::new(super::connect().into());
        let first = if script.one_in(16) { None } else { Some(grammar::version(&mut script)) };
        let mut world = World {
            script,
            server,
            pipes: [Some(main), None],
            owed: Vec::new(),
            asked: Vec::new(),
            transfers: Vec::new(),
            saved: Vec::new(),
            sane: true,
            waits: 0,
        };
        if let Some(version) = first {
            world.say(0, Command::Version.as_u16(), &version, 0);
        }
        world.process();
        world.listen();
        if !world.script.one_in(4) {
            // A driver's first deed, so that there is DMA: Memory Space and Bus Master Enable.
            let write = [&4_u64.to_le_bytes()[..], &[7, 0, 0, 0, 2, 0, 0, 0, 6, 0]].concat();
            world.say(0, Command::RegionWrite.as_u16(), &write, 0);
        }
        world
    }

    pub(super) fn goes_on(&self) -> bool {
        !self.script.is_empty() && self.pipes[0].as_ref().is_some_and(|main| !main.ended)
    }

    pub(super) fn step(&mut self) {
        match self.script.below(24) {
            0..10 => self.command(),
            10 => self.misplaced(),
            11..14 => self.reply(),
            14..17 => self.transfer(),
            17 => self.garbage(),
            18 => self.in_pieces(),
            19 => drop(self.transfers.pop()),
            20 => drop(self.server.device().let_go()),
            21 => self.move_device(),
            22 => drop(self.server.handle().vector(self.script.below(5) as u32).trigger()),
            _ => self.pipes[1] = self.pipes[1].take().filter(|_| !self.script.one_in(8)),
        }
        // Or more piles up first.
        if !self.script.one_in(4) {
            self.process();
            self.listen();
        }
    }

    fn process(&mut self) {
        self.server.process().expect("the server goes on");
        let context = &mut Context::from_waker(Waker::noop());
        self.transfers.retain_mut(|transfer| transfer.as_mut().poll(context).is_pending());
    }

    /// Reads all that the server says.
    fn listen(&mut self) {
        for channel in 0..2 {
            let Some(pipe) = &mut self.pipes[channel] else { continue };
            pipe.flush();
            for message in pipe.receive() {
                self.heard(channel, message);
            }
        }
    }

    fn heard(&mut self, channel: usize, mut message: Message<OwnedFd>) {
        let header = *message.header();
        assert_eq!(header.size as usize, HEADER_SIZE + message.payload().len());
        if header.kind() == Some(Kind::Command) {
            assert!(channel == 1 || self.pipes[1].is_none() || !self.sane, "the twin is for that");
            let known = Command::from_u16(header.command);
            assert!(matches!(known, Some(Command::DmaRead | Command::DmaWrite)), "{header:?}");
            assert!(self.asked.iter().all(|(_, other, _)| other.id != header.id), "id in use");
            self.asked.push((channel, header, message.payload().to_vec()));
            return;
        }
        let asked = |owed: &Header| (owed.id, owed.command) == (header.id, header.command);
        match self.owed.iter().position(asked) {
            Some(at) => drop(self.owed.remove(at)),
            None => assert!(!self.sane, "a reply to nothing: {header:?}"),
        }
        if header.is_error() {
            return;
        }
        if header.command == Command::Version.as_u16() && self.pipes[1].is_none() {
            self.pipes[1] = message.take_fds().pop().map(Pipe::new);
        }
        if header.command == Command::MigDataRead.as_u16() {
            let reply = MigDataReadReply::parse(message.payload()).expect("it is ours");
            self.saved.extend_from_slice(reply.data);
        }
    }

    /// Sends a command that is well framed.
    fn say(&mut self, channel: usize, command: u16, payload: &[u8], fds: usize) {
        let bytes = self.make(command, payload);
        let fds = some_descriptors(&mut self.script, fds);
        if let Some(pipe) = &mut self.pipes[channel] {
            pipe.send(&bytes, &fds);
        }
    }

    /// The bytes of a command, which is owed a reply from now on if it wants one.
    fn make(&mut self, command: u16, payload: &[u8]) -> Vec<u8> {
        let size = (HEADER_SIZE + payload.len()) as u32;
        let flags = if self.script.one_in(6) { 0x10 } else { 0 };
        let header = Header { id: self.script.u8().into(), command, size, flags, error: 0 };
        if !header.wants_no_reply() {
            self.owed.push(header);
        }
        [&header.emit()[..], payload].concat()
    }

    fn generated(&mut self) -> (u16, Vec<u8>) {
        let (mut command, mut payload) = grammar::command(&mut self.script);
        if self.script.one_in(16) {
            command = self.script.u16();
        }
        if self.script.one_in(16) {
            payload.truncate(self.script.below(payload.len() + 1));
        }
        // A handler that waits for us takes a while.
        let waits =
            payload.first_chunk::<9>().is_some_and(|p| matches!(p[0], 0x18 | 0x1c) && p[8] == 0);
        if waits && command == Command::RegionWrite.as_u16() {
            self.waits += 1;
            if self.waits > WAITS {
                return (Command::DeviceGetInfo.as_u16(), Vec::new());
            }
        }
        (command, payload)
    }

    fn command(&mut self) {
        let (command, payload) = self.generated();
        let takes =
            matches!(Command::from_u16(command), Some(Command::DmaMap | Command::DeviceSetIrqs));
        let most = if takes { 3 } else { usize::from(self.script.one_in(16)) * 20 };
        self.say(0, command, &payload, most);
    }

    /// A command where none may be.
    fn misplaced(&mut self) {
        if self.pipes[1].is_some() {
            let (command, payload) = self.generated();
            self.say(1, command, &payload, 1);
        }
    }

    /// Answers one of the server's requests, rightly or not.
    fn reply(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let (channel, header, payload) = self.asked.remove(self.script.below(self.asked.len()));
        let Some(address) = payload.get(..8) else { return };
        let count = payload.get(8..16).and_then(|count| count.try_into().ok());
        let count = count.map_or(0, u64::from_le_bytes);
        let mut body = [address, &count.to_le_bytes()[..]].concat();
        if header.command == Command::DmaRead.as_u16() {
            body.resize(16 + count.min(1 << 20) as usize, 0xd5);
        }
        let mut reply = header.reply(body.len());
        match self.script.below(16) {
            0 => reply.id = self.script.u16(),
            1 => reply.command = self.script.u16(),
            2 => body.truncate(self.script.below(body.len() + 1)),
            3 => body.push(0),
            4 => body[self.script.below(16)] ^= 1,
            5 => reply = header.error_reply(vfu::wire::Errno::EIO),
            _ => {}
        }
        if reply.is_error() {
            body.clear();
        }
        reply.size = (HEADER_SIZE + body.len()) as u32;
        if let Some(pipe) = &mut self.pipes[channel] {
            pipe.send(&[&reply.emit()[..], &body].concat(), &[]);
        }
    }

    /// The device begins DMA.
    fn transfer(&mut self) {
        if self.transfers.len() >= TRANSFERS {
            return;
        }
        let (dma, address) = (self.server.handle().dma(), grammar::address(&mut self.script));
        let mut data = vec![0x11; self.script.number() as usize % TRANSFER];
        self.transfers.push(if self.script.one_in(2) {
            Box::pin(async move { dma.read_async(address, &mut data).await })
        } else {
            Box::pin(async move { dma.write_async(address, &data).await })
        });
    }

    /// Bytes that are no message, or one that claims anything.
    fn garbage(&mut self) {
        if !self.script.one_in(3) {
            return;
        }
        self.sane = false;
        let channel = usize::from(self.pipes[1].is_some() && self.script.one_in(3));
        let bytes = self.script.bytes(40);
        let fds = some_descriptors(&mut self.script, 2);
        if let Some(pipe) = &mut self.pipes[channel] {
            pipe.send(bytes, &fds);
        }
    }

    fn in_pieces(&mut self) {
        let (command, payload) = self.generated();
        let bytes = self.make(command, &payload);
        let (head, tail) = bytes.split_at(self.script.below(bytes.len()));
        let fds = [some_descriptors(&mut self.script, 2), some_descriptors(&mut self.script, 1)];
        for (piece, fds) in [head, tail].into_iter().zip(&fds) {
            if let Some(pipe) = &mut self.pipes[0] {
                pipe.send(piece, fds);
            }
            self.process();
            self.listen();
        }
    }

    /// Reads the state of the device, or puts the last one back with some changes.
    fn move_device(&mut self) {
        use vfu_proto::wire::DeviceState::{Resuming, Running, Stop, StopCopy};
        let read = |size: u32| [8_u32.to_le_bytes(), size.to_le_bytes()].concat();
        if self.saved.is_empty() || self.script.one_in(4) {
            self.saved.clear();
            self.set_state(StopCopy as u32);
            let command = Command::MigDataRead.as_u16();
            self.say(0, command, &read(64 << 10), 0);
            self.process();
            self.listen();
            return;
        }
        let mut image = self.saved.clone();
        for _ in 0..self.script.below(4) {
            let at = usize::from(self.script.u16()) % image.len();
            image[at] = self.script.u8();
        }
        if self.script.one_in(8) {
            image.truncate(self.script.u16().into());
        }
        // What is damaged on the way is refused anyhow.
        if let Some((bytes, crc)) = image.split_last_chunk_mut::<4>() {
            *crc = crc32fast::hash(bytes).to_le_bytes();
        }
        self.set_state(Stop as u32);
        self.set_state(Resuming as u32);
        let payload = [read(image.len() as u32), image].concat();
        self.say(0, Command::MigDataWrite.as_u16(), &payload, 0);
        self.set_state(Running as u32);
    }

    fn set_state(&mut self, state: u32) {
        let (command, payload) = grammar::set_state(state);
        self.say(0, command, &payload, 0);
        self.process();
        self.listen();
    }

    /// Whatever was held is let go, and everything answered: then nothing is owed any more.
    pub(super) fn settle(&mut self) {
        self.transfers.clear();
        // Each round answers all that the one before has brought; a reset takes one for itself.
        for _ in 0..64 + self.owed.len() {
            self.process();
            self.listen();
            let busy = self.server.device().let_go() || !self.asked.is_empty();
            for (channel, header, _) in std::mem::take(&mut self.asked) {
                let refusal = header.error_reply(vfu::wire::Errno::EIO).emit();
                if let Some(pipe) = &mut self.pipes[channel] {
                    pipe.send(&refusal, &[]);
                }
            }
            let ended = self.pipes[0].as_ref().is_none_or(|main| main.ended);
            if ended || (!busy && self.owed.is_empty()) {
                break;
            }
        }
        let whole = self.pipes.iter().flatten().all(Pipe::is_flushed);
        let open = self.pipes[0].as_ref().is_some_and(|main| !main.ended);
        if self.sane && whole && open {
            assert!(self.owed.is_empty(), "not answered: {:?}", self.owed);
        }
    }

    /// The client goes away: the server has no client any more.
    pub(super) fn leave(&mut self) {
        self.pipes = [None, None];
        // What it sent before comes first, and each call receives a bounded part of that.
        for _ in 0..16 {
            self.process();
        }
        assert!(!self.server.handle().is_connected(), "the client has gone");
        self.server.device().let_go();
    }

    /// The next client gets what it asks for.
    pub(super) fn serves_the_next(&mut self, socket: &UnixStream) {
        let socket = socket.as_fd().try_clone_to_owned().expect("a descriptor");
        self.pipes[0] = Some(Pipe::new(socket));
        (self.sane, self.script) = (true, Script::new(&[]));
        self.owed.clear();
        let version = grammar::version(&mut Script::new(&[]));
        self.say(0, Command::Version.as_u16(), &version, 0);
        let read = [&0_u64.to_le_bytes()[..], &[7, 0, 0, 0, 4, 0, 0, 0]].concat();
        self.say(0, Command::RegionRead.as_u16(), &read, 0);
        for _ in 0..4 {
            self.process();
            self.listen();
        }
        assert!(self.owed.is_empty(), "the next client is not served: {:?}", self.owed);
    }
}
