//! The part of the reader: taking bytes off the sockets, for all who wait.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tracing::debug;
use vfu_proto::session::{Channel, Closed, Framer, Role, Sink, Time};

use super::wait::{On, Sight, Turn, Way};
use super::{Clock, LOOK, Link, State, lost};
use crate::sync::atomic::Ordering;
use crate::transport::Received;

/// What a thread reads, for as long as it does.
pub(super) struct Reading {
    /// What it waits for comes here.
    on: Channel,
    framer: Box<Framer<OwnedFd>>,
    /// That of the other channel, if it reads that as well.
    other: Option<Box<Framer<OwnedFd>>>,
}

impl Reading {
    /// The channel that nobody else reads: so nobody else uses its wake-up.
    pub(super) fn channel(&self) -> Channel {
        self.on
    }

    fn reads(&self, channel: Channel) -> bool {
        channel == self.on || self.other.is_some()
    }
}

/// The part of the reader, taken, and how it is to be played.
pub(super) struct Begun {
    pub(super) reading: Reading,
    /// When something else has to be seen to.
    pub(super) until: Option<Time>,
    /// It waits in a receive, and not in a poll.
    pub(super) blind: bool,
}

impl Link {
    /// Takes the part of the reader for one who waits, if nobody reads what that waits for; the next
    /// thing to do is to [`read`](Self::read).
    #[inline]
    pub(super) fn begin_reading(
        &self,
        state: &mut State,
        way: Way,
        clock: &Clock<'_>,
        quiet: bool,
    ) -> Option<Begun> {
        let Way { sight, on, until } = way;
        let channel = match on {
            On::Commands => state.session.command_channel(),
            On::Replies => state.session.request_channel(),
        };
        let reading = self.take_framers(state, channel, quiet)?;
        let may_be_blind = match sight {
            Sight::MayBeBlind => true,
            Sight::BlindAtRest => !state.session.has_queued() && !self.is_at_work(),
            Sight::Sees => false,
        };
        let blind = may_be_blind
            && !state.attended
            && !quiet
            && self.may_receive_blind(&reading, until, clock);
        state.blind += usize::from(blind);
        state.looks_up = until.filter(|_| !blind);
        if !blind {
            self.poll_wake(reading.channel());
        }
        Some(Begun { reading, until, blind })
    }

    /// Takes the part of the reader, if nobody reads the channel on which what we wait `on` comes.
    #[inline]
    pub(super) fn take_framers(
        &self,
        state: &mut State,
        on: Channel,
        quiet: bool,
    ) -> Option<Reading> {
        let both = self.may_read(state, on, quiet)?;
        let framer = state.framers[on as usize].take()?;
        let other = if both { state.framers[on.other() as usize].take() } else { None };
        Some(Reading { on, framer, other })
    }

    /// Whether the channel on which what we wait `on` comes may be read now, by nobody else; and then,
    /// whether the other one is to be read with it. It is if anything is due there that nobody reads: so
    /// something that is due always has a reader who wants it, or one who will wake him.
    ///
    /// A channel on which nothing is due is left out, so that the other can be read without a poll;
    /// but now and then, and when it is quiet, it is looked at too: the peer may have closed it, or
    /// may send what it should not.
    #[inline]
    pub(super) fn may_read(&self, state: &mut State, on: Channel, quiet: bool) -> Option<bool> {
        // What another thread executes may be what we wait for; its end is told to sleepers only. On
        // two sockets it is nothing that replies wait for.
        let executing = state.session.is_executing() && on == state.session.command_channel();
        let readable = state.framers[on as usize].is_some() && !state.session.is_paused(on);
        if executing || !readable {
            return None;
        }
        let other = on.other();
        if state.framers[other as usize].is_none() || state.session.is_paused(other) {
            return Some(false);
        }
        match self.tick.get() {
            Some(tick) if !quiet && !state.session.expects(other) => {
                let now = self.now();
                let due = now.since(state.looked) >= (*tick).min(LOOK);
                if due {
                    state.looked = now;
                }
                Some(due)
            }
            _ => Some(true),
        }
    }

    /// Waits for the sockets, receives once, and gives the part back.
    #[inline]
    pub(super) fn read(&self, begun: Begun, sink: Option<&mut Sink<'_>>) -> Turn<'_> {
        let Begun { mut reading, until, blind } = begun;
        let data = sink.and_then(|sink| self.read_data(&mut reading, until, blind, sink));
        let result = data.unwrap_or_else(|| {
            self.look_then(&mut reading, |reading| {
                if blind {
                    return self.receive_on(reading.on, &mut reading.framer, true, None);
                }
                let ready = self.poll_in(reading, until).map_err(lost)?;
                self.receive(reading, ready).map(|_| true)
            })
        });
        let quiet = matches!(result, Ok(false));
        let mut state = self.lock();
        self.put_back(&mut state, reading, result);
        state.blind -= usize::from(blind);
        if state.session.has_queued() {
            self.wake_loop();
        }
        Turn { state, quiet }
    }

    /// Gives the part back without having read.
    pub(super) fn read_nothing(&self, begun: Begun) {
        let mut state = self.lock();
        self.put_back(&mut state, begun.reading, Ok(false));
        state.blind -= usize::from(begun.blind);
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
        if sink.channel() != reading.on {
            return None;
        }
        reading.framer.space_in(sink)?;
        let received = self.receive_data(reading, until, blind, sink);
        Some(reading.framer.settle(sink).map_err(Closed::Framing).and(received))
    }

    fn receive_data(
        &self,
        reading: &mut Reading,
        until: Option<Time>,
        blind: bool,
        sink: &mut Sink<'_>,
    ) -> Result<bool, Closed> {
        let (channel, mut came) = (reading.on, false);
        if !blind {
            // Most often it is here, behind its head.
            self.receive_on(channel, &mut reading.framer, false, Some(sink))?;
            if reading.framer.missing() == 0 {
                return Ok(true);
            }
        }
        loop {
            let ready = match blind {
                true if came && !self.is_in_time(until, self.now()) => break,
                true => [true; 2],
                false => self.poll_in(reading, until).map_err(lost)?,
            };
            let mut more = ready[channel as usize];
            let other = reading.other.as_mut().filter(|_| ready[channel.other() as usize]);
            if let Some(framer) = other {
                self.receive_on(channel.other(), framer, false, None)?;
                more = false;
            }
            if !ready[channel as usize] {
                break;
            }
            let received = self.receive_on(channel, &mut reading.framer, blind, Some(sink))?;
            came |= received;
            if !more || !received || reading.framer.missing() == 0 {
                break;
            }
        }
        Ok(came || !blind)
    }

    /// Whether a receive that waits will do: one channel, nothing to send, and it ends in time, as
    /// it does after a tick.
    #[inline]
    pub(super) fn may_receive_blind(
        &self,
        reading: &Reading,
        until: Option<Time>,
        clock: &Clock<'_>,
    ) -> bool {
        let in_time = || until.is_none() || self.is_in_time(until, clock.now());
        reading.other.is_none() && !self.has_unsent() && in_time()
    }

    /// Whether a receive that waits ends by then, as it does after a tick.
    #[inline]
    fn is_in_time(&self, until: Option<Time>, now: Time) -> bool {
        until.is_none_or(|until| self.tick.get().is_some_and(|tick| now + *tick <= until))
    }

    /// Waits until a channel that we read can be read, or an outbox written, and flushes that; or
    /// until somebody wakes us.
    fn poll_in(&self, reading: &Reading, until: Option<Time>) -> Result<[bool; 2], Errno> {
        let socket = |channel: Channel| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, reading.reads(channel));
            flags.set(PollFlags::OUT, self.unsent(channel) > 0);
            // One without flags would still report that it is closed: it is left out.
            let socket = self.socket(channel).as_fd();
            (!flags.is_empty()).then(|| PollFd::from_borrowed_fd(socket, flags))
        };
        let wake = self.poll_wake(reading.on);
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

    /// One receive, without waiting, on each channel of `reading` that is `ready`. Says whether anything
    /// came.
    pub(super) fn receive(&self, reading: &mut Reading, ready: [bool; 2]) -> Result<bool, Closed> {
        let Reading { on, framer, other } = reading;
        let mut came = ready[*on as usize] && self.receive_on(*on, framer, false, None)?;
        if let Some(framer) = other.as_mut().filter(|_| ready[on.other() as usize]) {
            came |= self.receive_on(on.other(), framer, false, None)?;
        }
        Ok(came)
    }

    /// One receive. Says whether anything came.
    #[inline]
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
                if fds.is_empty() {
                    framer.received(n, []);
                } else {
                    framer.received(n, fds);
                }
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
    #[inline]
    fn receive_limit(&self, framer: &Framer<OwnedFd>) -> Option<usize> {
        match self.read_ahead.load(Ordering::Relaxed) {
            _ if self.exact.load(Ordering::Relaxed) => Some(framer.missing()),
            usize::MAX => None,
            ahead => Some(framer.missing().max(ahead)),
        }
    }

    /// Gives the part of the reader back; others may want it, or what was read for them.
    #[inline]
    pub(super) fn put_back(
        &self,
        state: &mut State,
        reading: Reading,
        result: Result<bool, Closed>,
    ) {
        let came = !matches!(result, Ok(false));
        let Reading { on, framer, other } = reading;
        state.framers[on as usize] = Some(framer);
        if came {
            self.pump_channel(state, on);
        }
        if other.is_some() {
            state.framers[on.other() as usize] = other;
            if came {
                self.pump_channel(state, on.other());
            }
        }
        if let Err(why) = result {
            self.end_session(state, why);
        }
        self.wake_sleepers(state);
    }

    /// One receive, without waiting, `on` one channel and perhaps on the other. So the state can stay ours
    /// meanwhile, and the part of the reader need not be taken. Says whether anything came.
    #[inline]
    pub(super) fn receive_now(&self, state: &mut State, on: Channel, both: bool) -> bool {
        let mut came = self.receive_now_on(state, on);
        if both {
            came |= self.receive_now_on(state, on.other());
        }
        if came {
            self.wake_sleepers(state);
        }
        came
    }

    #[inline]
    fn receive_now_on(&self, state: &mut State, channel: Channel) -> bool {
        let Some(framer) = &mut state.framers[channel as usize] else { return false };
        match self.receive_on(channel, framer, false, None) {
            Ok(false) => return false,
            Ok(true) => self.pump_channel(state, channel),
            Err(why) => self.end_session(state, why),
        }
        true
    }

    /// Ends the session; or leaves that to the thread which is about to learn it on the main socket.
    #[cold]
    fn end_session(&self, state: &mut State, why: Closed) {
        if why == Closed::Disconnected && self.role == Role::Client && !self.hear_out(state) {
            return;
        }
        debug!(%why, "session ends");
        state.session.close(why);
        self.hang_up(state);
    }

    /// The server has left, and its end may be seen on the twin first: what it had said on the main socket
    /// still counts. False, if that is somebody else's to receive.
    fn hear_out(&self, state: &mut State) -> bool {
        // It can say no more: so this ends.
        self.main.shutdown();
        let main = Channel::Main;
        while state.session.closed().is_none() {
            let Some(framer) = &mut state.framers[main as usize] else { return false };
            match self.receive_on(main, framer, false, None) {
                Ok(true) => self.pump_channel(state, main),
                Ok(false) | Err(_) => break,
            }
        }
        true
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use vfu_proto::session::{Limits, Ticket};
    use vfu_proto::wire::{Command, HEADER_SIZE, Header};

    use super::*;
    use crate::link::{Asker, Extra, with_draft};

    /// Answers what is asked, and leaves.
    fn answer_and_leave(mut main: UnixStream, twin: UnixStream) {
        let mut asked = [0; HEADER_SIZE];
        main.read_exact(&mut asked).unwrap();
        main.write_all(&Header::parse(&asked).reply(0).emit()).unwrap();
        drop((twin, main));
    }

    /// Whether a request counts as answered if the server answers it and leaves, which `hear` has to see
    /// to: on the twin, where it hears the end before the answer on the main socket.
    fn is_answered(hear: impl FnOnce(&Arc<Link>, Ticket, Box<dyn FnOnce() + Send>)) -> bool {
        let [(ours, main), (our_twin, twin)] = [(); 2].map(|()| UnixStream::pair().unwrap());
        let link = Arc::new(Link::new(ours.into(), Role::Client, Limits::default()));
        link.add_twin(our_twin.into());
        let ask = |draft: &mut _| {
            link.try_request(Command::DeviceReset, draft, Extra::default(), &link.clock())
        };
        let ticket = with_draft(ask).unwrap().unwrap();
        hear(&link, ticket, Box::new(move || answer_and_leave(main, twin)));
        assert_eq!(link.closed(), Some(Closed::Disconnected));
        link.try_outcome(ticket).unwrap().is_ok()
    }

    fn serve(link: &Link) {
        assert_eq!(link.begin_command().err(), Some(Closed::Disconnected));
    }

    #[test]
    fn the_last_reply_of_a_server_that_leaves_counts() {
        assert!(is_answered(|link, _, server| {
            server();
            serve(link);
        }));
    }

    #[test]
    fn in_an_event_loop_it_counts() {
        assert!(is_answered(|link, _, server| {
            server();
            while link.poll_sockets() {}
        }));
    }

    #[test]
    fn beside_threads_that_wait_it_counts() {
        for round in 0..50 {
            let answered = is_answered(|link, ticket, server| {
                std::thread::scope(|scope| {
                    scope.spawn(|| serve(link));
                    scope.spawn(server);
                    let _ended = link.wait_for_end(ticket, &Asker::elsewhere());
                });
            });
            assert!(answered, "round {round}");
        }
    }
}
