//! What has been read, handed to the session.

use std::os::fd::OwnedFd;

use tracing::debug;
use vfu_proto::session::{Arrival, Channel, Closed, FrameError, Session};

use super::{Link, Message, State};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;

impl Link {
    /// Hands on what the session did not take at once, and sends the refusals that come of it.
    #[inline]
    pub(super) fn sort<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.unsorted {
            self.pump(&mut state);
        }
        self.deliver(state)
    }

    /// Sends the refusals that have come of it, and wakes those who have to be.
    #[inline]
    pub(super) fn deliver<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.is_delivered() { state } else { self.deliver_all(state) }
    }

    #[inline(never)]
    fn deliver_all<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while !state.is_delivered() {
            let refusals = std::mem::take(&mut state.refusals);
            self.release(state);
            for (channel, header) in refusals {
                let _closed = self.send_header(channel, &header);
            }
            state = self.lock();
        }
        state
    }

    /// Hands every whole message to the session, when it takes more than it did.
    #[inline(never)]
    fn pump(&self, state: &mut State) {
        state.unsorted = false;
        for channel in Channel::ALL {
            self.pump_channel(state, channel);
        }
    }

    /// Hands every whole message of a channel to the session: after each receive.
    #[inline]
    pub(super) fn pump_channel(&self, state: &mut State, channel: Channel) {
        let index = channel as usize;
        let lone = match &mut state.framers[index] {
            Some(framer) if state.spare[index].is_empty() && state.session.takes(channel) => {
                framer.pop_lone()
            }
            _ => None,
        };
        match lone {
            Some(message) => {
                state.begun[index] = None;
                self.hand_on(state, channel, message);
            }
            None => self.pump_any(state, channel),
        }
    }

    /// As [`pump_channel`](Self::pump_channel), whatever came.
    #[inline(never)]
    fn pump_any(&self, state: &mut State, channel: Channel) {
        let index = channel as usize;
        while state.session.closed().is_none() {
            let State { session, begun, spare, .. } = state;
            let (Some(framer), begun) = (&mut state.framers[index], &mut begun[index]) else {
                return;
            };
            while let Some(done) = spare[index].pop() {
                framer.recycle(done);
            }
            if !framer.is_mid_message() {
                *begun = None;
                return;
            }
            if session.is_paused(channel) {
                // What finds no room is not the peer's to finish.
                *begun = None;
                state.unsorted = true;
                self.more.store(true, Ordering::Release);
                return;
            }
            match framer.pop() {
                Ok(Some(message)) => {
                    *begun = None;
                    self.hand_on(state, channel, message);
                }
                Ok(None) => {
                    begun.get_or_insert_with(|| self.now());
                    return;
                }
                Err(e) if state.lenient && !self.is_left_unread(channel, session) => {
                    debug!(%e, "message refused");
                    framer.skip_refused();
                    *begun = None;
                    if e.wants_reply() {
                        state.refusals.push((channel, e.header().error_reply(e.errno())));
                    }
                }
                Err(e) => self.end_broken(session, channel, e),
            }
        }
        self.hang_up(state);
    }

    /// Hands one message to the session.
    #[inline]
    fn hand_on(&self, state: &mut State, channel: Channel, message: Message) {
        match state.session.arrive(channel, message) {
            Ok(Arrival::Queued) => self.more.store(true, Ordering::Release),
            Ok(Arrival::Completed(_)) => {}
            other => self.not_taken(state, channel, other),
        }
    }

    /// What is neither a command nor a reply that is waited for.
    #[cold]
    fn not_taken(
        &self,
        state: &mut State,
        channel: Channel,
        what: Result<Arrival<OwnedFd>, Closed>,
    ) {
        let message = match what {
            Ok(Arrival::Queued | Arrival::Completed(_)) => return,
            Ok(Arrival::Dropped(message)) => message,
            Ok(Arrival::Refused(header, message)) => {
                state.refusals.push((channel, header));
                message
            }
            Err(why) => {
                debug!(%why, "session ends");
                return self.hang_up(state);
            }
        };
        if let Some(framer) = &mut state.framers[channel as usize] {
            framer.recycle(message);
        }
    }

    /// Whether the peer leaves so much unread that no more is to be added.
    pub(super) fn is_left_unread(&self, channel: Channel, session: &Session<OwnedFd>) -> bool {
        self.unsent(channel) > session.limits().unsent_bytes
    }

    /// The stream can't be trusted any more: say so to the peer, and end.
    fn end_broken(&self, session: &mut Session<OwnedFd>, channel: Channel, e: FrameError) {
        debug!(%e, "session ends");
        if e.wants_reply() && self.unsent(channel) == 0 {
            // A last word, if it goes at once: who sends at this moment holds the outbox.
            if let Ok(_idle) = self.outboxes[channel as usize].try_lock() {
                let header = e.header().error_reply(e.errno()).emit();
                let _unsent = self.socket(channel).send([&header, &[]], &[]);
            }
        }
        session.close(Closed::Framing(e));
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use vfu_proto::session::{Limits, Role};
    use vfu_proto::wire::{Command, Header};

    use super::*;
    use crate::link::{Asker, Extra, with_draft};

    const NEVER: Duration = Duration::from_secs(10);

    /// A server's session that has room for one command, and its peer.
    fn narrow(message_timeout: Option<Duration>) -> (Arc<Link>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let usual = Limits::default();
        let limits = Limits { queued_commands: 1, message_timeout, reply_timeout: None, ..usual };
        let link = Link::new(ours.into(), Role::Server, limits);
        link.opened();
        (Arc::new(link), theirs)
    }

    fn command(id: u16) -> Header {
        Header::command(id, Command::DeviceReset, 0)
    }

    #[test]
    fn a_message_that_finds_no_room_is_not_unfinished() {
        let (link, mut peer) = narrow(Some(Duration::ZERO));
        peer.write_all(&[command(1).emit(), command(2).emit(), command(3).emit()].concat())
            .unwrap();
        for id in 1..4 {
            for _ in 0..3 {
                link.poll_sockets();
                assert_eq!(link.closed(), None);
            }
            assert_eq!(link.try_next_command(None).unwrap().header().id, id);
        }
    }

    #[test]
    fn who_sleeps_because_there_is_no_room_is_woken_when_there_is() {
        let (link, mut peer) = narrow(None);
        let ask = |draft: &mut _| {
            link.try_request(Command::DmaRead, draft, Extra::default(), &link.clock()).unwrap()
        };
        let ticket = with_draft(ask).unwrap();
        let reply = Header::command(ticket.id(), Command::DmaRead, 0).reply(0);
        peer.write_all(&[command(1).emit(), command(2).emit(), reply.emit()].concat()).unwrap();
        link.poll_sockets();
        let (done, is_done) = mpsc::channel();
        let asker = link.clone();
        let thread = std::thread::spawn(move || {
            let _nobody_waits_any_more =
                done.send(asker.wait_for_end(ticket, &Asker::elsewhere()).is_ok());
        });
        while link.lock().sleepers == 0 {
            std::thread::yield_now();
        }
        while link.try_next_command(None).is_some() {}
        let came = is_done.recv_timeout(NEVER);
        link.close(Closed::Disconnected);
        thread.join().unwrap();
        assert_eq!(came, Ok(true));
    }
}
