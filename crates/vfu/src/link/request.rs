//! Asking the peer, and the three ways to wait for it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use vfu_proto::session::{Abort, Role, Session, Sink, Start, Ticket};
use vfu_proto::wire::{Command, HEADER_SIZE, Header};

use super::asked::Asked;
use super::read::Begun;
use super::wait::{On, Sight, Way};
use super::{Clock, Link, Message, State};
use crate::sync::atomic::Ordering;

/// Data is put behind the draft of a request up to this length, in bytes: the kernel has less to look at.
const SMALL: usize = 128;

/// What a request may have besides its fields.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extra<'a> {
    /// What is sent behind its draft.
    pub(crate) data: &'a [u8],
    pub(crate) fds: &'a [BorrowedFd<'a>],
    /// How long to wait for the reply; `None`: as the limits say.
    pub(crate) timeout: Option<Duration>,
    /// The address and length of what it is about, that an unmap would cancel it by.
    pub(crate) range: Option<(u64, u64)>,
    /// Whether what it is about has gone: asked at a moment when no cancel can slip in between.
    pub(crate) gone: Option<&'a dyn Fn() -> bool>,
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Aborted(#[from] Abort),
    #[error(transparent)]
    NotStarted(#[from] Start),
    #[error("what the request is about has gone")]
    Gone,
}

/// Who waits, and what it has to do meanwhile.
pub(crate) struct Asker<'a> {
    /// Asks in a handler: a reset that is queued behind it ends the wait, and its time is limited.
    in_handler: bool,
    /// Asks in a handler of a device that may be called again: serves commands meanwhile.
    reentry: Option<&'a dyn Reenter>,
    budget: Option<Duration>,
}

/// Executes a command while somebody waits.
pub(crate) trait Reenter: Send + Sync {
    /// The right to execute the next command; none while commands have to wait. It is asked for before
    /// the command is taken, so that of several who execute none overtakes another. Never waits.
    fn claim(&self, link: &Link) -> Option<Claim<'_>>;

    /// Executes one command, and answers it.
    fn reenter(&self, link: &Arc<Link>, command: Message);
}

/// The right to execute a command; it ends with this.
#[derive(Debug, Default)]
pub struct Claim<'a> {
    _held: Option<std::sync::MutexGuard<'a, ()>>,
}

impl<'a> Claim<'a> {
    /// For whoever executes under a lock.
    pub fn held(lock: std::sync::MutexGuard<'a, ()>) -> Self {
        Claim { _held: Some(lock) }
    }
}

impl<'a> Asker<'a> {
    /// Somebody outside the device's handlers.
    pub(crate) fn elsewhere() -> Self {
        Asker { in_handler: false, reentry: None, budget: None }
    }

    /// A handler, with as much time as `budget` for all that it asks.
    pub(crate) fn handler(budget: Option<Duration>, reentry: Option<&'a dyn Reenter>) -> Self {
        Asker { in_handler: true, reentry, budget }
    }

    /// Has commands that arrive served meanwhile.
    pub(crate) fn serving(self, reentry: &'a dyn Reenter) -> Self {
        Asker { reentry: Some(reentry), ..self }
    }

    /// How long the next request may take, if that is less than usual.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.budget.map(crate::context::left)
    }

    /// Whether the wait is in vain: a reset is next.
    fn is_reset(&self, session: &Session<OwnedFd>) -> bool {
        self.in_handler && self.reentry.is_none() && session.reset_is_queued()
    }
}

/// What came while somebody waited.
enum Came<'a> {
    End(Result<(), RequestError>),
    Command(Message, Claim<'a>),
}

impl Link {
    /// Sends a request, if there is room for it; its outcome is fetched with
    /// [`try_outcome`](Self::try_outcome). It is made of a [draft](super::with_draft).
    pub(crate) fn try_request(
        &self,
        command: Command,
        draft: &mut Vec<u8>,
        extra: Extra<'_>,
        clock: &Clock<'_>,
    ) -> Result<Option<Ticket>, RequestError> {
        let sent = self.try_send_request(command, draft, extra, clock, |_| ())?;
        Ok(sent.map(|(ticket, ())| ticket))
    }

    /// As [`try_request`](Self::try_request), and has `also` done with the state when the request has been
    /// entered, before it is sent.
    #[inline]
    fn try_send_request<R>(
        &self,
        command: Command,
        draft: &mut Vec<u8>,
        extra: Extra<'_>,
        clock: &Clock<'_>,
        also: impl FnOnce(&mut State) -> R,
    ) -> Result<Option<(Ticket, R)>, RequestError> {
        // Who gives requests up and then says so to the peer, as an unmap does, says it behind those
        // that were sent: the outbox is ours before the request is there to be given up.
        let outbox = self.outbox(self.request_channel());
        let mut state = self.lock();
        if !self.has_room(&state.session) {
            return Ok(None);
        }
        if extra.gone.is_some_and(|gone| gone()) {
            return Err(RequestError::Gone);
        }
        let usual = state.session.limits().reply_timeout;
        let deadline = shorter(extra.timeout, usual).map(|t| clock.now() + t);
        let ticket = state.session.start(command, deadline, extra.range)?;
        let also = also(&mut state);
        drop(state);
        let Extra { data, fds, .. } = extra;
        let header = Header::command(ticket.id(), command, draft.len() - HEADER_SIZE + data.len());
        header.emit_into(draft);
        if data.len() <= SMALL {
            draft.extend_from_slice(data);
        }
        let data = if data.len() > SMALL { data } else { &[] };
        // If it can't be sent the session is closed, and that is the outcome.
        let _closed = self.send_from(outbox, ticket.channel(), draft, data, fds);
        Ok(Some((ticket, also)))
    }

    /// Whether a request would find room among the others, and in what waits to be sent.
    #[inline]
    fn has_room(&self, session: &Session<OwnedFd>) -> bool {
        session.closed().is_some() || session.has_room() && self.has_space(session)
    }

    /// Whether not too much waits to be sent to begin with more.
    #[inline]
    fn has_space(&self, session: &Session<OwnedFd>) -> bool {
        self.unsent(session.request_channel()) <= session.limits().unsent_bytes
    }

    /// What became of a request, once that is known.
    pub(crate) fn try_outcome(&self, ticket: Ticket) -> Option<Result<Message, RequestError>> {
        let outcome = self.lock().session.outcome(ticket)?;
        Some(outcome.map_err(RequestError::from))
    }

    /// Waits until a request has ended, however it did.
    ///
    /// # Errors
    /// The asker need not wait any longer.
    pub(crate) fn wait_for_end(
        self: &Arc<Self>,
        ticket: Ticket,
        asker: &Asker<'_>,
    ) -> Result<(), RequestError> {
        self.wait_for_data(ticket, asker, None)
    }

    /// As [`wait_for_end`](Self::wait_for_end); what of the reply's data is received by this thread may
    /// go to `sink`, and is then [away](Message::away) from the message.
    pub(crate) fn wait_for_data(
        self: &Arc<Self>,
        ticket: Ticket,
        asker: &Asker<'_>,
        sink: Option<Sink<'_>>,
    ) -> Result<(), RequestError> {
        let way = Way::patient(self.sight_of(asker), On::Replies);
        self.wait_as(asker, way, sink, |session| session.has_ended(ticket))
    }

    /// Waits until there may be room for a request: as long as its answer might take, and as the asker
    /// has left.
    ///
    /// # Errors
    /// As for [`wait_for_end`](Self::wait_for_end); or there is no room in time.
    pub(crate) fn wait_for_room(self: &Arc<Self>, asker: &Asker<'_>) -> Result<(), RequestError> {
        let way = self.way_to_room(asker.left());
        self.wait_as(asker, way, None, |session| self.has_room(session))
    }

    /// How to wait for room: no longer than for an answer, or less. Any thread may make room.
    fn way_to_room(&self, at_most: Option<Duration>) -> Way {
        let usual = self.lock().session.limits().reply_timeout;
        let until = shorter(at_most, usual).map(|time| self.now() + time);
        Way { sight: Sight::Sees, on: On::Replies, until }
    }

    /// Whether who waits for a reply may do so in a receive. On two sockets commands, which may give it
    /// up, come by another than who waits reads; and users who wait for the socket themselves have threads
    /// that we know nothing of.
    fn sight_of(&self, asker: &Asker<'_>) -> Sight {
        if self.role == Role::Client || self.has_twin() || self.is_apart() {
            return Sight::Sees;
        }
        if !self.ticks.load(Ordering::Relaxed) {
            self.tick_for_replies();
        }
        // Nobody else executes while a handler waits.
        if asker.in_handler { Sight::MayBeBlind } else { Sight::BlindAtRest }
    }

    #[cold]
    fn tick_for_replies(&self) {
        self.ticks.store(true, Ordering::Relaxed);
        let timeout = self.lock().session.limits().reply_timeout;
        if let Some(timeout) = timeout {
            self.limit_receive(timeout / 2);
        }
    }

    fn wait_as(
        self: &Arc<Self>,
        asker: &Asker<'_>,
        way: Way,
        mut sink: Option<Sink<'_>>,
        ended: impl Fn(&Session<OwnedFd>) -> bool,
    ) -> Result<(), RequestError> {
        loop {
            let (turn, clock, sink) = (self.turn(), self.clock(), sink.as_mut());
            let (came, state) = self.wait_into(turn, &clock, way, sink, |session| {
                if ended(session) {
                    return Some(Came::End(Ok(())));
                }
                if way.until.is_some_and(|until| until <= clock.now()) {
                    return Some(Came::End(Err(Abort::TimedOut.into())));
                }
                if asker.is_reset(session) {
                    return Some(Came::End(Err(Abort::Canceled.into())));
                }
                if session.queued() == 0 {
                    return None;
                }
                let claim = asker.reentry.and_then(|reentry| reentry.claim(self))?;
                Some(Came::Command(self.take_command(session)?, claim))
            });
            drop(state);
            match (came, asker.reentry) {
                (Ok(Came::End(end)), _) => return end,
                (Ok(Came::Command(command, _claim)), Some(reentry)) => {
                    reentry.reenter(self, command);
                }
                (Ok(Came::Command(..)), None) | (Err(_), _) => return Err(Abort::Closed.into()),
            }
        }
    }

    /// Has `waker` woken when a request ends. False: it has already.
    pub(crate) fn wake_on_end(self: &Arc<Self>, ticket: Ticket, waker: &Waker) -> bool {
        let mut state = self.lock();
        if !state.session.wake_on(ticket, waker) {
            return false;
        }
        self.become_attended(&mut state);
        self.attend(state);
        true
    }

    /// Has `waker` woken when there may be room for a request. False: there is.
    pub(crate) fn wake_on_room(self: &Arc<Self>, waker: &Waker) -> bool {
        let mut state = self.lock();
        if self.has_room(&state.session) {
            return false;
        }
        state.session.wake_on_room(waker);
        self.become_attended(&mut state);
        self.attend(state);
        true
    }

    /// Has a waker woken when all DMA_WRITEs sent by now have ended. False: none is under way.
    pub(crate) fn wake_after_writes(&self, waker: impl FnOnce() -> Waker) -> bool {
        self.lock().session.wake_after_writes(waker)
    }

    /// Gives up a request whose outcome nobody wants any more.
    pub(crate) fn forget(&self, ticket: Ticket) {
        let mut state = self.lock();
        state.session.forget(ticket);
        self.told(state);
    }

    /// Gives up every read of the peer's memory.
    pub(crate) fn cancel_reads(&self) {
        let mut state = self.lock();
        state.session.cancel_reads();
        self.told(state);
    }

    /// Gives up requests about a range of addresses, or all.
    pub(crate) fn cancel(&self, range: Option<(u64, u64)>) {
        let mut state = self.lock();
        match range {
            Some((start, len)) => state.session.cancel_range(start, len),
            None => state.session.cancel_all(),
        };
        self.told(state);
    }

    /// Sends a request of a client, which is then waited for; waits while there is no room. It is made of
    /// a [draft](super::with_draft).
    #[inline]
    pub(crate) fn request(
        self: &Arc<Self>,
        command: Command,
        draft: &mut Vec<u8>,
        extra: Extra<'_>,
        clock: &Clock<'_>,
    ) -> Result<Asked<'_>, RequestError> {
        loop {
            // The kernel wakes a receive, and no poll, for each part of a long message that the peer takes.
            let sight = if extra.data.len() > SMALL { Sight::Sees } else { Sight::MayBeBlind };
            let read = |state: &mut State| self.read_next(state, clock, sight);
            match self.try_send_request(command, draft, extra, clock, read)? {
                Some((ticket, begun)) => return Ok(Asked::new(self, ticket, begun)),
                None => self.wait_for_room(&Asker::elsewhere())?,
            }
            clock.turn();
        }
    }

    /// Takes the part of the reader for one who has nothing else to do before.
    #[inline]
    fn read_next(&self, state: &mut State, clock: &Clock<'_>, sight: Sight) -> Option<Begun> {
        let until = state.session.next_deadline();
        let is_due = until.is_some_and(|until| until <= clock.now());
        if is_due || !state.is_quiet() || self.has_unsent() {
            return None;
        }
        let way = Way { sight, on: On::Replies, until };
        self.begin_reading(state, way, clock, false)
    }

    /// Sends a command that wants no reply, when there is space; it is a [draft](super::with_draft).
    pub(crate) fn post(
        self: &Arc<Self>,
        command: Command,
        draft: &mut Vec<u8>,
    ) -> Result<(), RequestError> {
        let channel = self.request_channel();
        let id = loop {
            let mut state = self.lock();
            if self.has_space(&state.session) {
                break state.session.start_posted()?;
            }
            drop(state);
            let (asker, way) = (Asker::elsewhere(), self.way_to_room(None));
            self.wait_as(&asker, way, None, |session| self.has_space(session))?;
        };
        let header = Header::command(id, command, draft.len() - HEADER_SIZE);
        header.with_no_reply().emit_into(draft);
        self.send(channel, draft, &[]).map_err(|_| RequestError::NotStarted(Start::Closed))
    }

    /// Waits until all has been sent; gives commands to be executed meanwhile, so that a peer that
    /// waits for us before it reads on is not waited for in vain.
    pub(crate) fn flushed_or_command(&self) -> Option<Message> {
        if !self.has_unsent() {
            return None;
        }
        let waited = self.wait(Sight::Sees, On::Replies, |session| match self.begin(session) {
            None if self.has_unsent() => None,
            command => Some(command),
        });
        waited.unwrap_or(None)
    }
}

/// The shorter of two times, either of which may be for ever.
fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::time::Instant;

    use vfu_proto::session::{Closed, Limits};

    use super::*;
    use crate::link::{Next, with_draft};

    const NEVER: Duration = Duration::from_secs(10);

    /// The thread is in a receive, and has to know all the same of what the reset that it receives does.
    #[test]
    fn who_waits_in_a_receive_learns_what_a_command_takes_back() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let link = Link::new(ours.into(), Role::Server, Limits::default());
        link.opened();
        let link = Arc::new(link);
        for _ in 0..3 {
            let ask = |draft: &mut _| {
                link.try_request(Command::DmaRead, draft, Extra::default(), &link.clock()).unwrap()
            };
            let ticket = with_draft(ask).unwrap();
            let (done, is_done) = mpsc::channel();
            let asker = link.clone();
            let thread = std::thread::spawn(move || {
                let _nobody_waits_any_more =
                    done.send(asker.wait_for_end(ticket, &Asker::elsewhere()).is_ok());
            });
            let began = Instant::now();
            while link.lock().blind == 0 && began.elapsed() < NEVER {
                std::thread::yield_now();
            }
            assert_eq!(link.lock().blind, 1, "it waits in a receive");
            peer.write_all(&Header::command(1, Command::DeviceReset, 0).emit()).unwrap();
            let command = match link.next(None, false) {
                Ok(Next::Command(command)) => command,
                other => panic!("{other:?}"),
            };
            link.cancel(None);
            let came = is_done.recv_timeout(NEVER);
            if came.is_err() {
                link.close(Closed::Stopped);
            }
            thread.join().unwrap();
            assert_eq!(came, Ok(true));
            let outcome = link.try_outcome(ticket).unwrap();
            assert_eq!(outcome.unwrap_err(), RequestError::Aborted(Abort::Canceled));
            link.recycle(Some(command));
            link.executed();
        }
    }
}
