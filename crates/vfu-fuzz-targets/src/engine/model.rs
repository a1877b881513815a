//! What the engine has to know and to say, kept as plain lists that are searched from end to end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Wake;

use vfu_proto::session::{Abort, Channel, Closed, Counters, Limits, Role, Ticket};
use vfu_proto::wire::{Command, Header, Kind};

/// Counts how often it is woken.
#[derive(Default)]
pub(super) struct Bell(AtomicU32);

impl Bell {
    pub(super) fn rung(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    /// Answered by the message with this number, behind so many commands.
    Done(u32, u64),
    /// Given up; whether the peer still owes the reply, and whether the asker knows.
    Failed {
        why: Abort,
        owed: bool,
        told: bool,
    },
}

pub(super) struct Request {
    pub(super) ticket: Ticket,
    pub(super) order: u64,
    pub(super) command: Command,
    pub(super) deadline: Option<u64>,
    pub(super) range: Option<(u64, u64)>,
    pub(super) state: State,
    /// Whom to wake at its end, and whether that is due.
    pub(super) bell: Option<Arc<Bell>>,
}

/// What has to become of a message.
#[derive(Debug)]
pub(super) enum Expected {
    Queued,
    Completed(Ticket),
    Refused,
    Dropped,
    Ends,
}

pub(super) struct Model {
    pub(super) role: Role,
    pub(super) twin: bool,
    pub(super) answers_strays: bool,
    pub(super) limits: Limits,
    pub(super) requests: Vec<Request>,
    pub(super) order: u64,
    /// Header and length of each command that waits.
    pub(super) queue: VecDeque<(Header, usize)>,
    pub(super) executed: u64,
    pub(super) executing: bool,
    pub(super) counters: Counters,
    pub(super) closed: Option<Closed>,
    /// Bells that have to have rung once the woken are woken.
    pub(super) due: Vec<Arc<Bell>>,
    pub(super) fences: Vec<(u64, Arc<Bell>)>,
    pub(super) for_room: Vec<Arc<Bell>>,
}

impl Model {
    pub(super) fn request_channel(&self) -> Channel {
        if self.role == Role::Server && self.twin { Channel::Twin } else { Channel::Main }
    }

    pub(super) fn command_channel(&self) -> Channel {
        if self.role == Role::Client && self.twin { Channel::Twin } else { Channel::Main }
    }

    fn is_waiting(request: &&Request) -> bool {
        request.state == State::Waiting
    }

    fn is_owed(request: &&Request) -> bool {
        matches!(request.state, State::Failed { owed: true, .. })
    }

    /// How many of the requests of the channel that requests go out on now wait.
    pub(super) fn waiting(&self) -> usize {
        let channel = self.request_channel();
        let here = |r: &&Request| r.ticket.channel() == channel;
        self.requests.iter().filter(Self::is_waiting).filter(here).count()
    }

    pub(super) fn zombies(&self) -> usize {
        self.requests.iter().filter(Self::is_owed).count()
    }

    pub(super) fn owed_on(&self, channel: Channel) -> bool {
        let owed = |r: &&Request| Self::is_waiting(r) || Self::is_owed(r);
        self.requests.iter().filter(owed).any(|r| r.ticket.channel() == channel)
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.requests.iter().filter(Self::is_waiting).filter_map(|r| r.deadline).min()
    }

    pub(super) fn is_full(&self) -> bool {
        let bytes: usize = self.queue.iter().map(|(_, len)| len).sum();
        self.queue.len() >= self.limits.queued_commands || bytes >= self.limits.queued_bytes
    }

    pub(super) fn find(&mut self, ticket: Ticket) -> Option<&mut Request> {
        self.requests.iter_mut().find(|r| r.ticket == ticket)
    }

    pub(super) fn holds(&self, channel: Channel, id: u16) -> bool {
        self.requests.iter().any(|r| r.ticket.channel() == channel && r.ticket.id() == id)
    }

    /// A message with this number arrives on `channel`.
    pub(super) fn arrive(
        &mut self,
        channel: Channel,
        header: &Header,
        len: usize,
        number: u32,
    ) -> Expected {
        match header.kind() {
            Some(Kind::Reply) => self.reply(channel, header, number),
            Some(Kind::Command) if channel == self.command_channel() => {
                self.queue.push_back((*header, len));
                self.counters.commands += 1;
                self.counters.queue_peak = self.counters.queue_peak.max(self.queue.len());
                Expected::Queued
            }
            Some(Kind::Command) => {
                self.counters.misplaced_commands += 1;
                if self.counters.misplaced_commands > self.limits.misplaced_commands {
                    self.close(Closed::Limit("keeps sending commands on the wrong socket"));
                    return Expected::Ends;
                }
                if header.wants_no_reply() { Expected::Dropped } else { Expected::Refused }
            }
            None => unreachable!("the framer takes no such message"),
        }
    }

    fn reply(&mut self, channel: Channel, header: &Header, number: u32) -> Expected {
        let commands = self.counters.commands;
        let asked = |r: &Request| r.ticket.channel() == channel && r.ticket.id() == header.id;
        let at = self.requests.iter().position(asked);
        let state = at.map(|at| self.requests[at].state);
        match (at, state) {
            (Some(at), Some(State::Waiting)) => {
                let request = &mut self.requests[at];
                let fits = header.command == request.command.as_u16();
                request.state = if fits {
                    State::Done(number, commands)
                } else {
                    State::Failed { why: Abort::WrongCommand, owed: false, told: false }
                };
                self.due.extend(request.bell.take());
                let ticket = request.ticket;
                self.open_fences();
                self.counters.replies += 1;
                Expected::Completed(ticket)
            }
            (Some(at), Some(State::Failed { why, owed: true, told })) => {
                if told {
                    self.requests.remove(at);
                } else {
                    self.requests[at].state = State::Failed { why, owed: false, told };
                }
                self.counters.late_replies += 1;
                Expected::Dropped
            }
            _ => {
                self.counters.stray_replies += 1;
                if self.counters.stray_replies > self.limits.stray_replies {
                    self.close(Closed::Limit("sent too many replies to nothing"));
                    return Expected::Ends;
                }
                if self.answers_strays { Expected::Refused } else { Expected::Dropped }
            }
        }
    }

    /// The outcome of a request, if it is to be had: the number of its reply, or why there is none.
    pub(super) fn outcome(&mut self, ticket: Ticket) -> Option<Result<u32, Abort>> {
        let ordered = self.role == Role::Client && !self.twin && self.closed.is_none();
        let executed = if ordered { self.executed } else { u64::MAX };
        let at = self.requests.iter().position(|r| r.ticket == ticket)?;
        match self.requests[at].state {
            State::Waiting | State::Failed { told: true, .. } => None,
            State::Done(_, after) if after > executed => None,
            State::Done(number, _) => {
                self.requests.remove(at);
                Some(Ok(number))
            }
            State::Failed { why, owed: false, .. } => {
                self.requests.remove(at);
                Some(Err(why))
            }
            State::Failed { why, owed: true, .. } => {
                self.requests[at].state = State::Failed { why, owed: true, told: true };
                Some(Err(why))
            }
        }
    }

    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.fail(Abort::Canceled, true, |r| r.ticket == ticket);
        if let Some(at) = self.requests.iter().position(|r| r.ticket == ticket) {
            match self.requests[at].state {
                State::Failed { why, owed: true, .. } => {
                    self.requests[at].state = State::Failed { why, owed: true, told: true };
                }
                _ => drop(self.requests.remove(at)),
            }
        }
        self.bound_zombies();
    }

    pub(super) fn cancel(&mut self, which: impl Fn(&Request) -> bool) -> usize {
        let canceled = self.fail(Abort::Canceled, true, which);
        self.counters.canceled += canceled as u64;
        self.bound_zombies();
        canceled
    }

    pub(super) fn expire(&mut self, now: u64) -> usize {
        let late = self.fail(Abort::TimedOut, true, |r| r.deadline.is_some_and(|d| d <= now));
        self.counters.timeouts += late as u64;
        self.bound_zombies();
        late
    }

    fn fail(&mut self, why: Abort, owed: bool, which: impl Fn(&Request) -> bool) -> usize {
        let mut failed = 0;
        let waiting = |r: &&mut Request| r.state == State::Waiting;
        for request in self.requests.iter_mut().filter(waiting).filter(|r| which(r)) {
            request.state = State::Failed { why, owed, told: false };
            self.due.extend(request.bell.take());
            failed += 1;
        }
        self.open_fences();
        failed
    }

    fn bound_zombies(&mut self) {
        if self.zombies() > self.limits.zombies {
            self.close(Closed::Limit("owes too many replies"));
        }
    }

    pub(super) fn close(&mut self, why: Closed) {
        if self.closed.is_some() {
            return;
        }
        self.fail(Abort::Closed, false, |_| true);
        if why != Closed::Disconnected {
            self.queue.clear();
        }
        self.closed = Some(why);
    }

    /// Whether a DMA_WRITE up to this one waits.
    pub(super) fn has_writes(&self, upto: u64) -> bool {
        let write = |r: &Request| r.command == Command::DmaWrite && r.order <= upto;
        self.requests.iter().filter(Self::is_waiting).any(write)
    }

    fn open_fences(&mut self) {
        let open = |(upto, _): &(u64, Arc<Bell>)| !self.has_writes(*upto);
        let count = self.fences.iter().take_while(|fence| open(fence)).count();
        self.due.extend(self.fences.drain(..count).map(|(_, bell)| bell));
    }

    /// The bells that have to ring when the woken are woken now.
    pub(super) fn take_due(&mut self) -> Vec<Arc<Bell>> {
        let room = self.waiting() < self.limits.outstanding || self.closed.is_some();
        if room {
            self.due.append(&mut self.for_room);
        }
        std::mem::take(&mut self.due)
    }
}
