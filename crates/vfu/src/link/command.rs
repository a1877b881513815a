//! The peer's commands, as an executor takes them.

use std::os::fd::OwnedFd;

use vfu_proto::session::{Channel, Closed, Session};

use super::wait::{On, Sight};
use super::{Link, Message, State};
use crate::sync::atomic::Ordering;

/// What an executor does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// A command of the peer.
    Command(Message),
    /// Something that it put off may be done now: see [`Link::kick`].
    Kick,
}

impl Link {
    /// Waits for a command of the peer, as who [asks](super::asked::Asked::wait) does.
    pub(crate) fn begin_command(&self) -> Result<Message, Closed> {
        self.wait(Sight::MayBeBlind, On::Commands, |session| self.begin(session))
    }

    /// A command if one is here already.
    pub(crate) fn try_begin_command(&self) -> Option<Message> {
        self.begin(&mut self.sort(self.lock()).session)
    }

    /// As [`take_command`](Self::take_command), for a client.
    #[inline]
    pub(super) fn begin(&self, session: &mut Session<OwnedFd>) -> Option<Message> {
        if !session.has_queued() || self.is_held(session) { None } else { session.begin_command() }
    }

    /// The command has been executed.
    pub(crate) fn end_command(&self, done: Message) {
        let mut state = self.lock();
        state.session.end_command();
        state.recycle(done);
        self.wake_sleepers(&state);
    }

    /// The command has been executed, and the next one is begun, if it is here already; else the command
    /// stays the one that is being executed.
    pub(crate) fn end_and_begin(&self, done: Message) -> Result<Message, Message> {
        let mut state = self.lock();
        if self.is_held(&state.session) {
            return Err(done);
        }
        let Some(next) = state.session.end_and_begin_command() else { return Err(done) };
        state.recycle(done);
        self.wake_sleepers(&state);
        Ok(next)
    }

    /// The next command of the peer, or a kick; waits for it.
    ///
    /// `done` is a message that its executor is through with; its buffer is used again.
    pub(crate) fn next(&self, done: Option<Message>, paused: bool) -> Result<Next, Closed> {
        let mut state = self.lock();
        if let Some(done) = done {
            state.recycle(done);
        }
        self.executed();
        self.wait_on(state, &self.clock(), Sight::MayBeBlind, On::Commands, |session| {
            if self.take_kick() {
                return Some(Next::Kick);
            }
            if paused { None } else { self.take_command(session).map(Next::Command) }
        })
    }

    /// The first command, within the handshake's time.
    pub(crate) fn first_command(&self) -> Result<Message, Closed> {
        self.wait(Sight::Sees, On::Commands, Session::next_command)
    }

    /// Receives as [`poll_sockets`](Self::poll_sockets) does, and gives the next command if it may be
    /// executed; `done` is as for [`next`](Self::next).
    #[inline]
    pub(crate) fn receive_command(&self, done: Option<Message>, paused: bool) -> Option<Message> {
        self.executed();
        let (mut state, _) = self.poll(done);
        if paused { None } else { self.take_and_tell(&mut state) }
    }

    /// Whether [`try_next_command`](Self::try_next_command) may find one.
    #[inline]
    pub(crate) fn has_more(&self) -> bool {
        self.more.load(Ordering::SeqCst)
    }

    /// The next command if one is here already.
    pub(crate) fn try_next_command(&self, done: Option<Message>) -> Option<Message> {
        let mut state = self.lock();
        if let Some(done) = done {
            state.recycle(done);
        }
        let mut state = self.sort(state);
        self.take_and_tell(&mut state)
    }

    /// As [`take_command`](Self::take_command), for one who does not wait: if that makes room, who found
    /// none may read on.
    #[inline]
    fn take_and_tell(&self, state: &mut State) -> Option<Message> {
        let may_wake = state.sleepers > 0 || state.flushing;
        let was_full = may_wake && state.session.is_paused(state.session.command_channel());
        let command = self.take_command(&mut state.session)?;
        if was_full {
            self.wake_sleepers(state);
        }
        let more = state.unsorted | state.session.has_queued();
        self.more.store(more, Ordering::Release);
        Some(command)
    }

    /// Commands are not taken while the peer leaves too many replies unread; unless it has gone, and
    /// there won't be any.
    #[inline]
    pub(super) fn take_command(&self, session: &mut Session<OwnedFd>) -> Option<Message> {
        if !session.has_queued() || self.is_held(session) {
            return None;
        }
        self.at_work.store(true, Ordering::Release);
        session.next_command()
    }

    /// What has been taken has been executed, and the executor looks for more.
    #[inline]
    pub(crate) fn executed(&self) {
        self.at_work.store(false, Ordering::Release);
    }

    /// Whether a command may be executed now. While none is and none waits, nobody gives up a request of
    /// another thread: what may do that otherwise says that the session is to be [attended](Self::attended).
    pub(super) fn is_at_work(&self) -> bool {
        self.at_work.load(Ordering::Acquire)
    }

    /// Whether it is no use to receive commands: the peer leaves answers unread, and no more of its
    /// commands find room.
    pub(crate) fn is_stuck(&self) -> bool {
        let state = self.lock();
        self.is_held(&state.session) && state.session.is_paused(state.session.command_channel())
    }

    /// Whether commands are not taken.
    #[inline]
    pub(super) fn is_held(&self, session: &Session<OwnedFd>) -> bool {
        if !self.has_unsent() {
            return false;
        }
        let most = self.most_unsent(session.limits());
        session.closed().is_none() && Channel::ALL.into_iter().any(|c| self.unsent(c) > most)
    }

    /// A handler answers later.
    pub(crate) fn defers(&self) {
        self.open_answers.fetch_add(1, Ordering::SeqCst);
    }

    /// It has answered.
    pub(crate) fn deferred(&self) {
        let before = self.open_answers.fetch_sub(1, Ordering::SeqCst);
        if before == self.max_open_answers {
            self.kick();
        }
        self.nudge_if_unsent();
    }

    /// Whether the device owes so many answers that it gets no more commands.
    #[inline]
    pub(crate) fn is_saturated(&self) -> bool {
        self.open_answers.load(Ordering::SeqCst) >= self.max_open_answers
    }
}
