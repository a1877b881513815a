//! Deadlines: of requests, and of a peer that is slow.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use vfu_proto::session::{Channel, Closed, Time};

use super::{Clock, Link, State, Wake};

impl Link {
    /// When a poll ends by itself: without anything to wake it (the system is out of descriptors) it
    /// looks up now and then.
    pub(super) fn until_woken(&self, wake: Option<&Wake>, until: Option<Time>) -> Option<Time> {
        match wake {
            Some(_) => until,
            None => Time::first(until, Some(self.now() + Duration::from_millis(50))),
        }
    }

    /// When something has to be done if nothing comes.
    #[inline]
    pub(super) fn next_deadline(&self, state: &State) -> Option<Time> {
        let asked = state.session.next_deadline();
        if state.alarm.is_none() && state.opening.is_none() && !state.is_slow() {
            return asked;
        }
        let alarm = state.alarm.as_ref().map(|(at, _)| *at);
        let slow = Time::first(self.patience(state), state.opening);
        Time::first(Time::first(asked, alarm), slow)
    }

    /// Does what is due now. Says whether anything was, and else when something will be.
    #[inline]
    pub(super) fn see_to_deadlines(
        &self,
        state: &mut State,
        clock: &Clock<'_>,
    ) -> (bool, Option<Time>) {
        self.notice_stall(state, clock);
        let next = self.next_deadline(state);
        let due = next.is_some_and(|next| next <= clock.now());
        (due && self.is_due(state, clock), next)
    }

    /// Does what is due. Says whether anything was.
    #[cold]
    pub(super) fn is_due(&self, state: &mut State, clock: &Clock<'_>) -> bool {
        self.is_overdue(state, clock) || self.expire(state, clock)
    }

    /// When the peer's slowness will have lasted too long.
    #[inline]
    pub(super) fn patience(&self, state: &State) -> Option<Time> {
        if !state.is_slow() {
            return None;
        }
        let limits = state.session.limits();
        let begun = state.begun.iter().flatten().min().zip(limits.message_timeout);
        let begun = begun.filter(|_| !self.receives_no_more(&state.session));
        let stalled = state.stalled.iter().flatten().min().zip(limits.send_timeout);
        Time::first(begun.map(|(t, d)| *t + d), stalled.map(|(t, d)| *t + d))
    }

    /// Ends the session if the peer has been slow for too long.
    pub(super) fn is_overdue(&self, state: &mut State, clock: &Clock<'_>) -> bool {
        self.notice_stall(state, clock);
        let over = |limit: Option<Time>| limit.is_some_and(|limit| limit <= clock.now());
        let why = if over(state.opening) {
            "did not send VERSION in time"
        } else if over(self.patience(state)) {
            "left a message unfinished or unread for too long"
        } else {
            return false;
        };
        state.session.close(Closed::Limit(why));
        self.hang_up(state);
        true
    }

    /// Notes since when the peer leaves something unread.
    #[inline]
    pub(super) fn notice_stall(&self, state: &mut State, clock: &Clock<'_>) {
        if !self.has_unsent() && !is_some(&state.stalled) {
            return;
        }
        for channel in Channel::ALL {
            let stalled = &mut state.stalled[channel as usize];
            if self.unsent(channel) == 0 {
                *stalled = None;
            } else if stalled.is_none() {
                *stalled = Some(clock.now());
            }
        }
    }

    /// Wakes somebody after `time`: whoever waits for the session does that. Of several alarms the
    /// first one stays; who is woken sets the next.
    pub(crate) fn alarm(self: &Arc<Self>, time: Duration, waker: impl FnOnce() -> Waker) {
        let at = self.now() + time;
        let mut state = self.lock();
        let before = state.alarm.as_ref().is_some_and(|(alarm, _)| *alarm <= at);
        if !before && state.session.closed().is_none() {
            state.alarm = Some((at, waker()));
            self.become_attended(&mut state);
            self.attend(state);
        }
    }

    /// Gives up requests whose time is over, and rings the alarm; says whether there was anything.
    pub(super) fn expire(&self, state: &mut State, clock: &Clock<'_>) -> bool {
        if state.alarm.as_ref().is_some_and(|(at, _)| *at <= clock.now()) {
            state.rung = state.alarm.take().map(|(_, waker)| waker);
        }
        let due = state.session.next_deadline().is_some_and(|d| d <= clock.now());
        let expired = due && state.session.expire(clock.now()) > 0;
        if state.session.closed().is_some() {
            // The peer now owes too much.
            self.hang_up(state);
        } else if expired {
            self.wake_sleepers(state);
        }
        expired || state.rung.is_some()
    }
}

impl State {
    /// Whether the peer leaves anything unfinished or unread.
    #[inline]
    pub(super) fn is_slow(&self) -> bool {
        is_some(&self.begun) | is_some(&self.stalled)
    }
}

#[inline]
fn is_some(times: &[Option<Time>; 2]) -> bool {
    times[0].is_some() | times[1].is_some()
}
