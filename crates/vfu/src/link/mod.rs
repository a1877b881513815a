//! A session over its sockets, shared by every thread that uses it.
//!
//! There is no reader thread. Whoever waits, for a reply or for a command, reads the sockets
//! meanwhile, unless somebody else does already; what it reads for others it hands to the
//! [`Session`], which knows whose it is. So a register access costs one receive and one send, and
//! still nobody ever stops reading because they wait. The reader runs no handler.
//!
//! ```text
//!   executor ──► next_command ─┐                 ┌─ queue of commands
//!   a worker ──► outcome ──────┼─► wait ──► Session
//!   a worker ──► outcome ──────┘    │            └─ table of requests
//!                                   └─ one of them reads; the others sleep
//! ```
//!
//! Nearly always a message comes alone: nothing else waits, is late or is to be told. One look says so
//! (`State::is_quiet`), and what comes then goes straight to who wants it; all that there may be else is
//! out of the line.
//!
//! | file | idea |
//! |---|---|
//! | `wait` | waiting until something is found, in one of the ways there are to wait |
//! | `read` | the part of the reader |
//! | `spin` | looking again and again before it sleeps |
//! | `sort` | what was read, handed to the session |
//! | `request`, `asked`, `command` | what asks, and waits for the answer; what executes |
//! | `attend` | what reaches a session by other ways than its sockets |
//! | `patience`, `clock` | deadlines, and the time |
//! | `outbox` | what could not be sent at once |
//! | `apart` | for users who wait for the socket themselves |
//!
//! Locks, in the order in which they may be taken: an outbox, then the state.

mod apart;
mod asked;
mod attend;
mod clock;
mod command;
mod draft;
mod event;
mod outbox;
mod patience;
mod read;
mod request;
mod sort;
mod spin;
mod wait;
mod wake;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use rustix::io::Errno as SysErrno;
use vfu_proto::session::{Channel, Closed, Counters, Framer, Limits, Role, Session, Time};
use vfu_proto::wire::Header;

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, monotonic_ns};
use crate::transport::Socket;
pub(crate) use apart::Came;
pub(crate) use asked::{Answer, Waited};
pub(crate) use clock::Clock;
pub(crate) use command::Next;
pub(crate) use draft::{Draft, with_draft};
pub(crate) use outbox::FROM_PLACE;
use outbox::Outbox;
pub use request::Claim;
pub(crate) use request::{Asker, Extra, Reenter, RequestError};
pub use spin::Spin;
use spin::Spinning;
pub(crate) use wait::Sight;
pub(crate) use wake::Wake;

/// A message with the descriptors that came with it.
pub(crate) type Message = vfu_proto::session::Message<OwnedFd>;

/// One session and its sockets.
#[derive(Debug)]
pub(crate) struct Link {
    role: Role,
    main: Socket,
    twin: OnceLock<Socket>,
    state: Mutex<State>,
    /// Somebody else's reply or command came, or the sockets are free to be read.
    changed: Condvar,
    outboxes: [Mutex<Outbox>; 2],
    /// Bytes that wait in each outbox, to be seen without its lock.
    unsent: [AtomicUsize; 2],
    /// Ends the wait of a thread of ours that polls the sockets; see `poll_wake` and `flush_wake`.
    wakes: [OnceLock<Option<Wake>>; 3],
    /// Ends the wait of an event loop.
    loop_wake: OnceLock<Arc<Wake>>,
    /// The session has ended, to be seen without its lock.
    over: AtomicBool,
    /// The executor has something to do besides commands.
    kicked: AtomicBool,
    /// Answers that handlers will give later.
    open_answers: AtomicUsize,
    max_open_answers: usize,
    /// A signal came while a thread waited, if the sockets tell of that.
    interrupted: AtomicBool,
    /// A command of the client may be executed now, by somebody who does not wait for anything here.
    at_work: AtomicBool,
    /// Commands wait, or what was read is not all handed on: to be seen without the lock.
    more: AtomicBool,
    /// Nothing is read ahead of the message that is due.
    exact: AtomicBool,
    /// Bytes that are received ahead of a message's end at most.
    read_ahead: AtomicUsize,
    /// The last receive on the main socket took as much as that.
    filled: AtomicBool,
    /// A thread of ours sends what waits to be sent, for users who wait elsewhere.
    sends_apart: AtomicBool,
    /// How long one receive waits at most, if there is a limit: it saves a poll before it.
    tick: OnceLock<Duration>,
    /// That has been tried, for a server that waits for replies.
    ticks: AtomicBool,
    spinning: Spinning,
    /// The nanosecond from which its [`Time`] counts.
    origin: u64,
}

/// The tick of a session with a twin socket: so late we may notice that an idle one was closed.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct State {
    session: Session<OwnedFd>,
    /// At home when nobody reads the channel.
    framers: [Option<Box<Framer<OwnedFd>>>; 2],
    /// Since when the message at the head of a channel is incomplete.
    begun: [Option<Time>; 2],
    /// When VERSION has to be here, until it is.
    opening: Option<Time>,
    /// Since when the peer leaves an outbox unread.
    stalled: [Option<Time>; 2],
    /// When all channels were last read.
    looked: Time,
    /// Threads that sleep on `changed`.
    sleepers: usize,
    /// A thread does nothing but send what waits to be sent.
    flushing: bool,
    /// Something may happen that does not come over the sockets: readers watch `wake`, too.
    attended: bool,
    /// Threads that receive, and see nothing else until something comes.
    blind: usize,
    /// When the reader, or the event loop, will look up by itself.
    looks_up: Option<Time>,
    /// Whom to wake at a time that the session knows nothing of.
    alarm: Option<(Time, Waker)>,
    /// Whom to wake now.
    rung: Option<Waker>,
    /// Of what was received not all has been handed to the session: it takes no more for now.
    unsorted: bool,
    /// A message that the framer refuses is left out, and the session goes on.
    lenient: bool,
    /// Error replies that the session wants sent.
    refusals: Vec<(Channel, Header)>,
    /// Messages that are done with, for framers that were not at home.
    spare: [Vec<Message>; 2],
}

/// As many are kept for each framer.
const SPARE: usize = 16;

impl State {
    /// Whether somebody has to be woken, without the lock.
    #[inline]
    fn has_woken(&self) -> bool {
        self.rung.is_some() || self.session.has_woken()
    }

    /// Whether there is nothing to see to but what is received next, and the deadlines of requests. Nearly
    /// always there is not: so all of it is one look.
    #[inline]
    fn is_quiet(&self) -> bool {
        let slow = self.is_slow() | self.opening.is_some() | self.alarm.is_some();
        let came = self.unsorted | !self.refusals.is_empty() | self.rung.is_some();
        !(slow | came) & self.session.is_calm()
    }

    /// Whether nothing has to be sent or woken that came of what was read.
    #[inline]
    fn is_delivered(&self) -> bool {
        self.refusals.is_empty() && !self.has_woken()
    }

    /// Gives the buffer of a message back to the framer that made it.
    #[inline]
    fn recycle(&mut self, done: Message) {
        let channel = self.session.channel_of(&done) as usize;
        match &mut self.framers[channel] {
            Some(framer) => framer.recycle(done),
            None if self.spare[channel].len() < SPARE => self.spare[channel].push(done),
            None => {}
        }
    }
}

impl Link {
    pub(crate) fn new(socket: OwnedFd, role: Role, limits: Limits) -> Self {
        let framer = Box::new(Framer::new(limits.max_message));
        // A client always waits for a reply, and so with a deadline. It is exact nevertheless:
        // the last half of the time is waited for with a poll.
        let tick = limits.reply_timeout.filter(|_| role == Role::Client).map(|t| t / 2);
        let opening = limits.handshake_timeout.filter(|_| role == Role::Server);
        let opening = opening.map(|timeout| Time::ZERO + timeout);
        let max_open_answers = limits.queued_commands;
        let link = Link {
            role,
            main: Socket::new(socket),
            twin: OnceLock::new(),
            state: Mutex::new(State {
                session: Session::new(role, limits),
                framers: [Some(framer), None],
                begun: [None; 2],
                opening,
                stalled: [None; 2],
                looked: Time::at(Duration::ZERO),
                sleepers: 0,
                flushing: false,
                attended: false,
                blind: 0,
                looks_up: None,
                alarm: None,
                rung: None,
                unsorted: false,
                lenient: false,
                refusals: Vec::new(),
                spare: Default::default(),
            }),
            changed: Condvar::new(),
            outboxes: Default::default(),
            unsent: Default::default(),
            wakes: Default::default(),
            loop_wake: OnceLock::new(),
            over: AtomicBool::new(false),
            kicked: AtomicBool::new(false),
            open_answers: AtomicUsize::new(0),
            max_open_answers,
            interrupted: AtomicBool::new(false),
            at_work: AtomicBool::new(false),
            more: AtomicBool::new(false),
            exact: AtomicBool::new(false),
            read_ahead: AtomicUsize::new(usize::MAX),
            filled: AtomicBool::new(false),
            sends_apart: AtomicBool::new(false),
            tick: OnceLock::new(),
            ticks: AtomicBool::new(false),
            spinning: Spinning::default(),
            origin: monotonic_ns(),
        };
        if let Some(tick) = tick {
            link.limit_receive(tick);
        }
        link
    }

    fn limit_receive(&self, tick: Duration) {
        let sockets = [Some(&self.main), self.twin.get()];
        if sockets.into_iter().flatten().all(|socket| socket.limit_receive(tick)) {
            let _already_set = self.tick.set(tick);
        }
    }

    /// Adds the twin socket, as VERSION has agreed.
    pub(crate) fn add_twin(&self, socket: OwnedFd) {
        if self.twin.set(Socket::new(socket)).is_ok() {
            self.limit_receive(self.tick.get().copied().unwrap_or(LOOK));
            let mut state = self.lock();
            let framer = Framer::new(state.session.limits().max_message);
            state.framers[1] = Some(Box::new(framer));
            state.session.add_twin();
        }
    }

    pub(crate) fn has_twin(&self) -> bool {
        self.twin.get().is_some()
    }

    pub(crate) fn main(&self) -> &Socket {
        &self.main
    }

    pub(crate) fn twin(&self) -> Option<&Socket> {
        self.twin.get()
    }

    /// The socket of a channel, if there is one.
    pub(crate) fn socket_of(&self, channel: Channel) -> Option<&Socket> {
        match channel {
            Channel::Main => Some(&self.main),
            Channel::Twin => self.twin.get(),
        }
    }

    /// The channel for the peer's commands.
    pub(crate) fn command_channel(&self) -> Channel {
        match self.role {
            Role::Client if self.has_twin() => Channel::Twin,
            Role::Server | Role::Client => Channel::Main,
        }
    }

    #[inline]
    fn socket(&self, channel: Channel) -> &Socket {
        match channel {
            Channel::Twin => self.twin.get().unwrap_or(&self.main),
            Channel::Main => &self.main,
        }
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn now(&self) -> Time {
        Time::from_nanos(monotonic_ns().saturating_sub(self.origin))
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().session.counters()
    }

    pub(crate) fn handshake_timeout(&self) -> Option<Duration> {
        self.lock().session.limits().handshake_timeout
    }

    /// VERSION has been agreed on.
    pub(crate) fn opened(&self) {
        self.lock().opening = None;
    }

    /// Why the session has ended, if it has.
    #[inline]
    pub(crate) fn closed(&self) -> Option<Closed> {
        if self.over.load(Ordering::SeqCst) { self.why_closed() } else { None }
    }

    #[cold]
    fn why_closed(&self) -> Option<Closed> {
        self.lock().session.closed().cloned()
    }

    /// Ends the session; every thread that waits in it wakes.
    pub(crate) fn close(&self, why: Closed) -> Closed {
        let mut state = self.lock();
        let why = state.session.close(why);
        self.hang_up(&state);
        self.release(state);
        why
    }

    /// Unlocks, and wakes those who have to be.
    fn release(&self, mut state: MutexGuard<'_, State>) {
        if state.has_woken() {
            let mut woken: Vec<_> = state.rung.take().into_iter().collect();
            state.session.take_woken(&mut woken);
            drop(state);
            woken.into_iter().for_each(Waker::wake);
        }
    }

    /// What follows the end of the session: nobody goes on waiting.
    fn hang_up(&self, state: &State) {
        self.over.store(true, Ordering::SeqCst);
        self.main.shutdown();
        if let Some(twin) = self.twin.get() {
            twin.shutdown();
        }
        self.wake_sleepers(state);
        self.nudge();
    }

    /// Sends one whole message, which is a [draft](with_draft); what does not go at once is sent while
    /// somebody waits.
    #[inline]
    pub(crate) fn send(
        &self,
        channel: Channel,
        draft: &mut Vec<u8>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Closed> {
        self.send_from(self.outbox(channel), channel, draft, &[], fds)
    }

    /// As [`send`](Self::send), a message of a draft and `data` behind that.
    pub(crate) fn send_with_data(
        &self,
        channel: Channel,
        draft: &mut Vec<u8>,
        data: &[u8],
    ) -> Result<(), Closed> {
        self.send_from(self.outbox(channel), channel, draft, data, &[])
    }

    /// Sends a message that is a header and nothing else.
    pub(crate) fn send_header(&self, channel: Channel, header: &Header) -> Result<(), Closed> {
        with_draft(|draft| {
            header.emit_into(draft);
            self.send(channel, draft, &[])
        })
    }

    /// The channel for our requests.
    #[inline]
    fn request_channel(&self) -> Channel {
        match self.role {
            Role::Server if self.has_twin() => Channel::Twin,
            Role::Server | Role::Client => Channel::Main,
        }
    }

    #[inline]
    fn outbox(&self, channel: Channel) -> MutexGuard<'_, Outbox> {
        self.outboxes[channel as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn send_from(
        &self,
        mut outbox: MutexGuard<'_, Outbox>,
        channel: Channel,
        draft: &mut Vec<u8>,
        data: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Closed> {
        let sent = outbox.send(self.socket(channel), draft, data, fds);
        self.unsent[channel as usize].store(outbox.len(), Ordering::Release);
        drop(outbox);
        sent.map_err(|e| self.close(lost(e)))
    }

    /// Sends what goes of what waits.
    fn flush(&self, channel: Channel) -> Result<(), Closed> {
        let index = channel as usize;
        let mut outbox = self.outbox(channel);
        let flushed = outbox.flush(self.socket(channel));
        self.unsent[index].store(outbox.len(), Ordering::Release);
        drop(outbox);
        let progress = flushed.map_err(|e| self.close(lost(e)))?;
        if progress {
            self.lock().stalled[index] = None;
        }
        Ok(())
    }

    #[inline]
    fn unsent(&self, channel: Channel) -> usize {
        self.unsent[channel as usize].load(Ordering::Acquire)
    }

    /// Whether anything waits to be sent.
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        let [main, twin] = &self.unsent;
        (main.load(Ordering::Acquire) | twin.load(Ordering::Acquire)) > 0
    }

    /// Gives the buffer of a message back.
    #[inline]
    pub(crate) fn recycle(&self, done: Option<Message>) {
        if let Some(message) = done {
            self.lock().recycle(message);
        }
    }
}

/// Why a socket that failed to send ends the session.
fn lost(e: SysErrno) -> Closed {
    match e {
        SysErrno::PIPE | SysErrno::CONNRESET | SysErrno::NOTCONN => Closed::Disconnected,
        e => Closed::Socket(e.to_string()),
    }
}
