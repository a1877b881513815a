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
//! Locks, in the order in which they may be taken: an outbox, then the state.

mod outbox;
mod scratch;
mod wait;
mod wake;

use std::io::IoSlice;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno as SysErrno;
use vfu_proto::session::{
    Abort, Channel, Closed, Counters, Framer, Limits, Role, Session, Start, Ticket, Time,
};
use vfu_proto::wire::{Command, HEADER_SIZE, Header};

use crate::transport::Socket;
use outbox::Outbox;
pub(crate) use scratch::with_scratch;
use wait::Ended;
pub(crate) use wake::Wake;

/// A message with the descriptors that came with it.
pub(crate) type Message = vfu_proto::session::Message<OwnedFd>;

/// How long a blocked request may take, and what it is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About<'a> {
    /// How long to wait for the reply; `None`: as the limits say.
    pub(crate) timeout: Option<Duration>,
    /// The address and length that an unmap would cancel it by.
    pub(crate) range: Option<(u64, u64)>,
    /// Set before such a cancel: a request that would come too late for it does not start.
    pub(crate) retired: Option<&'a AtomicBool>,
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Aborted(#[from] Abort),
    #[error(transparent)]
    NotStarted(#[from] Start),
    #[error("what the request is about has gone")]
    Retired,
}

/// What came while waiting for a reply.
#[derive(Debug)]
pub(crate) enum Waited {
    /// A command of the peer, to be executed.
    Command(Message),
    /// The reply, or why there is none.
    Outcome(Result<Message, RequestError>),
}

/// One session and its sockets.
#[derive(Debug)]
pub(crate) struct Link {
    main: Socket,
    twin: OnceLock<Socket>,
    state: Mutex<State>,
    /// Somebody else's reply or command came, or the sockets are free to be read.
    changed: Condvar,
    outboxes: [Mutex<Outbox>; 2],
    /// Bytes that wait in each outbox, to be seen without its lock.
    unsent: [AtomicUsize; 2],
    /// Written when a command was queued, for an event loop that can't see it on the socket.
    wake: OnceLock<Arc<Wake>>,
    /// How long one receive waits at most, if there is a limit: it saves a poll before it.
    tick: OnceLock<Duration>,
    origin: Instant,
}

/// The tick of a session with a twin socket: so late we may notice that an idle one was closed.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct State {
    session: Session<OwnedFd>,
    /// At home when nobody reads the channel.
    framers: [Option<Framer<OwnedFd>>; 2],
    /// Since when the message at the head of a channel is incomplete.
    begun: [Option<Time>; 2],
    /// Since when the peer leaves an outbox unread.
    stalled: [Option<Time>; 2],
    /// When all channels were last read.
    looked: Time,
    /// Threads that sleep on `changed`.
    sleepers: usize,
    /// Error replies that the session wants sent.
    refusals: Vec<(Channel, Header)>,
    /// Between the kernel and a message, reused.
    fds: Vec<OwnedFd>,
    /// Messages that are done with, for framers that were not at home.
    spare: [Vec<Message>; 2],
}

/// As many are kept for each framer.
const SPARE: usize = 16;

impl State {
    /// Gives the buffer of a message back to the framer that made it.
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
        let framer = Framer::new(limits.max_message);
        // A client always waits for a reply, and so with a deadline. It is exact nevertheless:
        // the last half of the time is waited for with a poll.
        let tick = limits.reply_timeout.filter(|_| role == Role::Client).map(|t| t / 2);
        let link = Link {
            main: Socket::new(socket),
            twin: OnceLock::new(),
            state: Mutex::new(State {
                session: Session::new(role, limits),
                framers: [Some(framer), None],
                begun: [None; 2],
                stalled: [None; 2],
                looked: Time::at(Duration::ZERO),
                sleepers: 0,
                refusals: Vec::new(),
                fds: Vec::new(),
                spare: Default::default(),
            }),
            changed: Condvar::new(),
            outboxes: Default::default(),
            unsent: Default::default(),
            wake: OnceLock::new(),
            tick: OnceLock::new(),
            origin: Instant::now(),
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
            state.framers[1] = Some(Framer::new(state.session.limits().max_message));
            state.session.add_twin();
        }
    }

    /// From now on an event loop is told through `wake` of commands that another thread read.
    pub(crate) fn wake_by(&self, wake: Arc<Wake>) {
        let _already_set = self.wake.set(wake);
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

    fn socket(&self, channel: Channel) -> &Socket {
        match channel {
            Channel::Twin => self.twin.get().unwrap_or(&self.main),
            Channel::Main => &self.main,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        Time::at(self.origin.elapsed())
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().session.counters()
    }

    pub(crate) fn handshake_timeout(&self) -> Option<Duration> {
        self.lock().session.limits().handshake_timeout
    }

    /// Why the session has ended, if it has.
    pub(crate) fn closed(&self) -> Option<Closed> {
        self.lock().session.closed().cloned()
    }

    /// Ends the session; every thread that waits in it wakes.
    pub(crate) fn close(&self, why: Closed) -> Closed {
        let mut state = self.lock();
        let why = state.session.close(why);
        self.hang_up(&state);
        why
    }

    /// What follows the end of the session: nobody goes on waiting.
    fn hang_up(&self, state: &State) {
        self.main.shutdown();
        if let Some(twin) = self.twin.get() {
            twin.shutdown();
        }
        self.wake_sleepers(state);
        self.wake_loop();
    }

    fn wake_loop(&self) {
        if let Some(wake) = self.wake.get() {
            wake.wake();
        }
    }

    /// Sends one whole message; what does not go at once is sent while somebody waits.
    pub(crate) fn send(
        &self,
        channel: Channel,
        parts: &[IoSlice<'_>],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Closed> {
        let index = channel as usize;
        let mut outbox = self.outboxes[index].lock().unwrap_or_else(PoisonError::into_inner);
        let sent = outbox.send(self.socket(channel), parts, fds);
        self.unsent[index].store(outbox.len(), Ordering::Release);
        sent.map_err(|e| self.close(lost(e)))
    }

    /// Sends what goes of what waits.
    fn flush(&self, channel: Channel) -> Result<(), Closed> {
        let index = channel as usize;
        let mut outbox = self.outboxes[index].lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = outbox.flush(self.socket(channel));
        self.unsent[index].store(outbox.len(), Ordering::Release);
        let progress = flushed.map_err(|e| self.close(lost(e)))?;
        if progress {
            self.lock().stalled[index] = None;
        }
        Ok(())
    }

    fn unsent(&self, channel: Channel) -> usize {
        self.unsent[channel as usize].load(Ordering::Acquire)
    }

    /// Whether anything waits to be sent.
    pub(crate) fn has_unsent(&self) -> bool {
        Channel::ALL.iter().any(|c| self.unsent(*c) > 0)
    }

    /// Sends a request; its outcome is fetched with [`outcome`](Self::outcome).
    ///
    /// Waits while as many requests as allowed are outstanding.
    pub(crate) fn request(
        &self,
        command: Command,
        payload: &[IoSlice<'_>],
        fds: &[BorrowedFd<'_>],
        about: About<'_>,
    ) -> Result<Ticket, RequestError> {
        let started = self.wait(None, |session| {
            if self.unsent(session.request_channel()) > session.limits().unsent_bytes {
                return None;
            }
            if about.retired.is_some_and(|r| r.load(Ordering::SeqCst)) {
                return Some(Err(RequestError::Retired));
            }
            let timeout = about.timeout.or(session.limits().reply_timeout);
            match session.start(command, timeout.map(|t| self.now() + t), about.range) {
                Err(Start::Full) => None,
                started => Some(started.map_err(RequestError::NotStarted)),
            }
        });
        let ticket = started.unwrap_or(Err(Start::Closed.into()))?;
        // If it can't be sent the session is closed, and that is the outcome.
        let _closed =
            self.send_command(ticket.channel(), ticket.id(), command, payload, fds, false);
        Ok(ticket)
    }

    /// Sends a command that wants no reply.
    pub(crate) fn post(
        &self,
        command: Command,
        payload: &[IoSlice<'_>],
    ) -> Result<(), RequestError> {
        let started = self.wait(None, |session| {
            let channel = session.request_channel();
            let room = self.unsent(channel) <= session.limits().unsent_bytes;
            room.then(|| session.start_posted().map(|id| (channel, id)))
        });
        let (channel, id) = started.unwrap_or(Err(Start::Closed))?;
        self.send_command(channel, id, command, payload, &[], true)
            .map_err(|_| RequestError::NotStarted(Start::Closed))
    }

    /// Waits until all has been sent; gives commands to be executed meanwhile, so that a peer that
    /// waits for us before it reads on is not waited for in vain.
    pub(crate) fn flushed_or_command(&self) -> Option<Message> {
        if !self.has_unsent() {
            return None;
        }
        let waited = self.wait(None, |session| match session.begin_command() {
            None if self.has_unsent() => None,
            command => Some(command),
        });
        waited.unwrap_or(None)
    }

    fn send_command(
        &self,
        channel: Channel,
        id: u16,
        command: Command,
        payload: &[IoSlice<'_>],
        fds: &[BorrowedFd<'_>],
        posted: bool,
    ) -> Result<(), Closed> {
        let len = payload.iter().map(|p| p.len()).sum();
        let mut header = Header::command(id, command, len);
        if posted {
            header = header.with_no_reply();
        }
        let header: [u8; HEADER_SIZE] = header.emit();
        match payload {
            [] => self.send(channel, &[IoSlice::new(&header)], fds),
            [one] => self.send(channel, &[IoSlice::new(&header), IoSlice::new(one)], fds),
            [one, two, ..] => {
                let parts = [IoSlice::new(&header), IoSlice::new(one), IoSlice::new(two)];
                self.send(channel, &parts, fds)
            }
        }
    }

    /// Waits for the reply to a request.
    pub(crate) fn outcome(&self, ticket: Ticket) -> Result<Message, RequestError> {
        let outcome = self.wait(None, |session| session.outcome(ticket));
        match outcome {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(Abort::Closed.into()),
        }
    }

    /// Waits for the reply to a request, or for a command of the peer to be executed meanwhile.
    /// Commands that came before the reply come first. One thread executes at a time: it calls
    /// [`end_command`](Self::end_command).
    pub(crate) fn outcome_or_command(&self, ticket: Ticket) -> Waited {
        let waited = self.wait(None, |session| match session.begin_command() {
            Some(command) => Some(Waited::Command(command)),
            None => session.outcome(ticket).map(|o| Waited::Outcome(o.map_err(Into::into))),
        });
        waited.unwrap_or(Waited::Outcome(Err(Abort::Closed.into())))
    }

    /// Waits for a command of the peer, as [`outcome_or_command`](Self::outcome_or_command) does.
    pub(crate) fn begin_command(&self) -> Result<Message, Closed> {
        self.wait(None, Session::begin_command).map_err(|ended| match ended {
            Ended::Closed(why) => why,
            Ended::TimedOut => Closed::Limit("timed out"),
        })
    }

    /// A command if one is here already.
    pub(crate) fn try_begin_command(&self) -> Option<Message> {
        self.sort(self.lock()).session.begin_command()
    }

    /// The command has been executed.
    pub(crate) fn end_command(&self, done: Message) {
        let mut state = self.lock();
        state.session.end_command();
        state.recycle(done);
        self.wake_sleepers(&state);
    }

    /// The next command of the peer; waits for it.
    ///
    /// `done` is a message that its executor is through with; its buffer is used again.
    pub(crate) fn next_command(&self, done: Option<Message>) -> Result<Message, Closed> {
        self.recycle(done);
        match self.wait(None, |session| self.take_command(session)) {
            Ok(command) => Ok(command),
            Err(Ended::Closed(why)) => Err(why),
            Err(Ended::TimedOut) => Err(self.close(Closed::Limit("timed out"))),
        }
    }

    /// The first command, within the handshake's time.
    pub(crate) fn first_command(&self) -> Result<Message, Closed> {
        let timeout = self.lock().session.limits().handshake_timeout;
        let deadline = timeout.map(|t| self.now() + t);
        match self.wait(deadline, Session::next_command) {
            Ok(command) => Ok(command),
            Err(Ended::Closed(why)) => Err(why),
            Err(Ended::TimedOut) => Err(self.close(Closed::Limit("did not send VERSION in time"))),
        }
    }

    /// The next command if one is here already.
    pub(crate) fn try_next_command(&self, done: Option<Message>) -> Option<Message> {
        self.recycle(done);
        let mut state = self.sort(self.lock());
        self.take_command(&mut state.session)
    }

    /// Commands are not taken while the peer leaves too many replies unread.
    fn take_command(&self, session: &mut Session<OwnedFd>) -> Option<Message> {
        if Channel::ALL.iter().any(|c| self.unsent(*c) > session.limits().unsent_bytes) {
            return None;
        }
        session.next_command()
    }

    /// Gives the buffer of a message back.
    pub(crate) fn recycle(&self, done: Option<Message>) {
        if let Some(message) = done {
            self.lock().recycle(message);
        }
    }

    /// Gives up a request whose outcome nobody wants any more.
    pub(crate) fn forget(&self, ticket: Ticket) {
        self.lock().session.forget(ticket);
    }

    /// Gives up requests about a range of addresses, or all.
    pub(crate) fn cancel(&self, range: Option<(u64, u64)>) {
        let mut state = self.lock();
        match range {
            Some((start, len)) => state.session.cancel_range(start, len),
            None => state.session.cancel_all(),
        };
        if state.session.closed().is_some() {
            self.hang_up(&state);
        } else {
            self.wake_sleepers(&state);
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
