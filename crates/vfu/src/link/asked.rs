//! A request of a client that has been sent, and its answer.

use std::ops::{Deref, DerefMut};

use vfu_proto::session::{Abort, Sink, Ticket};

use super::read::Begun;
use super::wait::{On, Sight, Way};
use super::{Clock, Link, Message, RequestError, State};
use crate::sync::MutexGuard;

/// A reply up to this length, in bytes, is read while the state is ours.
const SHORT: usize = 8192;

/// A request that has been sent. Most often its asker has the part of the reader already: what comes next
/// is the reply, and to look for anything else before it is received is of no use.
pub(crate) struct Asked<'a> {
    link: &'a Link,
    ticket: Ticket,
    begun: Option<Begun>,
}

/// What came while waiting for a reply.
pub(crate) enum Waited<'a> {
    /// A command of the peer, to be executed.
    Command(Message),
    /// The reply, or why there is none.
    Outcome(Result<Answer<'a>, RequestError>),
}

/// A reply. If it is short the state of the session is ours as long as this is: it must not be kept, and
/// the session not be used meanwhile.
pub(crate) struct Answer<'a> {
    link: &'a Link,
    message: Message,
    state: Option<MutexGuard<'a, State>>,
}

impl<'a> Asked<'a> {
    #[inline]
    pub(super) fn new(link: &'a Link, ticket: Ticket, begun: Option<Begun>) -> Self {
        let mut asked = Asked { link, ticket, begun };
        if link.has_unsent() {
            // It is to be sent before we wait for its reply.
            asked.give_back();
        }
        asked
    }

    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    #[cold]
    fn give_back(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.link.read_nothing(begun);
        }
    }

    /// Waits for the reply, or for a command of the peer to be executed meanwhile. Commands that came
    /// before the reply come first. One thread executes at a time: it calls
    /// [`end_command`](Link::end_command).
    ///
    /// What of the reply's data is received by this thread may go to `sink`.
    #[inline]
    pub(crate) fn wait(
        &mut self,
        clock: &Clock<'_>,
        mut sink: Option<&mut Sink<'_>>,
    ) -> Waited<'a> {
        enum Found {
            Command(Message),
            Outcome(Result<Message, Abort>),
        }
        let (link, ticket) = (self.link, self.ticket);
        let turn = match self.begun.take() {
            Some(begun) => {
                let turn = link.read(begun, sink.as_deref_mut());
                clock.turn();
                turn
            }
            None => link.turn(),
        };
        let way = Way::patient(Sight::MayBeBlind, On::Replies);
        let (found, state) =
            link.wait_into(turn, clock, way, sink, |session| match link.begin(session) {
                Some(command) => Some(Found::Command(command)),
                None => session.outcome(ticket).map(Found::Outcome),
            });
        match found {
            Ok(Found::Outcome(Ok(message))) => {
                let state = (message.len() <= SHORT).then_some(state);
                Waited::Outcome(Ok(Answer { link, message, state }))
            }
            Ok(Found::Command(command)) => Waited::Command(command),
            Ok(Found::Outcome(Err(why))) => Waited::Outcome(Err(why.into())),
            Err(_closed) => Waited::Outcome(Err(Abort::Closed.into())),
        }
    }
}

impl Drop for Asked<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.begun.is_some() {
            self.give_back();
        }
    }
}

impl Answer<'_> {
    /// The reply, to be kept.
    pub(crate) fn into_message(self) -> Message {
        self.message
    }

    /// It has been read, and its buffer is used again.
    #[inline]
    pub(crate) fn done(self) {
        match self.state {
            Some(mut state) => state.recycle(self.message),
            None => self.link.recycle(Some(self.message)),
        }
    }
}

impl Deref for Answer<'_> {
    type Target = Message;

    #[inline]
    fn deref(&self) -> &Message {
        &self.message
    }
}

impl DerefMut for Answer<'_> {
    fn deref_mut(&mut self) -> &mut Message {
        &mut self.message
    }
}
