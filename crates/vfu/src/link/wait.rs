//! Waiting, which is reading.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::PoisonError;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use vfu_proto::session::{Channel, Closed, Session, Sink, Time};

use super::read::Begun;
use super::{Clock, Link, Message, State, Wake};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;
use crate::sync::kernel::poll;
use crate::transport::Signals;

/// Whether a thread that waits may do so in a receive, which nothing but the peer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Nothing else can end what it waits for.
    MayBeBlind,
    /// Only a command of the peer can, which comes by way of who waits: it may wait so while no command
    /// waits, or is executed.
    BlindAtRest,
    /// Another thread may give up what it waits for.
    Sees,
}

/// Where a thread that waits goes on: it has the state again.
pub(super) struct Turn<'a> {
    pub(super) state: MutexGuard<'a, State>,
    /// Nothing came for as long as one receive waits.
    pub(super) quiet: bool,
}

/// What a thread waits for, and so where that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    Commands,
    Replies,
}

/// How a thread waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) sight: Sight,
    pub(super) on: On,
    /// When it looks again, though nothing may have come.
    pub(super) until: Option<Time>,
}

impl Way {
    /// As long as it takes.
    pub(super) fn patient(sight: Sight, on: On) -> Self {
        Way { sight, on, until: None }
    }
}

impl Link {
    /// Waits until `look` finds what it looks for, and moves the session on meanwhile.
    ///
    /// What has been found is given even if the session has ended.
    pub(super) fn wait<T>(
        &self,
        sight: Sight,
        on: On,
        look: impl FnMut(&mut Session<OwnedFd>) -> Option<T>,
    ) -> Result<T, Closed> {
        self.wait_on(self.lock(), &self.clock(), sight, on, look)
    }

    /// As [`wait`](Self::wait), for one who has the state already, and perhaps the time.
    pub(super) fn wait_on<'a, T>(
        &'a self,
        state: MutexGuard<'a, State>,
        clock: &Clock<'_>,
        sight: Sight,
        on: On,
        look: impl FnMut(&mut Session<OwnedFd>) -> Option<T>,
    ) -> Result<T, Closed> {
        let turn = Turn { state, quiet: false };
        self.wait_into(turn, clock, Way::patient(sight, on), None, look).0
    }

    /// As [`wait_on`](Self::wait_on), for one who has a place for the data that is waited for, and uses
    /// the state after that.
    #[inline]
    pub(super) fn wait_into<'a, T>(
        &'a self,
        turn: Turn<'a>,
        clock: &Clock<'_>,
        way: Way,
        mut sink: Option<&mut Sink<'_>>,
        mut look: impl FnMut(&mut Session<OwnedFd>) -> Option<T>,
    ) -> (Result<T, Closed>, MutexGuard<'a, State>) {
        let Turn { mut state, mut quiet } = turn;
        loop {
            // Nearly always there is nothing else to see to.
            let lone = state.is_quiet() && !self.has_unsent();
            if !lone {
                state = self.sort(state);
            }
            if let Some(found) = look(&mut state.session) {
                // We leave, and read no more: a sleeper may have to.
                self.wake_sleepers(&state);
                if self.is_neglected(&state) {
                    self.nudge();
                }
                return (Ok(found), state);
            }
            let next = if lone {
                state.session.next_deadline()
            } else if let Some(why) = state.session.closed() {
                return (Err(why.clone()), state);
            } else {
                self.notice_stall(&mut state, clock);
                self.next_deadline(&state)
            };
            if next.is_some_and(|next| next <= clock.now()) && self.is_due(&mut state, clock) {
                continue;
            }
            let until = Time::first(next, way.until);
            let begun = self.begin_reading(&mut state, Way { until, ..way }, clock, quiet);
            Turn { state, quiet } = match begun {
                Some(begun) => {
                    drop(state);
                    self.read(begun, sink.as_deref_mut())
                }
                None if self.has_unsent() && !state.flushing => {
                    Turn { state: self.wait_writable(state, until), quiet }
                }
                None => Turn { state: self.sleep(state, until), quiet },
            };
            clock.turn();
        }
    }

    /// Receives once on each channel, without waiting, and sends what waits to be sent. Says whether
    /// anything came.
    pub(crate) fn poll_sockets(&self) -> bool {
        self.poll(None).1
    }

    /// As [`poll_sockets`](Self::poll_sockets), and gives the state, for more. The buffer of a message that
    /// is `done` is used again.
    #[inline]
    pub(super) fn poll(&self, done: Option<Message>) -> (MutexGuard<'_, State>, bool) {
        if self.has_unsent() {
            for channel in Channel::ALL {
                let _closed = self.flush(channel);
            }
        }
        let mut state = self.lock();
        if let Some(done) = done {
            state.recycle(done);
        }
        let lane = state.is_quiet() && !self.has_unsent();
        if !(lane && state.session.next_deadline().is_none()) {
            let receives;
            (state, receives) = self.see_to(state);
            if !receives {
                return (state, false);
            }
        }
        for quiet in [false, true] {
            let channel = state.session.command_channel();
            let Some(both) = self.may_read(&mut state, channel, quiet) else {
                return (state, false);
            };
            let came = self.receive_now(&mut state, channel, both);
            state = self.deliver(state);
            if came || !self.has_twin() {
                return (state, came);
            }
        }
        (state, false)
    }

    /// Does what is to be done before more is received. Says whether anything is to be received then.
    #[inline(never)]
    fn see_to<'a>(&'a self, state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, bool) {
        let clock = self.clock();
        let mut state = self.sort(state);
        let deaf = self.receives_no_more(&state.session);
        if deaf {
            // The rest of a message that is here in part waits for us.
            let now = clock.now();
            state.begun.iter_mut().flatten().for_each(|begun| *begun = now);
        }
        if state.session.closed().is_some() {
            return (state, false);
        }
        if self.see_to_deadlines(&mut state, &clock).0 {
            state = self.sort(state);
        }
        let receives = !deaf && state.session.closed().is_none();
        (state, receives)
    }

    /// In place of a thread that is blind: sees to deadlines, to what waits to be sent, and to replies
    /// on the other channel.
    pub(super) fn wait_while_blind(&self) {
        let mut state = self.lock();
        while state.blind > 0 && state.session.closed().is_none() {
            let until = self.next_deadline(&state);
            state.looks_up = until;
            let on = state.session.request_channel();
            let neglected = self.is_neglected(&state);
            let reading = neglected.then(|| self.take_framers(&mut state, on, true)).flatten();
            state = match reading {
                Some(reading) => {
                    self.poll_wake(reading.channel());
                    drop(state);
                    self.read(Begun { reading, until, blind: false }, None).state
                }
                None if self.has_unsent() && !state.flushing => self.wait_writable(state, until),
                None => self.sleep(state, until),
            };
            let clock = self.clock();
            let over = self.is_overdue(&mut state, &clock) || self.expire(&mut state, &clock);
            if over || state.has_woken() {
                self.release(state);
                state = self.lock();
            }
        }
        // Who was blind sees again, and may not yet know what we have left.
        self.nudge();
    }

    pub(super) fn poll_set(
        &self,
        set: &mut [PollFd<'_>],
        until: Option<Time>,
    ) -> Result<(), Errno> {
        let timeout = until.map(|t| timespec(t.since(self.now())));
        match poll(set, timeout.as_ref()) {
            Err(Errno::INTR) => {
                if self.main.signals() == Signals::Interrupt {
                    self.interrupted.store(true, Ordering::SeqCst);
                }
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Somebody else reads; we see to what waits to be sent, one thread at a time, until that goes or
    /// somebody wakes us as a sleeper.
    #[inline(never)]
    fn wait_writable<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        until: Option<Time>,
    ) -> MutexGuard<'a, State> {
        state.flushing = true;
        let wake = self.flush_wake();
        drop(state);
        let until = self.until_woken(wake, until);
        let unsent = Channel::ALL.into_iter().filter(|c| self.unsent(*c) > 0);
        let mut set: Vec<_> = unsent
            .map(|c| PollFd::from_borrowed_fd(self.socket(c).as_fd(), PollFlags::OUT))
            .chain(wake.map(|wake| PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN)))
            .collect();
        let polled = self.poll_set(&mut set, until);
        wake.into_iter().for_each(|wake| wake.clear());
        if polled.is_ok() {
            for channel in Channel::ALL {
                let _closed = self.flush(channel);
            }
        }
        let mut state = self.lock();
        state.flushing = false;
        state
    }

    /// A first turn.
    #[inline]
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn { state: self.lock(), quiet: false }
    }

    /// Somebody else reads; we sleep until that is of use to us.
    #[inline(never)]
    fn sleep<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        until: Option<Time>,
    ) -> MutexGuard<'a, State> {
        state.sleepers += 1;
        let mut state = match until {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(t) => {
                let timeout = t.since(self.now());
                let woken = self.changed.wait_timeout(state, timeout);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.sleepers -= 1;
        state
    }

    #[inline]
    pub(super) fn wake_sleepers(&self, state: &State) {
        if state.sleepers > 0 {
            self.changed.notify_all();
        }
        if state.flushing {
            self.flush_wake().into_iter().for_each(Wake::wake);
        }
    }
}

fn timespec(d: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(d.subsec_nanos()),
    }
}
