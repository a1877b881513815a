//! What reaches a session by other ways than its sockets, and how whoever waits comes to know.
//!
//! A thread that waits is in one of four places: asleep until told (`changed`), in a `poll` of the
//! sockets and of `wake`, in an event loop of the user that watches `loop_wake`, or *blind* in a
//! receive, which nothing but the peer ends. The last is the fast way. It is taken as long as nothing can
//! happen that a blind thread would have to know of; when that changes while one is blind, a helper
//! thread waits in its place until it comes back.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use vfu_proto::session::Channel;

use super::{Link, State, Wake};
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, ThreadBuilder};

impl Link {
    /// An event loop waits for this session, and can be woken through `wake`.
    pub(crate) fn in_event_loop(&self, wake: &Arc<Wake>) {
        let _already_set = self.loop_wake.set(wake.clone());
    }

    /// What wakes the thread that polls `channel`, and perhaps the other one. Each has its own: two
    /// threads may poll at once, and one must not take the other's wake-up. Made before the thread
    /// unlocks the state, so that nobody can change that and find nothing to wake it with.
    pub(super) fn poll_wake(&self, channel: Channel) -> Option<&Wake> {
        self.wakes[channel as usize].get_or_init(|| Wake::new().ok()).as_ref()
    }

    /// What wakes the thread that only sends: it is as good as asleep.
    pub(super) fn flush_wake(&self) -> Option<&Wake> {
        self.wakes[2].get_or_init(|| Wake::new().ok()).as_ref()
    }

    /// Somebody may have to be told, or woken, by what has just been done to the session.
    pub(super) fn told(&self, state: MutexGuard<'_, State>) {
        if state.session.closed().is_some() {
            self.hang_up(&state);
        } else {
            self.wake_sleepers(&state);
            self.nudge();
        }
        self.release(state);
    }

    /// Has whoever polls the sockets look at the session again.
    pub(super) fn nudge(&self) {
        for wake in self.wakes.iter().filter_map(OnceLock::get).flatten() {
            wake.wake();
        }
        self.wake_loop();
    }

    /// Something may wait to be sent that nobody knows of who waits.
    pub(crate) fn nudge_if_unsent(&self) {
        if self.has_unsent() {
            self.wake_sleepers(&self.lock());
            self.nudge();
        }
    }

    /// How long an event loop may wait for its sockets: it promises to look up by then.
    pub(crate) fn time_to_look(&self) -> Option<Duration> {
        let (mut state, clock) = (self.lock(), self.clock());
        self.notice_stall(&mut state, &clock);
        state.looks_up = self.next_deadline(&state);
        state.looks_up.map(|t| t.since(clock.now()))
    }

    /// Tells an event loop of commands that another thread has read.
    pub(super) fn wake_loop(&self) {
        if let Some(wake) = self.loop_wake.get() {
            wake.wake();
        }
    }

    /// Has the executor look at what it has put off.
    pub(crate) fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        let state = self.lock();
        self.wake_sleepers(&state);
        drop(state);
        self.nudge();
    }

    /// Whether the executor has been kicked since the last time.
    #[inline]
    pub(crate) fn take_kick(&self) -> bool {
        // To look first is cheaper: most often it has not.
        self.kicked.load(Ordering::SeqCst) && self.kicked.swap(false, Ordering::SeqCst)
    }

    /// From now on things happen that do not come over the sockets: a deadline of somebody who does
    /// not wait in a thread, an answer that is given later. The session must be looked after.
    pub(crate) fn attended(self: &Arc<Self>) {
        self.become_attended(&mut self.lock());
    }

    pub(super) fn become_attended(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.attended, true) && state.blind > 0 {
            let link = self.clone();
            // Without a thread it is noticed only when the peer sends something.
            let thread = ThreadBuilder::new().name("vfu-attendant".into());
            let _out_of_threads = thread.spawn(move || link.wait_while_blind());
        }
    }

    /// Whether a reply is due on a channel that nobody reads: who wants it does not wait in a thread.
    #[inline]
    pub(super) fn is_neglected(&self, state: &State) -> bool {
        let channel = state.session.request_channel();
        state.attended
            && state.framers[channel as usize].is_some()
            && state.session.expects(channel)
    }

    /// The session has a deadline more: whoever waits must know of it.
    pub(super) fn attend(&self, state: MutexGuard<'_, State>) {
        let alarm = state.alarm.as_ref().map(|(at, _)| *at);
        let next = state.session.next_deadline().into_iter().chain(alarm).min();
        let in_time = match (next, state.looks_up) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(next), Some(looks_up)) => looks_up <= next,
        };
        if !in_time || self.has_unsent() || self.is_neglected(&state) {
            self.wake_sleepers(&state);
            self.nudge();
        }
    }
}
