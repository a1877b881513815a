//! Requests of ours on one channel, from the moment they are sent to their last echo.

use std::collections::VecDeque;
use std::task::Waker;

use crate::wire::Command;

use super::slots::Slots;
use super::{Message, Time};

/// Names a request of ours. Given once, for as long as the session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(super) channel: super::Channel,
    pub(super) id: u16,
    serial: u64,
}

impl Ticket {
    /// The message id under which the request goes out.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The channel on which the request goes out and its reply comes.
    pub fn channel(&self) -> super::Channel {
        self.channel
    }
}

/// Why a request ended without its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Abort {
    /// The reply did not come in time.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// A reset, an unmap or a stop took what the request was about.
    #[error("canceled by a reset, an unmap or a stop")]
    Canceled,
    /// The reply was to another command than the request.
    #[error("the reply names another command than the request")]
    WrongCommand,
    /// The session ended.
    #[error("the session has ended")]
    Closed,
}

/// Why a request can't start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Start {
    /// The session has ended.
    #[error("the session has ended")]
    Closed,
    /// As many requests as allowed wait for their replies.
    #[error("too many requests wait for their replies")]
    Full,
}

/// A range of addresses, in bytes, that a request is about.
pub(super) type Range = (u64, u64);

#[derive(Debug)]
struct Request<F> {
    command: Command,
    serial: u64,
    deadline: Option<Time>,
    range: Option<Range>,
    state: State<F>,
    /// Who wants to know when it ends.
    waker: Option<Waker>,
}

#[derive(Debug)]
enum State<F> {
    /// The reply may come any time.
    Waiting,
    /// It came, after so many commands of the peer; the asker has not fetched it yet.
    Done { reply: Message<F>, after: u64 },
    /// Given up, and the asker does not know yet. `owed`: the peer still owes the reply.
    Failed { why: Abort, owed: bool },
    /// Given up, the asker knows, and the peer still owes the reply.
    Zombie,
}

/// What became of a reply.
#[derive(Debug)]
pub(super) enum Matched<F> {
    /// An asker was waiting for it.
    Completed(Ticket),
    /// Its asker had given up.
    Late(Message<F>),
    /// Nobody ever asked.
    Stray(Message<F>),
}

/// The table of one channel.
#[derive(Debug)]
pub(super) struct Requests<F> {
    channel: super::Channel,
    by_id: Slots<Request<F>>,
    serial: u64,
    waiting: usize,
    /// The first deadline of those that wait.
    next_deadline: Option<Time>,
    zombies: usize,
    /// Who waits for the writes up to a serial number to end.
    fences: VecDeque<(u64, Waker)>,
    /// Who has something to look at now.
    woken: Vec<Waker>,
}

impl<F> Requests<F> {
    pub(super) fn new(channel: super::Channel) -> Self {
        Requests {
            channel,
            by_id: Slots::new(),
            serial: 0,
            waiting: 0,
            next_deadline: None,
            zombies: 0,
            fences: VecDeque::new(),
            woken: Vec::new(),
        }
    }

    /// An id that no request holds, neither waiting nor given up.
    pub(super) fn fresh_id(&mut self) -> u16 {
        self.by_id.fresh_id()
    }

    /// Enters a request that is about to be sent.
    #[inline]
    pub(super) fn start(
        &mut self,
        command: Command,
        deadline: Option<Time>,
        range: Option<Range>,
    ) -> Ticket {
        self.serial += 1;
        let serial = self.serial;
        let state = State::Waiting;
        let id =
            self.by_id.insert(Request { command, serial, deadline, range, state, waker: None });
        self.waiting += 1;
        self.next_deadline = Time::first(self.next_deadline, deadline);
        Ticket { channel: self.channel, id, serial }
    }

    /// Finds the asker of a reply that came after so many commands of the peer.
    #[inline]
    pub(super) fn reply(&mut self, message: Message<F>, after: u64) -> Matched<F> {
        let id = message.header().id;
        let Some(request) = self.by_id.get_mut(id) else { return Matched::Stray(message) };
        let ticket = Ticket { channel: self.channel, id, serial: request.serial };
        match request.state {
            State::Waiting => {
                self.waiting -= 1;
                if message.header().command == request.command.as_u16() {
                    request.state = State::Done { reply: message, after };
                } else {
                    request.state = State::Failed { why: Abort::WrongCommand, owed: false };
                }
                self.woken.extend(request.waker.take());
                self.less_waits();
                Matched::Completed(ticket)
            }
            State::Failed { why, owed: true } => {
                self.zombies -= 1;
                request.state = State::Failed { why, owed: false };
                Matched::Late(message)
            }
            State::Zombie => {
                self.zombies -= 1;
                self.by_id.remove(id);
                Matched::Late(message)
            }
            State::Done { .. } | State::Failed { owed: false, .. } => Matched::Stray(message),
        }
    }

    /// The outcome, once there is one; after that the ticket means nothing any more.
    ///
    /// A reply is held back until the `executed` commands include all that came before it.
    #[inline]
    pub(super) fn take(
        &mut self,
        ticket: Ticket,
        executed: u64,
    ) -> Option<Result<Message<F>, Abort>> {
        let request = self.by_id.get_mut(ticket.id).filter(|r| r.serial == ticket.serial)?;
        match request.state {
            State::Waiting | State::Zombie => None,
            State::Failed { why, owed: true } => {
                request.state = State::Zombie;
                Some(Err(why))
            }
            State::Failed { why, owed: false } => {
                self.by_id.remove(ticket.id);
                Some(Err(why))
            }
            State::Done { after, .. } if after > executed => None,
            State::Done { .. } => match self.by_id.remove(ticket.id)?.state {
                State::Done { reply, .. } => Some(Ok(reply)),
                _ => None,
            },
        }
    }

    /// Gives up every waiting request that `which` picks; says how many.
    /// They stay in the table until the peer has answered them.
    fn fail(
        &mut self,
        why: Abort,
        owed: bool,
        mut which: impl FnMut(&Request<F>) -> bool,
    ) -> usize {
        let mut failed = 0;
        for request in self.by_id.values_mut() {
            if matches!(request.state, State::Waiting) && which(request) {
                request.state = State::Failed { why, owed };
                self.woken.extend(request.waker.take());
                failed += 1;
            }
        }
        self.waiting -= failed;
        self.zombies += if owed { failed } else { 0 };
        if failed > 0 {
            self.less_waits();
        }
        failed
    }

    /// Some request waits no longer.
    #[inline]
    fn less_waits(&mut self) {
        self.next_deadline = match self.waiting {
            0 => None,
            _ => {
                let waiting = self.by_id.values().filter(|r| matches!(r.state, State::Waiting));
                waiting.filter_map(|r| r.deadline).min()
            }
        };
        self.open_fences();
    }

    #[inline]
    pub(super) fn has_ended(&self, ticket: Ticket) -> bool {
        let request = self.by_id.get(ticket.id).filter(|r| r.serial == ticket.serial);
        request.is_none_or(|r| !matches!(r.state, State::Waiting))
    }

    /// Has `waker` woken when the request ends. False: it has ended, or never was.
    pub(super) fn wake(&mut self, ticket: Ticket, waker: &Waker) -> bool {
        let request = self.by_id.get_mut(ticket.id).filter(|r| r.serial == ticket.serial);
        let Some(request) = request.filter(|r| matches!(r.state, State::Waiting)) else {
            return false;
        };
        match &mut request.waker {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        true
    }

    /// Has `waker` woken when every DMA_WRITE that has started by now has ended. False: they have.
    pub(super) fn wake_after_writes(&mut self, waker: impl FnOnce() -> Waker) -> bool {
        if self.oldest_write().is_none() {
            return false;
        }
        self.fences.push_back((self.serial, waker()));
        true
    }

    /// The serial number of the first DMA_WRITE that waits for its reply.
    fn oldest_write(&self) -> Option<u64> {
        if self.waiting == 0 {
            return None;
        }
        let writes = self
            .by_id
            .values()
            .filter(|r| r.command == Command::DmaWrite && matches!(r.state, State::Waiting));
        writes.map(|r| r.serial).min()
    }

    /// Wakes who waited for writes that have all ended.
    #[inline]
    fn open_fences(&mut self) {
        if self.fences.is_empty() {
            return;
        }
        let oldest = self.oldest_write();
        let is_open = |serial: u64| oldest.is_none_or(|oldest| serial < oldest);
        // In the order in which they were put up, and so in that of their numbers.
        let open = self.fences.iter().take_while(|(serial, _)| is_open(*serial)).count();
        self.woken.extend(self.fences.drain(..open).map(|(_, waker)| waker));
    }

    /// Takes those that have to be woken.
    pub(super) fn take_woken(&mut self, into: &mut Vec<Waker>) {
        into.append(&mut self.woken);
    }

    #[inline]
    pub(super) fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    /// Gives up what is past its deadline.
    pub(super) fn expire(&mut self, now: Time) -> usize {
        if self.waiting == 0 {
            return 0;
        }
        self.fail(Abort::TimedOut, true, |r| r.deadline.is_some_and(|d| d <= now))
    }

    /// Gives up one request: its asker does not want to know any more.
    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.fail(Abort::Canceled, true, |r| r.serial == ticket.serial);
        drop(self.take(ticket, u64::MAX));
    }

    /// Gives up what is about any address of `range`, or everything.
    pub(super) fn cancel(&mut self, range: Option<Range>) -> usize {
        self.fail(Abort::Canceled, true, |r| match (range, r.range) {
            (None, _) => true,
            (Some((start, len)), Some((s, l))) => {
                let (end, e) = (u128::from(start) + u128::from(len), u128::from(s) + u128::from(l));
                // A range without bytes overlaps nothing, wherever it lies.
                len > 0 && l > 0 && u128::from(s) < end && u128::from(start) < e
            }
            (Some(_), None) => false,
        })
    }

    /// Gives up every DMA_READ.
    pub(super) fn cancel_reads(&mut self) -> usize {
        self.fail(Abort::Canceled, true, |r| r.command == Command::DmaRead)
    }

    /// Ends all: no reply will come any more.
    pub(super) fn close(&mut self) {
        self.fail(Abort::Closed, false, |_| true);
    }

    #[inline]
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.next_deadline
    }

    /// Replies that the peer owes, be they wanted or not.
    #[inline]
    pub(super) fn owed(&self) -> usize {
        self.waiting + self.zombies
    }

    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn zombies(&self) -> usize {
        self.zombies
    }
}
