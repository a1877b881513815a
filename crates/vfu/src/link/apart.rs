//! What a session needs whose user waits for the main socket himself, without our help.
//!
//! Such a user knows of what the peer sends, and of nothing else.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use vfu_proto::session::{Channel, Closed, Limits, Role, Session, Time};

use super::wait::On;
use super::{Claim, Link, Message, Reenter, Sight, lost};
use crate::sync::ThreadBuilder;
use crate::sync::atomic::Ordering;
use crate::transport::Signals;

/// A command whose reply may be as large as a message can be has at least about so many bytes.
const SMALL_COMMAND: usize = 32;
/// Commands that are read ahead at most where nobody may wait for the peer.
const MOST_AHEAD: usize = 64;

/// What ended a wait for a command.
#[derive(Debug)]
pub(crate) enum Came<'a> {
    Command(Message, Claim<'a>),
    /// There may be something to do besides commands.
    Kick,
    Signal,
}

impl Link {
    /// A server's session for such a user. A signal ends its waits. Until it is
    /// [indulgent](Self::indulge) nothing is read ahead.
    pub(crate) fn apart(socket: OwnedFd, limits: Limits) -> Self {
        let mut link = Link::new(socket, Role::Server, limits);
        link.main.set_signals(Signals::Interrupt);
        link.exact.store(true, Ordering::SeqCst);
        link
    }

    /// From now on single messages are refused where the session would end: a broken header, a reply to
    /// nothing.
    pub(crate) fn indulge(&self) {
        self.exact.store(false, Ordering::SeqCst);
        let mut state = self.lock();
        state.lenient = true;
        state.session.answer_strays();
    }

    /// From now on no wait is to be made for a peer that leaves replies unread. What is read ahead
    /// would not be announced by the socket when there is room again: so nothing is received while
    /// there is none, and at other times only a few commands, all of which are executed.
    pub(crate) fn never_block(&self) {
        let state = self.lock();
        let limits = state.session.limits();
        let commands = (limits.unsent_bytes / limits.max_message.max(1)).clamp(1, MOST_AHEAD);
        self.read_ahead.store(commands * SMALL_COMMAND, Ordering::SeqCst);
    }

    /// Whether this is a session for such a user.
    pub(super) fn is_apart(&self) -> bool {
        self.main.signals() == Signals::Interrupt
    }

    #[inline]
    pub(super) fn may_block(&self) -> bool {
        self.read_ahead.load(Ordering::Relaxed) == usize::MAX
    }

    /// Whether nothing is received until the peer reads.
    #[inline]
    pub(super) fn receives_no_more(&self, session: &Session<OwnedFd>) -> bool {
        !self.may_block() && Channel::ALL.into_iter().any(|c| self.is_left_unread(c, session))
    }

    /// Bytes that wait to be sent when no commands are executed any more. Of what was received in time
    /// all is; there is more only if somebody waited for DMA meanwhile.
    pub(super) fn most_unsent(&self, limits: &Limits) -> usize {
        if self.may_block() {
            return limits.unsent_bytes;
        }
        let ahead = limits.max_message.saturating_mul(2);
        limits.unsent_bytes.saturating_mul(8).saturating_add(ahead)
    }

    /// Whether commands wait until the peer reads.
    pub(crate) fn holds(&self) -> bool {
        let state = self.lock();
        state.session.queued() > 0 && self.is_held(&state.session)
    }

    /// Whether the last receive left bytes behind, as far as we know.
    pub(crate) fn has_filled(&self) -> bool {
        self.filled.swap(false, Ordering::Relaxed)
    }

    /// While the peer leaves so much unread that it gets no commands executed, waits for it, as long as
    /// it may take.
    pub(crate) fn make_room(&self) {
        while self.may_block() && self.holds() && self.send_waiting() {}
    }

    /// The next command of the peer, with a claim to execute it, unless something else comes first.
    pub(crate) fn next_or_signal<'a>(
        &self,
        reentry: &'a dyn Reenter,
        sight: Sight,
    ) -> Result<Came<'a>, Closed> {
        self.wait(sight, On::Commands, |session| {
            if self.interrupted.swap(false, Ordering::SeqCst) {
                return Some(Came::Signal);
            }
            if self.take_kick() {
                return Some(Came::Kick);
            }
            if session.queued() == 0 {
                return None;
            }
            let claim = reentry.claim(self)?;
            Some(Came::Command(self.take_command(session)?, claim))
        })
    }

    /// When the message began of which only a part is here.
    pub(crate) fn unfinished(&self) -> Option<Duration> {
        self.lock().begun[Channel::Main as usize].map(|begun| begun.since(Time::ZERO))
    }

    /// Commands that wait.
    pub(crate) fn queued(&self) -> usize {
        self.lock().session.queued()
    }

    /// Sends what waits to be sent on a thread of its own, for nobody else may come to do it. The thread
    /// ends when all has gone.
    pub(crate) fn send_apart(self: &Arc<Self>) {
        // What a peer that has gone left unread stays.
        let in_vain = !self.has_unsent() || self.closed().is_some();
        if in_vain || self.sends_apart.swap(true, Ordering::SeqCst) {
            return;
        }
        let link = self.clone();
        let thread = ThreadBuilder::new().name("vfu-sender".into());
        let started = thread.spawn(move || {
            while link.send_waiting() {}
            link.sends_apart.store(false, Ordering::SeqCst);
            // What came to wait just now found us here.
            link.send_apart();
        });
        if started.is_err() {
            // Out of threads: it goes when the user comes next.
            self.sends_apart.store(false, Ordering::SeqCst);
        }
    }

    /// Waits until something can be sent, and sends it. False: there is nothing left to do.
    fn send_waiting(&self) -> bool {
        let mut state = self.lock();
        if state.session.closed().is_some()
            || !self.has_unsent()
            || self.is_overdue(&mut state, &self.clock())
        {
            self.release(state);
            return false;
        }
        let until = self.patience(&state);
        drop(state);
        let unsent = Channel::ALL.into_iter().filter(|c| self.unsent(*c) > 0);
        let mut set: Vec<_> = unsent
            .map(|c| PollFd::from_borrowed_fd(self.socket(c).as_fd(), PollFlags::OUT))
            .collect();
        if let Err(e) = self.poll_set(&mut set, until) {
            self.close(lost(e));
            return false;
        }
        for channel in Channel::ALL {
            let _closed = self.flush(channel);
        }
        true
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn nobody_sends_to_a_peer_that_has_gone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let link = Arc::new(Link::apart(ours.into(), Limits::default()));
        link.send(Channel::Main, &mut vec![0; 4 << 20], &[]).unwrap();
        drop(theirs);
        link.close(Closed::Disconnected);
        assert!(link.has_unsent());
        link.send_apart();
        assert_eq!(Arc::strong_count(&link), 1, "no thread has it");
    }
}
