//! What has been read, handed to the session.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use tracing::debug;
use vfu_proto::session::{Arrival, Channel, Closed, FrameError, Framer, Session};
use vfu_proto::wire::Header;

use super::{Link, State};
use crate::sync::MutexGuard;

impl Link {
    /// Hands every whole message to the session, and sends the refusals that come of it.
    #[inline]
    pub(super) fn sort<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.pump(&mut state);
        self.deliver(state)
    }

    /// Sends the refusals that have come of it, and wakes those who have to be.
    #[inline]
    pub(super) fn deliver<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.refusals.is_empty() && !state.has_woken() {
            state
        } else {
            self.deliver_all(state)
        }
    }

    #[inline(never)]
    fn deliver_all<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while !state.refusals.is_empty() || state.has_woken() {
            let refusals = std::mem::take(&mut state.refusals);
            self.release(state);
            for (channel, header) in refusals {
                let _closed = self.send(channel, &[IoSlice::new(&header.emit())], &[]);
            }
            state = self.lock();
        }
        state
    }

    /// Hands every whole message to the session.
    pub(super) fn pump(&self, state: &mut State) {
        for channel in Channel::ALL {
            let index = channel as usize;
            // Most often nothing has come since the last time.
            let idle = |framer: &Framer<OwnedFd>| !framer.is_mid_message();
            if state.begun[index].is_none() && state.framers[index].as_deref().is_some_and(idle) {
                continue;
            }
            let Some(mut framer) = state.framers[index].take() else { continue };
            state.spare[index].drain(..).for_each(|done| framer.recycle(done));
            while state.session.closed().is_none() && !state.session.is_paused(channel) {
                match framer.pop() {
                    Ok(Some(message)) => {
                        state.begun[index] = None;
                        let arrival = state.session.arrive(channel, message);
                        self.settle(channel, arrival, &mut framer, &mut state.refusals);
                    }
                    Ok(None) => break,
                    Err(e) if state.lenient && !self.is_left_unread(channel, &state.session) => {
                        debug!(%e, "message refused");
                        framer.skip_refused();
                        state.begun[index] = None;
                        if e.wants_reply() {
                            let header = e.header().error_reply(e.errno());
                            state.refusals.push((channel, header));
                        }
                    }
                    Err(e) => self.end_broken(state, channel, e),
                }
            }
            if !framer.is_mid_message() {
                state.begun[index] = None;
            } else if state.begun[index].is_none() {
                state.begun[index] = Some(self.now());
            }
            state.framers[index] = Some(framer);
            if state.session.closed().is_some() {
                self.hang_up(state);
            }
        }
    }

    /// Whether the peer leaves so much unread that no more is to be added.
    pub(super) fn is_left_unread(&self, channel: Channel, session: &Session<OwnedFd>) -> bool {
        self.unsent(channel) > session.limits().unsent_bytes
    }

    fn settle(
        &self,
        channel: Channel,
        arrival: Result<Arrival<OwnedFd>, Closed>,
        framer: &mut Framer<OwnedFd>,
        refusals: &mut Vec<(Channel, Header)>,
    ) {
        match arrival {
            Ok(Arrival::Queued | Arrival::Completed(_)) => {}
            Ok(Arrival::Dropped(message)) => framer.recycle(message),
            Ok(Arrival::Refused(header, message)) => {
                framer.recycle(message);
                refusals.push((channel, header));
            }
            Err(why) => debug!(%why, "session ends"),
        }
    }

    /// The stream can't be trusted any more: say so to the peer, and end.
    fn end_broken(&self, state: &mut State, channel: Channel, e: FrameError) {
        debug!(%e, "session ends");
        if e.wants_reply() && self.unsent(channel) == 0 {
            // A last word, if it goes at once: who sends at this moment holds the outbox.
            if let Ok(_idle) = self.outboxes[channel as usize].try_lock() {
                let header = e.header().error_reply(e.errno()).emit();
                let _unsent = self.socket(channel).send(&[IoSlice::new(&header)], &[]);
            }
        }
        state.session.close(Closed::Framing(e));
    }
}
