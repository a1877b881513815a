//! One end: an engine, its framers, and the book that says what they have to do.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use vfu_proto::session::{
    Abort, Arrival, Channel, Closed, Framer, Limits, Message, Role, Session, Start, Ticket, Time,
};
use vfu_proto::wire::Header;

use super::book::{Ask, Book, Expected, Fence, Flag, Request, State};
use super::net::{Sent, Stream};

pub(super) fn time(nanos: u64) -> Time {
    Time::at(Duration::from_nanos(nanos))
}

#[derive(Debug)]
pub(super) struct Side {
    pub(super) engine: Session<u32>,
    pub(super) book: Book,
    pub(super) framers: [Framer<u32>; 2],
    /// Refusals to send.
    pub(super) refusals: Vec<(Channel, Header)>,
    woken: Vec<Waker>,
    honest: bool,
    /// Requests that found no room.
    pub(super) refused: u64,
}

impl Side {
    pub(super) fn new(role: Role, twin: bool, limits: Limits, honest: bool) -> Side {
        let mut engine = Session::new(role, limits.clone());
        if twin {
            engine.add_twin();
        }
        let framers = Channel::ALL.map(|_| Framer::new(limits.max_message));
        let book = Book::new(role, twin, limits);
        Side { engine, book, framers, refusals: Vec::new(), woken: Vec::new(), honest, refused: 0 }
    }

    /// One receive of up to `max` bytes, and what comes of it. False if nothing could be done.
    pub(super) fn deliver(&mut self, channel: Channel, stream: &mut Stream, max: usize) -> bool {
        if let Some(why) = &self.book.closed {
            // What came before and was not sorted yet comes too late.
            if let Ok(Some(message)) = self.framers[channel as usize].pop() {
                assert_eq!(self.engine.arrive(channel, message).err().as_ref(), Some(why));
            }
            return false;
        }
        if self.engine.is_paused(channel) {
            return false;
        }
        let mut progress = self.pump(channel, stream);
        if self.book.closed.is_some() || self.engine.is_paused(channel) {
            return progress;
        }
        if stream.arrived() == 0 {
            if stream.ended {
                self.close(Closed::Disconnected);
                progress = true;
            }
            return progress;
        }
        let framer = &mut self.framers[channel as usize];
        let space = framer.space();
        let n = space.len().min(max.max(1));
        let (n, fds) = stream.receive(&mut space[..n]);
        framer.received(n, fds);
        self.pump(channel, stream);
        true
    }

    /// Hands every whole message to the session, for as long as it takes them.
    fn pump(&mut self, channel: Channel, stream: &mut Stream) -> bool {
        let mut any = false;
        while self.book.closed.is_none() && !self.engine.is_paused(channel) {
            match self.framers[channel as usize].pop() {
                Ok(None) => break,
                Ok(Some(message)) => self.arrive(channel, message, stream),
                Err(e) => {
                    let broken = stream.log.pop_front().expect("bytes of no message");
                    assert!(broken.bogus && *e.header() == broken.header, "out of sync: {e}");
                    self.close(Closed::Framing(e));
                }
            }
            any = true;
        }
        any
    }

    fn arrive(&mut self, channel: Channel, message: Message<u32>, stream: &mut Stream) {
        let sent = stream.log.pop_front().expect("a message that nobody sent");
        same(&message, &sent);
        let expected = self.book.arrive(channel, &sent, self.honest);
        if !matches!(expected, Expected::Refused(_) | Expected::Ends) && !sent.bogus {
            assert_eq!(self.engine.channel_of(&message), channel);
        }
        let framer = &mut self.framers[channel as usize];
        match (expected, self.engine.arrive(channel, message)) {
            (Expected::Queued, Ok(Arrival::Queued)) => {}
            (Expected::Completed(a), Ok(Arrival::Completed(b))) => assert_eq!(a, b),
            (Expected::Dropped, Ok(Arrival::Dropped(message))) => framer.recycle(message),
            (Expected::Refused(errno), Ok(Arrival::Refused(header, message))) => {
                assert_eq!(header, sent.header.error_reply(errno));
                framer.recycle(message);
                self.refusals.push((channel, header));
            }
            (Expected::Ends, Err(why)) => assert_eq!(Some(why), self.book.closed),
            (expected, got) => panic!("{expected:?} expected of {sent:?}, got {got:?}"),
        }
    }

    /// Enters a request.
    pub(super) fn start(
        &mut self,
        request: (vfu_proto::wire::Command, Ask),
        deadline: Option<u64>,
        range: Option<(u64, u64)>,
        by_handler: bool,
    ) -> Option<(Ticket, u64)> {
        let (command, ask) = request;
        let full = self.book.waiting() >= self.book.limits.outstanding;
        let started = self.engine.start(command, deadline.map(time), range);
        let ticket = match started {
            Ok(ticket) => ticket,
            Err(why) => {
                let expected = if self.book.closed.is_some() { Start::Closed } else { Start::Full };
                assert_eq!(why, expected);
                assert!(full || why == Start::Closed, "refused though there is room");
                self.refused += u64::from(why == Start::Full);
                return None;
            }
        };
        assert!(!full && self.book.closed.is_none(), "started beyond a limit");
        assert_eq!(ticket.channel(), self.book.request_channel());
        self.check_id(ticket.id());
        self.book.serial += 1;
        let (serial, state) = (self.book.serial, State::Waiting);
        let waker = None;
        let new =
            Request { ticket, serial, command, deadline, range, state, ask, by_handler, waker };
        self.book.requests.push(new);
        Some((ticket, serial))
    }

    /// An id for a command that nobody answers.
    pub(super) fn start_posted(&mut self) -> Option<u16> {
        let id = self.engine.start_posted();
        assert_eq!(id.is_err(), self.book.closed.is_some());
        let id = id.ok()?;
        self.check_id(id);
        Some(id)
    }

    fn check_id(&self, id: u16) {
        let taken = self.book.requests.iter().any(|r| r.ticket.id() == id);
        assert!(!taken, "id {id} is still in use");
    }

    /// Asks for an outcome; the request and the reply, if it has one.
    pub(super) fn outcome(&mut self, ticket: Ticket) -> Option<(Request, Option<Message<u32>>)> {
        let expected = self.book.outcome(ticket);
        let got = self.engine.outcome(ticket);
        let Some((request, _)) = expected else {
            assert!(got.is_none(), "an outcome too early or twice: {ticket:?} {got:?}");
            return None;
        };
        let got = got.unwrap_or_else(|| panic!("no outcome of {request:?}"));
        match (&request.state, got) {
            (State::Done { reply, .. }, Ok(message)) => {
                same(&message, reply);
                Some((request, Some(message)))
            }
            (State::Failed { why, .. }, Err(abort)) => {
                assert_eq!(*why, abort);
                assert!(abort != Abort::Closed || self.book.closed.is_some());
                Some((request, None))
            }
            (state, got) => panic!("{state:?} expected, got {got:?}"),
        }
    }

    /// Whether a reply is here that may not be seen yet.
    pub(super) fn is_held_back(&self, ticket: Ticket) -> bool {
        let request = self.book.requests.iter().find(|r| r.ticket == ticket);
        request.is_some_and(|r| matches!(r.state, State::Done { .. }))
    }

    /// The oldest command, as the executor takes it.
    pub(super) fn take(&mut self, begin: bool) -> Option<(Message<u32>, Rc<Sent>)> {
        let message = if begin { self.engine.begin_command() } else { self.engine.next_command() };
        if begin && self.book.executing {
            assert!(message.is_none(), "two commands at once");
            return None;
        }
        let expected = self.book.queue.pop_front();
        assert_eq!(message.is_some(), expected.is_some(), "a command is lost or made up");
        let (message, sent) = (message?, expected?);
        same(&message, &sent);
        self.book.executing = begin;
        Some((message, sent))
    }

    pub(super) fn end(&mut self) {
        self.engine.end_command();
        self.book.executing = false;
        self.book.executed += 1;
    }

    /// Gives the buffer of a message back.
    pub(super) fn recycle(&mut self, message: Message<u32>) {
        let channel = self.engine.channel_of(&message);
        self.framers[channel as usize].recycle(message);
    }

    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.engine.forget(ticket);
        self.book.forget(ticket);
    }

    pub(super) fn cancel(&mut self, range: Option<(u64, u64)>) {
        let canceled = match range {
            None => self.engine.cancel_all(),
            Some((start, len)) => self.engine.cancel_range(start, len),
        };
        assert_eq!(canceled, self.book.cancel(range), "canceled by {range:x?}");
    }

    pub(super) fn expire(&mut self, now: u64) -> usize {
        assert_eq!(self.engine.next_deadline(), self.book.next_deadline().map(time));
        let expired = self.book.expire(now);
        assert_eq!(self.engine.expire(time(now)), expired);
        expired
    }

    pub(super) fn close(&mut self, why: Closed) {
        let first = self.engine.close(why.clone());
        self.book.close(why);
        assert_eq!(Some(first), self.book.closed);
    }

    /// Has something happen after all writes so far; `None` if none is under way.
    pub(super) fn fence(&mut self) -> Option<Arc<Flag>> {
        let (flag, upto) = (Arc::new(Flag::default()), self.book.serial);
        let fenced = self.engine.wake_after_writes(|| Waker::from(flag.clone()));
        assert_eq!(fenced, self.book.has_writes(upto), "the fence");
        if !fenced {
            return None;
        }
        self.book.fences.push(Fence { upto, flag: flag.clone() });
        Some(flag)
    }

    /// Has somebody woken when the request at `at` ends.
    pub(super) fn wake_on(&mut self, at: usize) {
        let flag = Arc::new(Flag::default());
        let request = &mut self.book.requests[at];
        let will = self.engine.wake_on(request.ticket, &Waker::from(flag.clone()));
        assert_eq!(will, request.is_waiting());
        assert_eq!(self.engine.has_ended(request.ticket), !will);
        if will {
            let old = request.waker.replace(flag);
            assert!(old.is_none_or(|old| old.count() == 0), "woken too early");
        }
    }

    pub(super) fn wake_on_room(&mut self) {
        let flag = Arc::new(Flag::default());
        self.engine.wake_on_room(&Waker::from(flag.clone()));
        self.book.room_wakers.push(flag);
    }

    /// After each step: the engine and the book agree in everything that can be seen.
    pub(super) fn check(&mut self) {
        if self.engine.has_woken() {
            self.engine.take_woken(&mut self.woken);
            assert!(!self.woken.is_empty(), "has_woken, and nobody was");
            self.woken.drain(..).for_each(Waker::wake);
        }
        let (engine, book) = (&self.engine, &mut self.book);
        assert!(!engine.has_woken());
        assert_eq!(engine.counters(), book.counters);
        assert_eq!(engine.closed(), book.closed.as_ref());
        assert_eq!(engine.queued(), book.queue.len());
        assert_eq!(engine.is_executing(), book.executing);
        assert_eq!(engine.reset_is_queued(), book.reset_is_queued());
        let (mut waiting, mut zombies) = (0, 0);
        for request in &mut book.requests {
            waiting += usize::from(request.is_waiting());
            zombies += usize::from(request.is_owed());
            if let Some(flag) = &request.waker {
                let due = u32::from(!request.is_waiting());
                assert_eq!(flag.count(), due, "woken, of {request:?}");
                if due > 0 {
                    request.waker = None;
                }
            }
        }
        let room = waiting < book.limits.outstanding;
        assert!(waiting <= book.limits.outstanding);
        assert!(zombies <= book.limits.zombies || book.closed.is_some());
        assert_eq!(engine.has_room(), room);
        for channel in Channel::ALL {
            let takes = channel == book.command_channel();
            let owed = channel == book.request_channel() && waiting + zombies > 0;
            assert_eq!(engine.is_paused(channel), takes && book.is_full(), "paused");
            assert_eq!(engine.expects(channel), takes || owed, "expects");
        }
        let wake_room = u32::from(room || book.closed.is_some());
        assert!(book.room_wakers.iter().all(|f| f.count() == wake_room), "woken for room");
        if wake_room > 0 {
            book.room_wakers.clear();
        }
        let mut fences = std::mem::take(&mut book.fences);
        fences.retain(|fence| {
            let holds = book.has_writes(fence.upto);
            assert_eq!(fence.flag.count(), u32::from(!holds), "a fence, of writes under way");
            holds
        });
        book.fences = fences;
        let spent = book.spent[(book.serial & 7) as usize];
        if let Some(ticket) = spent {
            assert!(self.engine.has_ended(ticket));
            assert!(self.engine.outcome(ticket).is_none(), "an outcome is given once");
        }
    }
}

fn same(message: &Message<u32>, sent: &Sent) {
    assert_eq!(message.header(), &sent.header, "out of sync");
    assert_eq!(message.len(), 16 + sent.payload.len());
    assert!(message.payload() == sent.payload, "a payload has changed: {:?}", sent.header);
    assert_eq!(message.fds(), sent.fds, "descriptors of {:?}", sent.header);
}
