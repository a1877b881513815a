//! Everything there is, and its steps.

use std::fmt::Arguments;
use std::rc::Rc;

use vfu_proto::session::{Channel, Closed, Message, Role, Ticket};
use vfu_proto::wire::Header;

use super::book::Request;
use super::client::Client;
use super::config::{Config, Kind, Op};
use super::device::Device;
use super::net::{Sent, Stream};
use super::rng::Rng;
use super::seen::Seen;
use super::side::Side;

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

/// Memory that can be mapped: the bytes of one piece, and the number of pieces. All but the last
/// touch each other; that one ends where the addresses do.
pub(super) const SLOT: u64 = 0x2000;
pub(super) const SLOTS: usize = 6;

/// The first address of a piece.
pub(super) fn base(slot: usize) -> u64 {
    if slot + 1 == SLOTS { u64::MAX - (SLOT - 1) } else { 0x10_0000 + slot as u64 * SLOT }
}

/// Any of the pieces that will do.
pub(super) fn some_slot(rng: &mut Rng, which: impl Fn(usize) -> bool) -> Option<usize> {
    let first = rng.below(SLOTS as u32) as usize;
    (0..SLOTS).map(|i| (first + i) % SLOTS).find(|slot| which(*slot))
}

/// A reply that is not sent yet.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    pub(super) serial: Option<u64>,
}

pub(super) struct World {
    pub(super) config: Config,
    pub(super) now: u64,
    pub(super) sides: [Side; 2],
    /// By sender and channel.
    pub(super) streams: [[Stream; 2]; 2],
    pub(super) client: Client,
    pub(super) device: Device,
    /// Which side has closed its sockets.
    hung_up: [bool; 2],
    /// A socket was lost, or somebody lied.
    pub(super) intact: bool,
    /// How often the rarer things happened.
    pub(super) seen: Seen,
    /// What happened, if that is wanted.
    pub(super) trace: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(config: Config, traced: bool) -> World {
        let [client, server] = config.limits.clone();
        let sides = [
            Side::new(Role::Client, config.twin, client, config.honest),
            Side::new(Role::Server, config.twin, server, config.honest),
        ];
        let mut streams: [[Stream; 2]; 2] = Default::default();
        streams.iter_mut().flatten().for_each(|stream| stream.room = config.room);
        World {
            now: 0,
            sides,
            streams,
            client: Client::new(),
            device: Device::new(),
            hung_up: [false; 2],
            intact: config.honest,
            seen: Seen::default(),
            trace: traced.then(Vec::new),
            config,
        }
    }

    pub(super) fn note(&mut self, what: Arguments<'_>) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("[{}] {what}", self.now));
        }
    }

    /// Takes one step, and checks all that can be checked. False if there was nothing to do.
    pub(super) fn step(&mut self, op: Op) -> bool {
        let mut rng = Rng::new(u64::from(op.seed));
        let rng = &mut rng;
        let done = match op.kind {
            Kind::Flush => self.flush(rng),
            Kind::Deliver => self.deliver(rng),
            Kind::Tick => self.tick(rng),
            Kind::RegionRead => self.region_read(rng),
            Kind::RegionWrite => self.region_write(rng, false),
            Kind::Post => self.region_write(rng, true),
            Kind::Bulk => self.bulk(rng),
            Kind::Doorbell => self.doorbell(rng),
            Kind::Map => self.map(rng),
            Kind::Unmap => self.unmap(rng),
            Kind::Reset => self.reset(),
            Kind::Poke => self.poke(rng),
            Kind::Begin => self.begin(),
            Kind::End => self.end(rng),
            Kind::Release => self.release(rng),
            Kind::Execute => self.execute(rng),
            Kind::Resume => self.resume(rng),
            Kind::Answer => self.answer(rng),
            Kind::DmaRead => self.dma_read(rng, None),
            Kind::DmaWrite => self.dma_write(rng),
            Kind::CancelRange => self.cancel_range(rng),
            Kind::Interrupt => self.interrupt(),
            Kind::Poll => self.poll(rng),
            Kind::Forget => self.forget(rng),
            Kind::WakeOn => self.wake_on(rng),
            Kind::BurnIds => self.burn_ids(rng),
            Kind::Lose => self.lose(rng),
            Kind::Stop => self.stop(rng),
            Kind::Lie => self.lie(rng),
        };
        if done {
            self.note(format_args!("{:?}", op.kind));
            self.settle();
        }
        done
    }

    /// What follows from a step at once.
    fn settle(&mut self) {
        for who in [CLIENT, SERVER] {
            while let Some((channel, header)) = self.sides[who].refusals.pop() {
                let refusal = Reply { header, payload: Vec::new(), serial: None };
                self.send_reply(who, channel, refusal, true);
            }
            self.sides[who].check();
        }
        self.send_held();
        for who in [CLIENT, SERVER] {
            if self.sides[who].book.closed.is_some() && !self.hung_up[who] {
                self.hung_up[who] = true;
                self.intact = false;
                self.streams[who].iter_mut().for_each(Stream::hang_up);
                self.streams[1 - who].iter_mut().for_each(|stream| stream.ended = true);
                let why = self.sides[who].book.closed.clone();
                self.note(format_args!("side {who} has ended: {why:?}"));
            }
        }
    }

    /// Puts a message into a queue.
    pub(super) fn send(&mut self, from: usize, channel: Channel, sent: Sent) {
        if self.sides[from].book.closed.is_none() {
            let header = sent.header;
            self.streams[from][channel as usize].push(&Rc::new(sent));
            self.note(format_args!("side {from} sends on {channel:?}: {header:?}"));
        }
    }

    pub(super) fn send_reply(&mut self, from: usize, channel: Channel, reply: Reply, bogus: bool) {
        let Reply { header, payload, serial } = reply;
        let writes_before = self.device.writes;
        let sent = Sent { header, payload, fds: Vec::new(), serial, writes_before, bogus };
        self.send(from, channel, sent);
    }

    /// Whether a side may send more.
    pub(super) fn may_send(&self, who: usize, channel: Channel) -> bool {
        let limit = self.config.limits[who].unsent_bytes;
        self.streams[who][channel as usize].unsent() <= limit
            && self.sides[who].book.closed.is_none()
    }

    fn flush(&mut self, rng: &mut Rng) -> bool {
        let (who, channel) = (rng.below(2) as usize, rng.below(2) as usize);
        let max = rng.pick(&[1, 16, 100, 5000, usize::MAX]);
        self.flush_some(who, channel, max)
    }

    fn flush_some(&mut self, who: usize, channel: usize, max: usize) -> bool {
        match self.streams[who][channel].flush(max) {
            Ok(n) => n > 0,
            Err(()) => {
                self.sides[who].close(Closed::Disconnected);
                true
            }
        }
    }

    fn deliver(&mut self, rng: &mut Rng) -> bool {
        let (who, channel) = (rng.below(2) as usize, rng.pick(&Channel::ALL));
        if self.config.twin && self.config.slow == Some(channel) && !rng.one_in(8) {
            return false;
        }
        let max = 1 + rng.below(self.config.receive) as usize;
        self.deliver_some(who, channel, max)
    }

    fn deliver_some(&mut self, who: usize, channel: Channel, max: usize) -> bool {
        let stream = &mut self.streams[1 - who][channel as usize];
        self.sides[who].deliver(channel, stream, max)
    }

    fn tick(&mut self, rng: &mut Rng) -> bool {
        self.now += u64::from(1 + rng.below(self.config.tick));
        let which = 1 + rng.below(3);
        for who in [CLIENT, SERVER] {
            if which & (1 << who) != 0 {
                self.sides[who].expire(self.now);
            }
        }
        true
    }

    pub(super) fn deadline(&self, rng: &mut Rng) -> u64 {
        self.now + u64::from(1 + rng.below(self.config.patience))
    }

    /// One of the requests that somebody may ask for.
    fn some_request(&self, who: usize, rng: &mut Rng) -> Option<usize> {
        let requests = &self.sides[who].book.requests;
        let at = rng.below(requests.len().max(1) as u32) as usize;
        requests.get(at).filter(|r| !r.by_handler).map(|_| at)
    }

    fn poll(&mut self, rng: &mut Rng) -> bool {
        let who = rng.below(2) as usize;
        let Some(at) = self.some_request(who, rng) else { return false };
        let ticket = self.sides[who].book.requests[at].ticket;
        self.look(who, ticket);
        true
    }

    /// Looks what became of a request. True if that is known now.
    fn look(&mut self, who: usize, ticket: Ticket) -> bool {
        let Some((request, reply)) = self.sides[who].outcome(ticket) else {
            if self.sides[who].is_held_back(ticket) {
                self.seen.add("an outcome behind a command", 1);
            }
            return false;
        };
        self.note(format_args!("side {who} learns of {ticket:?}: {:?}", request.state));
        self.finish(who, request, reply);
        true
    }

    pub(super) fn finish(&mut self, who: usize, request: Request, reply: Option<Message<u32>>) {
        if who == CLIENT {
            self.client_finish(&request, reply.as_ref());
        } else {
            self.device_finish(&request, reply.as_ref());
        }
        if let Some(reply) = reply {
            self.sides[who].recycle(reply);
        }
    }

    fn forget(&mut self, rng: &mut Rng) -> bool {
        let who = rng.below(2) as usize;
        let Some(at) = self.some_request(who, rng) else { return false };
        let request = &self.sides[who].book.requests[at];
        let ticket = request.ticket;
        self.client.abandon(&request.ask);
        self.sides[who].forget(ticket);
        true
    }

    fn wake_on(&mut self, rng: &mut Rng) -> bool {
        let who = rng.below(2) as usize;
        if rng.one_in(4) {
            self.sides[who].wake_on_room();
            return true;
        }
        let Some(at) = self.some_request(who, rng) else { return false };
        self.sides[who].wake_on(at);
        true
    }

    /// Posted commands use up ids, until the next ones are those of old requests.
    fn burn_ids(&mut self, rng: &mut Rng) -> bool {
        let who = rng.below(2) as usize;
        let Some(oldest) = self.sides[who].book.requests.first() else { return false };
        let stop = oldest.ticket.id().wrapping_sub(3);
        for _ in 0..=u16::MAX {
            if self.sides[who].start_posted().is_none_or(|id| id == stop) {
                self.seen.add("ids that come round", 1);
                break;
            }
        }
        true
    }

    /// Goes on without disturbances until nothing moves any more. Returns the number of steps.
    pub(super) fn quiesce(&mut self) -> u64 {
        let mut steps = 0;
        let mut rng = Rng::new(1);
        let rng = &mut rng;
        self.note(format_args!("from here on all goes its way"));
        loop {
            let mut moved = 0;
            for who in [CLIENT, SERVER] {
                for channel in Channel::ALL {
                    moved += u64::from(self.flush_some(who, channel as usize, usize::MAX));
                    self.settle();
                    moved += u64::from(self.deliver_some(who, channel, usize::MAX));
                    self.settle();
                }
                let requests = self.sides[who].book.requests.iter().filter(|r| !r.by_handler);
                let tickets: Vec<_> = requests.map(|r| r.ticket).collect();
                for ticket in tickets {
                    moved += u64::from(self.look(who, ticket));
                    self.settle();
                }
            }
            for step in [World::execute, World::resume, World::answer, World::release, World::end] {
                while step(self, rng) {
                    moved += 1;
                    self.settle();
                }
            }
            moved += u64::from(self.begin());
            self.settle();
            steps += moved;
            if moved > 0 {
                continue;
            }
            let deadlines = self.sides.iter().filter_map(|side| side.book.next_deadline());
            let Some(next) = deadlines.min() else { return steps };
            self.now = self.now.max(next);
            let expired = self.sides.iter_mut().map(|s| s.expire(self.now)).sum::<usize>();
            assert!(expired > 0, "a deadline passes, and nothing expires");
            self.settle();
        }
    }
}
