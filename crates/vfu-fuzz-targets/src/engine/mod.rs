//! The engine, in both roles, under a script of what the peer sends and what we ask.

mod model;

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use vfu_proto::session::{
    Arrival, Channel, Closed, Counters, Framer, Limits, Message, Role, Session, Start, Ticket, Time,
};
use vfu_proto::wire::{Command, Errno, HEADER_SIZE, Header};

use crate::script::Script;
use model::{Bell, Expected, Model, Request, State};

pub(crate) const ABOUT: &str = "the engine in both roles, against a model that searches lists";

/// Inputs are short; this only bounds what blind ones take.
const MAX_STEPS: u64 = 2000;

pub(crate) fn run(bytes: &[u8]) {
    let mut world = World::new(Script::new(bytes));
    let mut steps = 0;
    while !world.script.is_empty() && steps < MAX_STEPS {
        world.step();
        world.compare();
        steps += 1;
    }
    world.end();
    crate::steps::add(steps);
}

struct World<'a> {
    script: Script<'a>,
    session: Session<u32>,
    model: Model,
    framers: [Framer<u32>; 2],
    /// Of the last message; each carries its number as its only descriptor.
    number: u32,
    now: u64,
    tickets: Vec<Ticket>,
}

impl<'a> World<'a> {
    fn new(mut script: Script<'a>) -> Self {
        let role = script.pick(&[Role::Server, Role::Client]);
        let (twin, answers_strays) = (script.one_in(2), script.one_in(4));
        let limits = Limits {
            outstanding: 1 + script.below(8),
            zombies: script.below(9),
            queued_commands: 1 + script.below(8),
            queued_bytes: 16 << script.below(5),
            stray_replies: script.below(4) as u64,
            misplaced_commands: script.below(4) as u64,
            ..Limits::default()
        };
        let mut session = Session::new(role, limits.clone());
        if twin {
            session.add_twin();
        }
        if answers_strays {
            session.answer_strays();
        }
        let model = Model {
            role,
            twin,
            answers_strays,
            limits,
            requests: Vec::new(),
            order: 0,
            queue: Default::default(),
            executed: 0,
            executing: false,
            counters: Counters::default(),
            closed: None,
            due: Vec::new(),
            fences: Vec::new(),
            for_room: Vec::new(),
        };
        let framers = Channel::ALL.map(|_| Framer::new(4096));
        World { script, session, model, framers, number: 0, now: 0, tickets: Vec::new() }
    }

    fn step(&mut self) {
        match self.script.below(24) {
            0..4 => self.start(),
            4 => self.start_posted(),
            5..9 => self.peer_replies(),
            9..12 => self.peer_commands(),
            12 | 13 => self.next_command(),
            14 | 15 => self.begin_or_end_command(),
            16..19 => self.outcome(),
            19 => self.forget(),
            20 => self.cancel(),
            21 => self.expire(),
            22 => self.wake(),
            _ => self.close(),
        }
    }

    fn start(&mut self) {
        let command = self.script.pick(&[
            Command::DmaRead,
            Command::DmaWrite,
            Command::RegionRead,
            Command::DeviceReset,
        ]);
        let after = self.script.below(16) as u64;
        let deadline = (after != 0).then(|| self.now + after);
        let range = self.script.one_in(2).then(|| (self.script.number(), self.script.number()));
        let time = deadline.map(|d| Time::at(Duration::from_nanos(d)));
        let got = self.session.start(command, time, range);
        if self.model.closed.is_some() {
            assert_eq!(got, Err(Start::Closed));
        } else if self.model.waiting() >= self.model.limits.outstanding {
            assert_eq!(got, Err(Start::Full));
        } else {
            let ticket = got.expect("there is room");
            assert_eq!(ticket.channel(), self.model.request_channel());
            assert!(!self.model.holds(ticket.channel(), ticket.id()), "the id is in use");
            self.model.order += 1;
            let (order, state) = (self.model.order, State::Waiting);
            let request = Request { ticket, order, command, deadline, range, state, bell: None };
            self.model.requests.push(request);
            self.tickets.push(ticket);
        }
    }

    fn start_posted(&mut self) {
        match self.session.start_posted() {
            Ok(id) => {
                assert!(self.model.closed.is_none());
                assert!(!self.model.holds(self.model.request_channel(), id), "the id is in use");
            }
            Err(why) => {
                assert_eq!(why, Start::Closed);
                assert!(self.model.closed.is_some());
            }
        }
    }

    /// One of all tickets there ever were, most often a late one.
    fn ticket(&mut self) -> Option<Ticket> {
        let back = self.script.below(12);
        let len = self.tickets.len();
        self.tickets.get(len.checked_sub(1)?.saturating_sub(back)).copied()
    }

    fn peer_replies(&mut self) {
        let ticket = self.ticket();
        let (mut channel, mut id, mut command) =
            (Channel::Main, self.script.u16() % 16, Command::RegionRead);
        if let Some(ticket) = ticket.filter(|_| !self.script.one_in(8)) {
            (channel, id) = (ticket.channel(), ticket.id());
            command = self.model.find(ticket).map_or(command, |request| request.command);
        }
        if self.script.one_in(16) {
            command = self.script.pick(Command::ALL);
        }
        if self.script.one_in(16) {
            channel = self.script.pick(&Channel::ALL);
        }
        let header = Header::command(id, command, 0);
        let header =
            if self.script.one_in(8) { header.error_reply(Errno::EIO) } else { header.reply(0) };
        self.arrive(channel, header);
    }

    fn peer_commands(&mut self) {
        let mut channel = self.model.command_channel();
        if self.script.one_in(8) {
            channel = self.script.pick(&Channel::ALL);
        }
        let command = self.script.pick(&[Command::RegionWrite, Command::DeviceReset]);
        let header = Header::command(self.script.u16(), command, self.script.below(64));
        let header = if self.script.one_in(3) { header.with_no_reply() } else { header };
        self.arrive(channel, header);
    }

    fn arrive(&mut self, channel: Channel, header: Header) {
        if self.session.is_paused(channel) || (channel == Channel::Twin && !self.model.twin) {
            return; // nobody reads it
        }
        self.number += 1;
        let framer = &mut self.framers[channel as usize];
        let mut bytes = header.emit().to_vec();
        bytes.resize(header.size as usize, 0x5a);
        framer.space()[..bytes.len()].copy_from_slice(&bytes);
        framer.received(bytes.len(), [self.number]);
        let message = framer.pop().expect("it is well formed").expect("it is whole");
        let got = self.session.arrive(channel, message);
        if let Some(why) = self.model.closed.clone() {
            assert_eq!(got.map(drop), Err(why), "the first reason stays");
            return;
        }
        match (got, self.model.arrive(channel, &header, bytes.len(), self.number)) {
            (Ok(Arrival::Queued), Expected::Queued) => {}
            (Ok(Arrival::Completed(ticket)), Expected::Completed(expected)) => {
                assert_eq!(ticket, expected);
            }
            (Ok(Arrival::Dropped(message)), Expected::Dropped) => self.is_last(&message),
            (Ok(Arrival::Refused(refusal, message)), Expected::Refused) => {
                assert!(refusal.is_error() && refusal.id == header.id);
                assert_eq!((refusal.command, refusal.size), (header.command, HEADER_SIZE as u32));
                self.is_last(&message);
            }
            (Err(why), Expected::Ends) => assert_eq!(Some(&why), self.model.closed.as_ref()),
            (got, expected) => panic!("{got:?}, not {expected:?}"),
        }
    }

    fn is_last(&self, message: &Message<u32>) {
        assert_eq!(message.fds(), [self.number], "its descriptors come back with it");
    }

    fn next_command(&mut self) {
        let got = self.session.next_command();
        self.is_oldest(got);
    }

    /// What was given is the oldest command of the model.
    fn is_oldest(&mut self, got: Option<Message<u32>>) {
        let expected = self.model.queue.pop_front();
        let got = got.map(|message| (*message.header(), message.len()));
        assert_eq!(got, expected);
    }

    fn begin_or_end_command(&mut self) {
        if self.model.executing && self.script.one_in(2) {
            self.session.end_command();
            self.model.executing = false;
            self.model.executed += 1;
            return;
        }
        let got = self.session.begin_command();
        if self.model.executing {
            assert!(got.is_none(), "one at a time");
        } else {
            self.model.executing = got.is_some();
            self.is_oldest(got);
        }
    }

    fn outcome(&mut self) {
        let Some(ticket) = self.ticket() else { return };
        let got = self.session.outcome(ticket);
        let got = got.map(|outcome| outcome.map(|message| message.fds()[0]));
        assert_eq!(got, self.model.outcome(ticket));
    }

    fn forget(&mut self) {
        let Some(ticket) = self.ticket() else { return };
        self.session.forget(ticket);
        self.model.forget(ticket);
    }

    fn cancel(&mut self) {
        let (got, expected) = match self.script.below(3) {
            0 => (self.session.cancel_all(), self.model.cancel(|_| true)),
            1 => {
                (self.session.cancel_reads(), self.model.cancel(|r| r.command == Command::DmaRead))
            }
            _ => {
                let (start, len) = (self.script.number(), self.script.number());
                let inside = |at: u64, s: u64, l: u64| at >= s && u128::from(at - s) < l.into();
                let overlaps = |r: &Request| {
                    r.range.is_some_and(|(s, l)| {
                        len > 0 && l > 0 && (inside(s, start, len) || inside(start, s, l))
                    })
                };
                (self.session.cancel_range(start, len), self.model.cancel(overlaps))
            }
        };
        assert_eq!(got, expected);
    }

    fn expire(&mut self) {
        self.now += self.script.below(8) as u64;
        let got = self.session.expire(Time::at(Duration::from_nanos(self.now)));
        assert_eq!(got, self.model.expire(self.now));
    }

    fn wake(&mut self) {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        match self.script.below(4) {
            0 => {
                let Some(ticket) = self.ticket() else { return };
                let got = self.session.wake_on(ticket, &waker);
                let request = self.model.find(ticket).filter(|r| r.state == State::Waiting);
                assert_eq!(got, request.is_some());
                if let Some(request) = request {
                    request.bell = Some(bell);
                }
            }
            1 => {
                let upto = self.model.order;
                let got = self.session.wake_after_writes(|| waker);
                assert_eq!(got, self.model.has_writes(upto));
                if got {
                    self.model.fences.push((upto, bell));
                }
            }
            2 => {
                self.session.wake_on_room(&waker);
                self.model.for_room.push(bell);
            }
            _ => self.take_woken(),
        }
    }

    fn take_woken(&mut self) {
        let due = self.model.take_due();
        assert_eq!(self.session.has_woken(), !due.is_empty());
        let mut woken = Vec::new();
        self.session.take_woken(&mut woken);
        assert_eq!(woken.len(), due.len());
        woken.into_iter().for_each(Waker::wake);
        assert!(due.iter().all(|bell| bell.rung() == 1), "each once");
    }

    fn close(&mut self) {
        if !self.script.one_in(4) {
            return;
        }
        let why = self.script.pick(&[0, 1]);
        let why = if why == 0 { Closed::Disconnected } else { Closed::Stopped };
        self.model.close(why.clone());
        assert_eq!(Some(self.session.close(why)), self.model.closed);
    }

    /// All that can be asked without changing anything.
    fn compare(&self) {
        let (session, model) = (&self.session, &self.model);
        assert_eq!(session.closed(), model.closed.as_ref());
        assert_eq!(session.queued(), model.queue.len());
        assert!(session.queued() <= model.limits.queued_commands, "the queue is bounded");
        assert_eq!(session.has_room(), model.waiting() < model.limits.outstanding);
        assert!(model.closed.is_some() || model.zombies() <= model.limits.zombies);
        let deadline = model.next_deadline().map(|d| Time::at(Duration::from_nanos(d)));
        assert_eq!(session.next_deadline(), deadline);
        assert_eq!(session.counters(), model.counters);
        assert_eq!(session.is_executing(), model.executing);
        let reset = |(header, _): &(Header, usize)| header.command == Command::DeviceReset.as_u16();
        assert_eq!(session.reset_is_queued(), model.queue.iter().any(reset));
        for channel in Channel::ALL {
            let commands = channel == model.command_channel();
            assert_eq!(session.expects(channel), commands || model.owed_on(channel));
            assert_eq!(session.is_paused(channel), commands && model.is_full());
        }
        for &ticket in self.tickets.iter().rev().take(4) {
            let request = model.requests.iter().find(|r| r.ticket == ticket);
            assert_eq!(
                session.has_ended(ticket),
                request.is_none_or(|r| r.state != State::Waiting)
            );
        }
    }

    /// At the end nobody waits any more, and everybody is told once.
    fn end(&mut self) {
        self.model.close(Closed::Stopped);
        assert_eq!(Some(self.session.close(Closed::Stopped)), self.model.closed);
        self.take_woken();
        assert!(self.model.fences.is_empty() && self.model.for_room.is_empty());
        for ticket in std::mem::take(&mut self.tickets) {
            let got = self.session.outcome(ticket);
            let got = got.map(|outcome| outcome.map(|message| message.fds()[0]));
            assert_eq!(got, self.model.outcome(ticket));
            assert!(self.session.has_ended(ticket) && self.session.outcome(ticket).is_none());
        }
    }
}
