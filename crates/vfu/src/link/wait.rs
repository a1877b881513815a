//! Waiting, which is reading.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::PoisonError;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tracing::debug;
use vfu_proto::session::{Arrival, Channel, Closed, FrameError, Framer, Session, Time};
use vfu_proto::wire::{self, Header};

use super::{LOOK, Link, State, Wake, lost};
use crate::sync::MutexGuard;
use crate::sync::kernel::poll;
use crate::transport::Received;

/// Whether a thread that waits may do so in a receive, which nothing but the peer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// Nothing else can end what it waits for.
    MayBeBlind,
    /// Another thread may give up what it waits for.
    Sees,
}

/// What a thread waits for, and so where that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    Commands,
    Replies,
}

/// The framers of the channels that a thread reads, for as long as it does.
struct Reading {
    framers: [Option<Framer<OwnedFd>>; 2],
    fds: Vec<OwnedFd>,
}

impl Reading {
    /// The first channel that is read: nobody else reads it, so nobody else uses its wake-up.
    fn first(&self) -> Channel {
        if self.framers[Channel::Main as usize].is_some() { Channel::Main } else { Channel::Twin }
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
        mut look: impl FnMut(&mut Session<OwnedFd>) -> Option<T>,
    ) -> Result<T, Closed> {
        let mut state = self.lock();
        let mut quiet = false;
        loop {
            state = self.sort(state);
            if let Some(found) = look(&mut state.session) {
                // We leave, and read no more: a sleeper may have to.
                self.wake_sleepers(&state);
                if self.is_neglected(&state) {
                    self.nudge();
                }
                return Ok(found);
            }
            if let Some(why) = state.session.closed() {
                return Err(why.clone());
            }
            if self.is_overdue(&mut state) || self.expire(&mut state) {
                continue;
            }
            let until = self.next_deadline(&state);
            let channel = match on {
                On::Commands => state.session.command_channel(),
                On::Replies => state.session.request_channel(),
            };
            state = match self.take_framers(&mut state, channel, quiet) {
                Some(reading) => {
                    let blind = sight == Sight::MayBeBlind
                        && !state.attended
                        && !quiet
                        && self.may_receive_blind(&reading, until);
                    state.blind += usize::from(blind);
                    state.looks_up = until.filter(|_| !blind);
                    if !blind {
                        self.poll_wake(reading.first());
                    }
                    drop(state);
                    let (state, came) = self.read(reading, until, blind);
                    quiet = !came;
                    state
                }
                None if self.has_unsent() && !state.flushing => self.wait_writable(state, until),
                None => self.sleep(state, until),
            };
        }
    }

    /// Receives once on each channel, without waiting, and sends what waits to be sent.
    pub(crate) fn poll_sockets(&self) {
        for channel in Channel::ALL {
            if self.unsent(channel) > 0 {
                let _closed = self.flush(channel);
            }
        }
        let mut state = self.sort(self.lock());
        if state.session.closed().is_some() || self.is_overdue(&mut state) {
            return;
        }
        self.expire(&mut state);
        for quiet in [false, true] {
            let channel = state.session.command_channel();
            let Some(mut reading) = self.take_framers(&mut state, channel, quiet) else { return };
            drop(state);
            let result = self.receive(&mut reading, [true; 2], false);
            let came = !matches!(result, Ok(false));
            state = self.sort(self.put_back(reading, result.map(drop)));
            if came || !self.has_twin() {
                return;
            }
        }
    }

    /// Gives up requests whose time is over; says whether there were any.
    fn expire(&self, state: &mut State) -> bool {
        let due = state.session.next_deadline().is_some_and(|d| d <= self.now());
        let expired = due && state.session.expire(self.now()) > 0;
        if state.session.closed().is_some() {
            // The peer now owes too much.
            self.hang_up(state);
        } else if expired {
            self.wake_sleepers(state);
        }
        expired
    }

    /// Takes the part of the reader, if nobody reads the channel on which what we wait `on` comes.
    /// Then the other one, too, if anything is due there that nobody reads: so something that is due
    /// always has a reader who wants it, or one who will wake him.
    ///
    /// A channel on which nothing is due is left out, so that the other can be read without a poll;
    /// but now and then, and when it is quiet, it is looked at too: the peer may have closed it, or
    /// may send what it should not.
    fn take_framers(&self, state: &mut State, on: Channel, quiet: bool) -> Option<Reading> {
        // What another thread executes may be what we wait for; its end is told to sleepers only. On
        // two sockets it is nothing that replies wait for.
        let executing = state.session.is_executing() && on == state.session.command_channel();
        let readable = state.framers[on as usize].is_some() && !state.session.is_paused(on);
        if executing || !readable {
            return None;
        }
        let mut all = true;
        if let Some(tick) = self.tick.get().filter(|_| !quiet && self.has_twin()) {
            let now = self.now();
            all = now.since(state.looked) >= (*tick).min(LOOK);
            if all {
                state.looked = now;
            }
        }
        let mut framers = [None, None];
        for channel in Channel::ALL {
            let due = channel == on || all || state.session.expects(channel);
            if due && !state.session.is_paused(channel) {
                framers[channel as usize] = state.framers[channel as usize].take();
            }
        }
        Some(Reading { framers, fds: std::mem::take(&mut state.fds) })
    }

    /// Waits for the sockets, receives once, and gives the part back. False if only the time has
    /// passed that one receive may wait: poll next.
    fn read(
        &self,
        mut reading: Reading,
        until: Option<Time>,
        blind: bool,
    ) -> (MutexGuard<'_, State>, bool) {
        let result = if blind {
            let ours = [reading.framers[0].is_some(), reading.framers[1].is_some()];
            self.receive(&mut reading, ours, true)
        } else {
            match self.poll(&reading, until) {
                Ok(ready) => self.receive(&mut reading, ready, false).map(|_| true),
                Err(e) => Err(lost(e)),
            }
        };
        let came = !matches!(result, Ok(false));
        let mut state = self.put_back(reading, result.map(drop));
        state.blind -= usize::from(blind);
        if state.session.queued() > 0 {
            self.wake_loop();
        }
        (state, came)
    }

    /// Whether a receive that waits will do: one channel, nothing to send, and it ends in time, as
    /// it does after a tick.
    fn may_receive_blind(&self, reading: &Reading, until: Option<Time>) -> bool {
        let both = reading.framers.iter().all(Option::is_some);
        let in_time = |t: Time| self.tick.get().is_some_and(|tick| t.since(self.now()) >= *tick);
        !both && !self.has_unsent() && until.is_none_or(in_time)
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
                    self.poll_wake(reading.first());
                    drop(state);
                    self.read(reading, until, false).0
                }
                None if self.has_unsent() && !state.flushing => self.wait_writable(state, until),
                None => self.sleep(state, until),
            };
            if self.is_overdue(&mut state) || self.expire(&mut state) || state.session.has_woken() {
                self.release(state);
                state = self.lock();
            }
        }
        // Who was blind sees again, and may not yet know what we have left.
        self.nudge();
    }

    /// Waits until a channel that we read can be read, or an outbox written, and flushes that; or
    /// until somebody wakes us.
    fn poll(&self, reading: &Reading, until: Option<Time>) -> Result<[bool; 2], Errno> {
        let socket = |channel: Channel| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, reading.framers[channel as usize].is_some());
            flags.set(PollFlags::OUT, self.unsent(channel) > 0);
            // One without flags would still report that it is closed: it is left out.
            let socket = self.socket(channel).as_fd();
            (!flags.is_empty()).then(|| PollFd::from_borrowed_fd(socket, flags))
        };
        let wake = self.poll_wake(reading.first());
        // Without one (the system is out of descriptors) we look up by ourselves.
        let soon = self.now() + Duration::from_millis(50);
        let until = if wake.is_some() { until } else { earliest([until, Some(soon)]) };
        let wake_fd = wake.map(|wake| PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN));
        let places = [socket(Channel::Main), socket(Channel::Twin), wake_fd];
        // In order, and without a heap: those that are left out go to the end.
        let nobody = PollFd::from_borrowed_fd(self.main.as_fd(), PollFlags::empty());
        let mut set = [nobody.clone(), nobody.clone(), nobody];
        let mut used = 0;
        for place in places.iter().flatten() {
            set[used] = place.clone();
            used += 1;
        }
        self.poll_set(&mut set[..used], until)?;
        let mut polled = set[..used].iter();
        let mut result = places.map(|place| place.and_then(|_| polled.next()).map(PollFd::revents));
        if result[2].take().is_some_and(|got| !got.is_empty()) {
            wake.into_iter().for_each(|wake| wake.clear());
        }
        let mut ready = [false; 2];
        for channel in Channel::ALL {
            let got = result[channel as usize].unwrap_or(PollFlags::empty());
            ready[channel as usize] =
                got.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
            if got.contains(PollFlags::OUT) {
                let _closed = self.flush(channel);
            }
        }
        Ok(ready)
    }

    fn poll_set(&self, set: &mut [PollFd<'_>], until: Option<Time>) -> Result<(), Errno> {
        let timeout = until.map(|t| timespec(t.since(self.now())));
        match poll(set, timeout.as_ref()) {
            Err(Errno::INTR) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Somebody else reads; we see to what waits to be sent, one thread at a time, until that goes or
    /// somebody wakes us as a sleeper.
    fn wait_writable<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        until: Option<Time>,
    ) -> MutexGuard<'a, State> {
        state.flushing = true;
        let wake = self.flush_wake();
        drop(state);
        let soon = self.now() + Duration::from_millis(50);
        let until = if wake.is_some() { until } else { earliest([until, Some(soon)]) };
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

    /// Somebody else reads; we sleep until that is of use to us.
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

    /// One receive on each channel of `reading` that is `ready`. Says whether anything came.
    fn receive(&self, reading: &mut Reading, ready: [bool; 2], wait: bool) -> Result<bool, Closed> {
        let mut came = false;
        for channel in Channel::ALL {
            let Some(framer) = &mut reading.framers[channel as usize] else { continue };
            if !ready[channel as usize] {
                continue;
            }
            match self.socket(channel).recv(framer.space(), &mut reading.fds, wait) {
                Ok(Received::Bytes(n)) => {
                    framer.received(n, reading.fds.drain(..));
                    came = true;
                }
                Ok(Received::WouldBlock) => {}
                Ok(Received::Eof) => return Err(Closed::Disconnected),
                Err(Errno::MFILE) => {
                    return Err(Closed::Socket("out of file descriptors".into()));
                }
                Err(e) => return Err(lost(e)),
            }
        }
        Ok(came)
    }

    /// Gives the part of the reader back; others may want it, or what was read for them.
    fn put_back(&self, reading: Reading, result: Result<(), Closed>) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let Reading { framers, mut fds } = reading;
        fds.clear();
        state.fds = fds;
        for (home, framer) in state.framers.iter_mut().zip(framers) {
            if framer.is_some() {
                *home = framer;
            }
        }
        self.pump(&mut state);
        if let Err(why) = result {
            debug!(%why, "session ends");
            state.session.close(why);
            self.hang_up(&state);
        }
        self.wake_sleepers(&state);
        state
    }

    pub(super) fn wake_sleepers(&self, state: &State) {
        if state.sleepers > 0 {
            self.changed.notify_all();
        }
        if state.flushing {
            self.flush_wake().into_iter().for_each(Wake::wake);
        }
    }

    /// Hands every whole message to the session, and sends the refusals that come of it.
    pub(super) fn sort<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.pump(&mut state);
        while !state.refusals.is_empty() || state.session.has_woken() {
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
    fn pump(&self, state: &mut State) {
        for channel in Channel::ALL {
            let index = channel as usize;
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
                let header = e.header().error_reply(wire::Errno::EINVAL).emit();
                let _unsent = self.socket(channel).send(&[IoSlice::new(&header)], &[]);
            }
        }
        state.session.close(Closed::Framing(e));
    }

    /// When something has to be done if nothing comes.
    pub(super) fn next_deadline(&self, state: &State) -> Option<Time> {
        earliest([state.session.next_deadline(), self.patience(state), state.opening])
    }

    /// When the peer's slowness will have lasted too long.
    fn patience(&self, state: &State) -> Option<Time> {
        let limits = state.session.limits();
        let begun = state.begun.iter().flatten().min().zip(limits.message_timeout);
        let stalled = state.stalled.iter().flatten().min().zip(limits.send_timeout);
        earliest([begun.map(|(t, d)| *t + d), stalled.map(|(t, d)| *t + d)])
    }

    /// Ends the session if the peer has been slow for too long.
    fn is_overdue(&self, state: &mut State) -> bool {
        self.notice_stall(state);
        let over = |limit: Option<Time>| limit.is_some_and(|limit| limit <= self.now());
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
    pub(super) fn notice_stall(&self, state: &mut State) {
        for channel in Channel::ALL {
            let stalled = &mut state.stalled[channel as usize];
            if self.unsent(channel) == 0 {
                *stalled = None;
            } else if stalled.is_none() {
                *stalled = Some(self.now());
            }
        }
    }
}

fn earliest<const N: usize>(times: [Option<Time>; N]) -> Option<Time> {
    times.into_iter().flatten().min()
}

fn timespec(d: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(d.subsec_nanos()),
    }
}
