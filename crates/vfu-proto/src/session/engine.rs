//! The session itself: what arrives, where it goes, and when it ends.

use std::task::Waker;

use crate::wire::{Command, Errno, Header, Kind};

use super::commands::Commands;
use super::requests::{Matched, Range, Requests};
use super::{Abort, Counters, FrameError, Limits, Message, Start, Ticket, Time};

/// Which end of the session we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Has the memory, drives the device.
    Client,
    /// Is the device.
    Server,
}

/// A stream of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// The socket that was connected to.
    Main,
    /// The second one, for commands of the server, if both sides agreed on it.
    Twin,
}

impl Channel {
    /// Both, for arrays with one element for each.
    pub const ALL: [Channel; 2] = [Channel::Main, Channel::Twin];

    /// The one that this is not.
    pub fn other(self) -> Channel {
        match self {
            Channel::Main => Channel::Twin,
            Channel::Twin => Channel::Main,
        }
    }
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The peer closed a socket.
    #[error("the peer has disconnected")]
    Disconnected,
    /// We were asked to stop.
    #[error("stopped")]
    Stopped,
    /// The stream is broken.
    #[error("the peer sent a broken message: {0}")]
    Framing(#[from] FrameError),
    /// The peer reached a limit.
    #[error("the peer {0}")]
    Limit(&'static str),
    /// The peer broke a rule without which the session can't go on.
    #[error("the peer {0}")]
    Protocol(&'static str),
    /// A system call failed.
    #[error("the socket failed: {0}")]
    Socket(String),
}

/// What became of a message that arrived.
#[derive(Debug)]
pub enum Arrival<F> {
    /// A command: it waits in the queue ([`Session::next_command`]).
    Queued,
    /// The reply to a request: its asker fetches it ([`Session::outcome`]).
    Completed(Ticket),
    /// Refused. The header is the error reply to send on the channel it came by; the payload is empty.
    Refused(Header, Message<F>),
    /// Drained: nobody waits for it.
    Dropped(Message<F>),
}

/// One session, without its sockets.
///
/// Requests of ours go out by [`start`](Self::start); messages of the peer come in by
/// [`arrive`](Self::arrive). Neither ever waits for the other.
#[derive(Debug)]
pub struct Session<F> {
    role: Role,
    limits: Limits,
    twin: bool,
    answers_strays: bool,
    requests: [Requests<F>; 2],
    commands: Commands<F>,
    counters: Counters,
    /// Commands that have been executed, and whether one is being executed now: see
    /// [`begin_command`](Session::begin_command).
    executed: u64,
    executing: bool,
    /// Who waits for room among the requests.
    waiting_for_room: Vec<Waker>,
    closed: Option<Closed>,
}

impl<F> Session<F> {
    /// A session on one channel, before VERSION.
    pub fn new(role: Role, limits: Limits) -> Self {
        Session {
            role,
            limits,
            twin: false,
            answers_strays: false,
            requests: Channel::ALL.map(Requests::new),
            commands: Commands::new(),
            counters: Counters::default(),
            executed: 0,
            executing: false,
            waiting_for_room: Vec::new(),
            closed: None,
        }
    }

    /// From now on commands of the server go over the twin socket.
    pub fn add_twin(&mut self) {
        self.twin = true;
    }

    /// From now on a reply to nothing is refused like a wrong command, as libvfio-user does; otherwise
    /// it is dropped in silence.
    pub fn answer_strays(&mut self) {
        self.answers_strays = true;
    }

    /// The limits in force.
    #[inline]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The channel for our requests.
    #[inline]
    pub fn request_channel(&self) -> Channel {
        match self.role {
            Role::Server if self.twin => Channel::Twin,
            _ => Channel::Main,
        }
    }

    /// The channel on which the peer may send commands.
    #[inline]
    pub fn command_channel(&self) -> Channel {
        match self.role {
            Role::Client if self.twin => Channel::Twin,
            _ => Channel::Main,
        }
    }

    /// The channel by which a message of the peer came, unless it was misplaced.
    #[inline]
    pub fn channel_of(&self, message: &Message<F>) -> Channel {
        if !self.twin {
            return Channel::Main;
        }
        match message.header().kind() {
            Some(Kind::Reply) => self.request_channel(),
            Some(Kind::Command) | None => self.command_channel(),
        }
    }

    /// Whether [`start`](Self::start) would find room.
    #[inline]
    pub fn has_room(&self) -> bool {
        let requests = &self.requests[self.request_channel() as usize];
        requests.waiting() < self.limits.outstanding
    }

    /// Enters a request that is about to be sent, and gives it its id.
    ///
    /// `range`, an address and a length in bytes, is what [`cancel_range`](Self::cancel_range)
    /// looks at.
    ///
    /// # Errors
    /// The session has ended, or too many requests wait.
    #[inline]
    pub fn start(
        &mut self,
        command: Command,
        deadline: Option<Time>,
        range: Option<Range>,
    ) -> Result<Ticket, Start> {
        if self.closed.is_some() {
            return Err(Start::Closed);
        }
        if !self.has_room() {
            return Err(Start::Full);
        }
        Ok(self.requests[self.request_channel() as usize].start(command, deadline, range))
    }

    /// An id for a command that wants no reply.
    ///
    /// # Errors
    /// The session has ended.
    pub fn start_posted(&mut self) -> Result<u16, Start> {
        if self.closed.is_some() {
            return Err(Start::Closed);
        }
        Ok(self.requests[self.request_channel() as usize].fresh_id())
    }

    /// Sorts a message that arrived on `channel`.
    ///
    /// # Errors
    /// The message ends the session; it is closed already when this returns.
    #[inline]
    pub fn arrive(&mut self, channel: Channel, message: Message<F>) -> Result<Arrival<F>, Closed> {
        if let Some(why) = &self.closed {
            return Err(why.clone());
        }
        match message.header().kind() {
            Some(Kind::Reply) => self.arrive_reply(channel, message),
            Some(Kind::Command) => self.arrive_command(channel, message),
            None => Err(self.close(Closed::Framing(FrameError::BadType(*message.header())))),
        }
    }

    #[inline]
    fn arrive_reply(
        &mut self,
        channel: Channel,
        message: Message<F>,
    ) -> Result<Arrival<F>, Closed> {
        match self.requests[channel as usize].reply(message, self.counters.commands) {
            Matched::Completed(ticket) => {
                self.counters.replies += 1;
                Ok(Arrival::Completed(ticket))
            }
            Matched::Late(message) => {
                self.counters.late_replies += 1;
                Ok(Arrival::Dropped(message))
            }
            Matched::Stray(message) => {
                self.counters.stray_replies += 1;
                if self.counters.stray_replies > self.limits.stray_replies {
                    return Err(self.close(Closed::Limit("sent too many replies to nothing")));
                }
                if self.answers_strays {
                    let header = *message.header();
                    return Ok(Arrival::Refused(header.error_reply(Errno::EINVAL), message));
                }
                Ok(Arrival::Dropped(message))
            }
        }
    }

    #[inline]
    fn arrive_command(
        &mut self,
        channel: Channel,
        message: Message<F>,
    ) -> Result<Arrival<F>, Closed> {
        if channel == self.command_channel() {
            self.counters.commands += 1;
            self.commands.push(message);
            self.counters.queue_peak = self.counters.queue_peak.max(self.commands.len());
            return Ok(Arrival::Queued);
        }
        self.counters.misplaced_commands += 1;
        if self.counters.misplaced_commands > self.limits.misplaced_commands {
            return Err(self.close(Closed::Limit("keeps sending commands on the wrong socket")));
        }
        let header = *message.header();
        if header.wants_no_reply() {
            return Ok(Arrival::Dropped(message));
        }
        let errno = if self.role == Role::Client { Errno::EPROTO } else { Errno::EINVAL };
        Ok(Arrival::Refused(header.error_reply(errno), message))
    }

    /// The oldest command that waits. Commands are executed in this order, one after the other.
    #[inline]
    pub fn next_command(&mut self) -> Option<Message<F>> {
        self.commands.pop()
    }

    /// As [`next_command`](Self::next_command), for a client that many threads use: nothing while
    /// one of them executes a command, which then calls [`end_command`](Self::end_command).
    ///
    /// On a single socket a reply that came behind a command is not given to its asker before that
    /// command has ended: a DMA_WRITE shows before the register read that follows it completes.
    #[inline]
    pub fn begin_command(&mut self) -> Option<Message<F>> {
        if self.executing {
            return None;
        }
        let message = self.commands.pop()?;
        self.executing = true;
        Some(message)
    }

    /// As [`end_command`](Self::end_command), and begins the next one, if one waits; if not the command
    /// does not end, either.
    pub fn end_and_begin_command(&mut self) -> Option<Message<F>> {
        let next = self.commands.pop()?;
        self.executed += 1;
        Some(next)
    }

    /// The command that [`begin_command`](Self::begin_command) gave has been executed.
    #[inline]
    pub fn end_command(&mut self) {
        self.executing = false;
        self.executed += 1;
    }

    /// Whether a command is being executed, on which the outcome of a request may depend.
    #[inline]
    pub fn is_executing(&self) -> bool {
        self.executing
    }

    /// Commands that wait.
    #[inline]
    pub fn queued(&self) -> usize {
        self.commands.len()
    }

    /// Whether any command waits.
    #[inline]
    pub fn has_queued(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Whether anything is due on `channel`: commands, or replies that the peer owes.
    #[inline]
    pub fn expects(&self, channel: Channel) -> bool {
        channel == self.command_channel() || self.requests[channel as usize].owed() > 0
    }

    /// Whether `channel` must not be read for now: its commands find no room.
    #[inline]
    pub fn is_paused(&self, channel: Channel) -> bool {
        channel == self.command_channel() && self.commands.is_full(&self.limits)
    }

    /// Whether a message that came on `channel` is taken now.
    #[inline]
    pub fn takes(&self, channel: Channel) -> bool {
        self.closed.is_none() && !self.is_paused(channel)
    }

    /// What became of a request, once that is known. An outcome is given once.
    #[inline]
    pub fn outcome(&mut self, ticket: Ticket) -> Option<Result<Message<F>, Abort>> {
        let ordered = self.role == Role::Client && !self.twin && self.closed.is_none();
        let executed = if ordered { self.executed } else { u64::MAX };
        let requests = &mut self.requests[ticket.channel as usize];
        if requests.has_ended(ticket) { requests.take(ticket, executed) } else { None }
    }

    /// Whether a request has ended: its [`outcome`](Self::outcome) is known, or was given.
    pub fn has_ended(&self, ticket: Ticket) -> bool {
        self.requests[ticket.channel as usize].has_ended(ticket)
    }

    /// Has `waker` woken when the request ends, by whatever calls [`take_woken`](Self::take_woken).
    /// False if it has ended already: look at its [`outcome`](Self::outcome).
    pub fn wake_on(&mut self, ticket: Ticket, waker: &Waker) -> bool {
        self.requests[ticket.channel as usize].wake(ticket, waker)
    }

    /// Has `waker` woken when there may be [room](Self::has_room) for a request.
    pub fn wake_on_room(&mut self, waker: &Waker) {
        self.waiting_for_room.push(waker.clone());
    }

    /// Has a waker woken when every DMA_WRITE that has started by now is acknowledged, or given up.
    /// False if none is under way: then `waker` is not called. Whoever waits for the writes sees to
    /// their deadlines, too.
    pub fn wake_after_writes(&mut self, waker: impl FnOnce() -> Waker) -> bool {
        self.requests[self.request_channel() as usize].wake_after_writes(waker)
    }

    /// Adds to `into` those who have to be woken. The caller does that when it holds no lock.
    pub fn take_woken(&mut self, into: &mut Vec<Waker>) {
        for requests in &mut self.requests {
            requests.take_woken(into);
        }
        if !self.waiting_for_room.is_empty() && (self.has_room() || self.closed.is_some()) {
            into.append(&mut self.waiting_for_room);
        }
    }

    /// Whether [`take_woken`](Self::take_woken) has anybody.
    #[inline]
    pub fn has_woken(&self) -> bool {
        let [main, twin] = &self.requests;
        main.has_woken()
            || twin.has_woken()
            || (!self.waiting_for_room.is_empty() && (self.has_room() || self.closed.is_some()))
    }

    /// Whether nobody has to be woken, no command waits, and the session has not ended: one look, for all
    /// of that at once.
    #[inline]
    pub fn is_calm(&self) -> bool {
        let [main, twin] = &self.requests;
        let busy = main.has_woken() | twin.has_woken() | !self.waiting_for_room.is_empty();
        !(busy | !self.commands.is_empty() | self.closed.is_some())
    }

    /// Whether a DEVICE_RESET of the peer waits to be executed.
    pub fn reset_is_queued(&self) -> bool {
        self.commands.resets() > 0
    }

    /// Gives up a request whose outcome nobody wants any more.
    pub fn forget(&mut self, ticket: Ticket) {
        self.requests[ticket.channel as usize].forget(ticket);
        self.bound_zombies();
    }

    /// Gives up every request that waits, as a reset does. Says how many there were.
    pub fn cancel_all(&mut self) -> usize {
        self.cancel(None)
    }

    /// Gives up the requests that are about any of the `len` bytes from `start`, as an unmap does.
    pub fn cancel_range(&mut self, start: u64, len: u64) -> usize {
        self.cancel(Some((start, len)))
    }

    /// Gives up every DMA_READ that waits, as a stop does: what it would bring can be asked for again.
    pub fn cancel_reads(&mut self) -> usize {
        let canceled = self.requests.iter_mut().map(Requests::cancel_reads).sum();
        self.counters.canceled += canceled as u64;
        self.bound_zombies();
        canceled
    }

    fn cancel(&mut self, range: Option<Range>) -> usize {
        let canceled = self.requests.iter_mut().map(|r| r.cancel(range)).sum();
        self.counters.canceled += canceled as u64;
        self.bound_zombies();
        canceled
    }

    /// Gives up what is past its deadline. Says how many.
    pub fn expire(&mut self, now: Time) -> usize {
        let expired = self.requests.iter_mut().map(|r| r.expire(now)).sum();
        self.counters.timeouts += expired as u64;
        self.bound_zombies();
        expired
    }

    /// When [`expire`](Self::expire) will next have something to do.
    #[inline]
    pub fn next_deadline(&self) -> Option<Time> {
        let [main, twin] = &self.requests;
        Time::first(main.next_deadline(), twin.next_deadline())
    }

    fn bound_zombies(&mut self) {
        if self.requests.iter().map(Requests::zombies).sum::<usize>() > self.limits.zombies {
            self.close(Closed::Limit("owes too many replies"));
        }
    }

    /// Ends the session, once: every request ends with [`Abort::Closed`]. Commands that wait are
    /// dropped, unless the peer just left: what it had asked for before is still done. Returns why
    /// the session ended, which is the first reason that was given.
    pub fn close(&mut self, why: Closed) -> Closed {
        if let Some(first) = &self.closed {
            return first.clone();
        }
        self.requests.iter_mut().for_each(Requests::close);
        if why != Closed::Disconnected {
            self.commands.clear();
        }
        self.closed = Some(why.clone());
        why
    }

    /// Why the session ended, if it has.
    #[inline]
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }
}
