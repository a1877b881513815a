//! What a session has to know and to say, kept by other means: lists, searched from end to end.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Wake;

use vfu_proto::session::{Abort, Channel, Closed, Counters, Limits, Role, Ticket};
use vfu_proto::wire::{Command, Errno, Kind};

use super::net::Sent;

/// Counts how often it was woken.
#[derive(Debug, Default)]
pub(super) struct Flag(AtomicU32);

impl Flag {
    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What an asker wants to know, and what the answer has to be.
#[derive(Debug)]
pub(super) enum Ask {
    RegionRead { expect: Vec<u8> },
    RegionWrite,
    Doorbell,
    Map(usize),
    Unmap(usize),
    Reset,
    DmaRead { address: u64, expect: Option<Vec<u8>>, len: usize, may_fail: bool },
    DmaWrite { address: u64, len: usize },
}

#[derive(Debug)]
pub(super) enum State {
    Waiting,
    Done { reply: Rc<Sent>, after: u64 },
    Failed { why: Abort, owed: bool },
    Zombie,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) ticket: Ticket,
    pub(super) serial: u64,
    pub(super) command: Command,
    pub(super) deadline: Option<u64>,
    pub(super) range: Option<(u64, u64)>,
    pub(super) state: State,
    pub(super) ask: Ask,
    /// A handler waits for it.
    pub(super) by_handler: bool,
    pub(super) waker: Option<Arc<Flag>>,
}

impl Request {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    pub(super) fn is_owed(&self) -> bool {
        matches!(self.state, State::Failed { owed: true, .. } | State::Zombie)
    }

    fn overlaps(&self, start: u64, len: u64) -> bool {
        let Some((s, l)) = self.range.filter(|(_, l)| *l > 0 && len > 0) else { return false };
        // Inclusive ends do not overflow.
        s.max(start) <= (s + (l - 1)).min(start + (len - 1))
    }
}

/// Waits for the writes with serial numbers up to `upto`.
#[derive(Debug)]
pub(super) struct Fence {
    pub(super) upto: u64,
    pub(super) flag: Arc<Flag>,
}

/// What has to become of a message.
#[derive(Debug)]
pub(super) enum Expected {
    Queued,
    Completed(Ticket),
    Refused(Errno),
    Dropped,
    Ends,
}

#[derive(Debug)]
pub(super) struct Book {
    pub(super) role: Role,
    pub(super) twin: bool,
    pub(super) limits: Limits,
    /// Those whose outcome was not given yet, or whose reply is owed.
    pub(super) requests: Vec<Request>,
    pub(super) serial: u64,
    pub(super) queue: VecDeque<Rc<Sent>>,
    pub(super) executed: u64,
    pub(super) executing: bool,
    pub(super) closed: Option<Closed>,
    pub(super) counters: Counters,
    pub(super) room_wakers: Vec<Arc<Flag>>,
    pub(super) fences: Vec<Fence>,
    /// Some tickets that mean nothing any more.
    pub(super) spent: [Option<Ticket>; 8],
}

impl Book {
    pub(super) fn new(role: Role, twin: bool, limits: Limits) -> Book {
        Book {
            role,
            twin,
            limits,
            requests: Vec::new(),
            serial: 0,
            queue: VecDeque::new(),
            executed: 0,
            executing: false,
            closed: None,
            counters: Counters::default(),
            room_wakers: Vec::new(),
            fences: Vec::new(),
            spent: [None; 8],
        }
    }

    pub(super) fn request_channel(&self) -> Channel {
        if self.twin && self.role == Role::Server { Channel::Twin } else { Channel::Main }
    }

    pub(super) fn command_channel(&self) -> Channel {
        if self.twin && self.role == Role::Client { Channel::Twin } else { Channel::Main }
    }

    pub(super) fn waiting(&self) -> usize {
        self.requests.iter().filter(|r| r.is_waiting()).count()
    }

    pub(super) fn zombies(&self) -> usize {
        self.requests.iter().filter(|r| r.is_owed()).count()
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queue.iter().map(|s| s.header.size as usize).sum()
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= self.limits.queued_commands
            || self.queued_bytes() >= self.limits.queued_bytes
    }

    pub(super) fn reset_is_queued(&self) -> bool {
        self.queue.iter().any(|s| s.header.command == Command::DeviceReset.as_u16())
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.requests.iter().filter(|r| r.is_waiting()).filter_map(|r| r.deadline).min()
    }

    pub(super) fn has_writes(&self, upto: u64) -> bool {
        let write = |r: &Request| r.command == Command::DmaWrite && r.serial <= upto;
        self.requests.iter().any(|r| r.is_waiting() && write(r))
    }

    pub(super) fn arrive(&mut self, channel: Channel, sent: &Rc<Sent>, honest: bool) -> Expected {
        match sent.header.kind() {
            Some(Kind::Reply) => self.arrive_reply(channel, sent, honest),
            _ => self.arrive_command(channel, sent),
        }
    }

    fn arrive_reply(&mut self, channel: Channel, sent: &Rc<Sent>, honest: bool) -> Expected {
        let id = sent.header.id;
        let ours = |r: &&mut Request| r.ticket.channel() == channel && r.ticket.id() == id;
        let found = self.requests.iter_mut().find(ours);
        let found = found.filter(|r| r.is_waiting() || r.is_owed());
        let Some(request) = found else {
            assert!(!honest, "a reply without a request");
            self.counters.stray_replies += 1;
            if self.counters.stray_replies > self.limits.stray_replies {
                self.close(Closed::Limit("sent too many replies to nothing"));
                return Expected::Ends;
            }
            return Expected::Dropped;
        };
        if !sent.bogus {
            assert_eq!(Some(request.serial), sent.serial, "the id names another request by now");
        }
        let ticket = request.ticket;
        if request.is_waiting() {
            request.state = if sent.header.command == request.command.as_u16() {
                State::Done { reply: sent.clone(), after: self.counters.commands }
            } else {
                State::Failed { why: Abort::WrongCommand, owed: false }
            };
            self.counters.replies += 1;
            return Expected::Completed(ticket);
        }
        match request.state {
            State::Failed { why, .. } => request.state = State::Failed { why, owed: false },
            _ => self.drop_request(ticket),
        }
        self.counters.late_replies += 1;
        Expected::Dropped
    }

    fn arrive_command(&mut self, channel: Channel, sent: &Rc<Sent>) -> Expected {
        if channel == self.command_channel() {
            self.counters.commands += 1;
            self.queue.push_back(sent.clone());
            self.counters.queue_peak = self.counters.queue_peak.max(self.queue.len());
            return Expected::Queued;
        }
        self.counters.misplaced_commands += 1;
        if self.counters.misplaced_commands > self.limits.misplaced_commands {
            self.close(Closed::Limit("keeps sending commands on the wrong socket"));
            return Expected::Ends;
        }
        match self.role {
            _ if sent.header.wants_no_reply() => Expected::Dropped,
            Role::Client => Expected::Refused(Errno::EPROTO),
            Role::Server => Expected::Refused(Errno::EINVAL),
        }
    }

    fn drop_request(&mut self, ticket: Ticket) {
        self.requests.retain(|r| r.ticket != ticket);
        self.spent[(ticket.id() & 7) as usize] = Some(ticket);
    }

    /// What [`Session::outcome`] has to say; the ask, if it says anything.
    pub(super) fn outcome(&mut self, ticket: Ticket) -> Option<(Request, bool)> {
        let at = self.requests.iter().position(|r| r.ticket == ticket)?;
        let ordered = self.role == Role::Client && !self.twin && self.closed.is_none();
        match self.requests[at].state {
            State::Waiting | State::Zombie => None,
            State::Done { after, .. } if ordered && after > self.executed => None,
            State::Done { .. } | State::Failed { owed: false, .. } => {
                self.spent[(ticket.id() & 7) as usize] = Some(ticket);
                Some((self.requests.remove(at), true))
            }
            State::Failed { why, owed: true } => {
                let old = &mut self.requests[at];
                let rest = Request {
                    ask: Ask::RegionWrite,
                    waker: old.waker.take(),
                    state: State::Zombie,
                    ..*old
                };
                let mut old = std::mem::replace(old, rest);
                old.state = State::Failed { why, owed: true };
                Some((old, false))
            }
        }
    }

    pub(super) fn forget(&mut self, ticket: Ticket) {
        if let Some(request) = self.requests.iter_mut().find(|r| r.ticket == ticket) {
            if request.is_waiting() || request.is_owed() {
                request.state = State::Zombie;
            } else {
                self.drop_request(ticket);
            }
        }
        self.bound_zombies();
    }

    fn fail(&mut self, why: Abort, owed: bool, which: impl Fn(&Request) -> bool) -> usize {
        let mut failed = 0;
        for request in self.requests.iter_mut().filter(|r| r.is_waiting() && which(r)) {
            request.state = State::Failed { why, owed };
            failed += 1;
        }
        failed
    }

    pub(super) fn cancel(&mut self, range: Option<(u64, u64)>) -> usize {
        let about = |r: &Request| range.is_none_or(|(start, len)| r.overlaps(start, len));
        let canceled = self.fail(Abort::Canceled, true, about);
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

    fn bound_zombies(&mut self) {
        if self.zombies() > self.limits.zombies {
            self.close(Closed::Limit("owes too many replies"));
        }
    }

    pub(super) fn close(&mut self, why: Closed) {
        if self.closed.is_none() {
            self.fail(Abort::Closed, false, |_| true);
            if why != Closed::Disconnected {
                self.queue.clear();
            }
            self.closed = Some(why);
        }
    }
}
