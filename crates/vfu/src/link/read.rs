//! The part of the reader: taking bytes off the sockets, for all who wait.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tracing::debug;
use vfu_proto::session::{Channel, Closed, Framer, Sink, Time};

use super::{Clock, LOOK, Link, State, lost};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;
use crate::transport::Received;

/// The framers of the channels that a thread reads, for as long as it does.
pub(super) struct Reading {
    framers: [Option<Box<Framer<OwnedFd>>>; 2],
}

impl Reading {
    /// The first channel that is read: nobody else reads it, so nobody else uses its wake-up.
    pub(super) fn first(&self) -> Channel {
        if self.framers[Channel::Main as usize].is_some() { Channel::Main } else { Channel::Twin }
    }
}

impl Link {
    /// Takes the part of the reader, if nobody reads the channel on which what we wait `on` comes.
    /// Then the other one, too, if anything is due there that nobody reads: so something that is due
    /// always has a reader who wants it, or one who will wake him.
    ///
    /// A channel on which nothing is due is left out, so that the other can be read without a poll;
    /// but now and then, and when it is quiet, it is looked at too: the peer may have closed it, or
    /// may send what it should not.
    pub(super) fn take_framers(
        &self,
        state: &mut State,
        on: Channel,
        quiet: bool,
    ) -> Option<Reading> {
        // What another thread executes may be what we wait for; its end is told to sleepers only. On
        // two sockets it is nothing that replies wait for.
        let executing = state.session.is_executing() && on == state.session.command_channel();
        let readable = state.framers[on as usize].is_some() && !state.session.is_paused(on);
        if executing || !readable {
            return None;
        }
        let mut framers = [None, None];
        framers[on as usize] = state.framers[on as usize].take();
        let other = on.other();
        if state.framers[other as usize].is_some() && !state.session.is_paused(other) {
            let mut due = quiet || state.session.expects(other);
            match self.tick.get() {
                Some(tick) if !due => {
                    let now = self.now();
                    due = now.since(state.looked) >= (*tick).min(LOOK);
                    if due {
                        state.looked = now;
                    }
                }
                _ => due = true,
            }
            if due {
                framers[other as usize] = state.framers[other as usize].take();
            }
        }
        Some(Reading { framers })
    }

    /// Waits for the sockets, receives once, and gives the part back. False if only the time has
    /// passed that one receive may wait: poll next.
    pub(super) fn read(
        &self,
        mut reading: Reading,
        until: Option<Time>,
        blind: bool,
        sink: Option<&mut Sink<'_>>,
    ) -> (MutexGuard<'_, State>, bool) {
        let data = sink.and_then(|sink| self.read_data(&mut reading, until, blind, sink));
        let result = data.unwrap_or_else(|| {
            self.look_then(&mut reading, |reading| {
                if blind {
                    return self.receive(reading, [true; 2], true);
                }
                let ready = self.poll_in(reading, until).map_err(lost)?;
                self.receive(reading, ready, false).map(|_| true)
            })
        });
        let came = !matches!(result, Ok(false));
        let mut state = self.lock();
        self.put_back(&mut state, reading, result);
        state.blind -= usize::from(blind);
        if state.session.queued() > 0 {
            self.wake_loop();
        }
        (state, came)
    }

    /// If what comes next is data that `sink` is for, receives it there: as much as comes before there is
    /// something else to see to.
    fn read_data(
        &self,
        reading: &mut Reading,
        until: Option<Time>,
        blind: bool,
        sink: &mut Sink<'_>,
    ) -> Option<Result<bool, Closed>> {
        let channel = sink.channel();
        reading.framers[channel as usize].as_mut()?.space_in(sink)?;
        let received = self.receive_data(reading, until, blind, sink);
        let framer = reading.framers[channel as usize].as_mut()?;
        Some(framer.settle(sink).map_err(Closed::Framing).and(received))
    }

    fn receive_data(
        &self,
        reading: &mut Reading,
        until: Option<Time>,
        blind: bool,
        sink: &mut Sink<'_>,
    ) -> Result<bool, Closed> {
        let (channel, mut came) = (sink.channel(), false);
        if let Some(framer) = reading.framers[channel as usize].as_mut().filter(|_| !blind) {
            // Most often it is here, behind its head.
            self.receive_on(channel, framer, false, Some(sink))?;
            if framer.missing() == 0 {
                return Ok(true);
            }
        }
        loop {
            let ready = match blind {
                true if came && !self.is_in_time(until, self.now()) => break,
                true => [true; 2],
                false => self.poll_in(reading, until).map_err(lost)?,
            };
            let [main, twin] = &mut reading.framers;
            let (own, other) = if channel == Channel::Main { (main, twin) } else { (twin, main) };
            let mut more = ready[channel as usize];
            if let Some(framer) = other.as_mut().filter(|_| ready[channel.other() as usize]) {
                self.receive_on(channel.other(), framer, false, None)?;
                more = false;
            }
            let Some(framer) = own.as_mut().filter(|_| ready[channel as usize]) else { break };
            let received = self.receive_on(channel, framer, blind, Some(sink))?;
            came |= received;
            if !more || !received || framer.missing() == 0 {
                break;
            }
        }
        Ok(came || !blind)
    }

    /// Whether a receive that waits will do: one channel, nothing to send, and it ends in time, as
    /// it does after a tick.
    pub(super) fn may_receive_blind(
        &self,
        reading: &Reading,
        until: Option<Time>,
        clock: &Clock<'_>,
    ) -> bool {
        let both = reading.framers.iter().all(Option::is_some);
        !both && !self.has_unsent() && until.is_none_or(|_| self.is_in_time(until, clock.now()))
    }

    /// Whether a receive that waits ends by then, as it does after a tick.
    fn is_in_time(&self, until: Option<Time>, now: Time) -> bool {
        until.is_none_or(|t| self.tick.get().is_some_and(|tick| t.since(now) >= *tick))
    }

    /// Waits until a channel that we read can be read, or an outbox written, and flushes that; or
    /// until somebody wakes us.
    fn poll_in(&self, reading: &Reading, until: Option<Time>) -> Result<[bool; 2], Errno> {
        let socket = |channel: Channel| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, reading.framers[channel as usize].is_some());
            flags.set(PollFlags::OUT, self.unsent(channel) > 0);
            // One without flags would still report that it is closed: it is left out.
            let socket = self.socket(channel).as_fd();
            (!flags.is_empty()).then(|| PollFd::from_borrowed_fd(socket, flags))
        };
        let wake = self.poll_wake(reading.first());
        let until = self.until_woken(wake, until);
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

    /// One receive on each channel of `reading` that is `ready`. Says whether anything came.
    pub(super) fn receive(
        &self,
        reading: &mut Reading,
        ready: [bool; 2],
        wait: bool,
    ) -> Result<bool, Closed> {
        let mut came = false;
        for channel in Channel::ALL {
            let framer = &mut reading.framers[channel as usize];
            if let Some(framer) = framer.as_mut().filter(|_| ready[channel as usize]) {
                came |= self.receive_on(channel, framer, wait, None)?;
            }
        }
        Ok(came)
    }

    fn receive_on(
        &self,
        channel: Channel,
        framer: &mut Framer<OwnedFd>,
        wait: bool,
        sink: Option<&mut Sink<'_>>,
    ) -> Result<bool, Closed> {
        let limit = self.receive_limit(framer);
        let space = match sink {
            Some(sink) => framer.space_in(sink).unwrap_or_default(),
            None => framer.space(),
        };
        let most = limit.map_or(space.len(), |limit| limit.clamp(1, space.len()));
        let mut fds = Vec::new();
        match self.socket(channel).recv(&mut space[..most], &mut fds, wait) {
            Ok(Received::Bytes(n)) => {
                framer.received(n, fds);
                if limit.is_some() && channel == Channel::Main {
                    self.filled.store(n == most, Ordering::Relaxed);
                }
                return Ok(true);
            }
            Ok(Received::WouldBlock) => {}
            Ok(Received::Interrupted) => self.interrupted.store(true, Ordering::SeqCst),
            Ok(Received::Eof) => return Err(Closed::Disconnected),
            Err(Errno::MFILE) => return Err(Closed::Socket("out of file descriptors".into())),
            Err(e) => return Err(lost(e)),
        }
        Ok(false)
    }

    /// How much is received at once, if not as much as there is room for.
    fn receive_limit(&self, framer: &Framer<OwnedFd>) -> Option<usize> {
        match self.read_ahead.load(Ordering::Relaxed) {
            _ if self.exact.load(Ordering::Relaxed) => Some(framer.missing()),
            usize::MAX => None,
            ahead => Some(framer.missing().max(ahead)),
        }
    }

    /// Gives the part of the reader back; others may want it, or what was read for them.
    pub(super) fn put_back(
        &self,
        state: &mut State,
        reading: Reading,
        result: Result<bool, Closed>,
    ) {
        for (home, framer) in state.framers.iter_mut().zip(reading.framers) {
            if framer.is_some() {
                *home = framer;
            }
        }
        if !matches!(result, Ok(false)) {
            self.pump(state);
        }
        if let Err(why) = result {
            debug!(%why, "session ends");
            state.session.close(why);
            self.hang_up(state);
        }
        self.wake_sleepers(state);
    }
}
