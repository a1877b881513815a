//! One client: what it asks, and what it is answered.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use vfu_proto::session::{Channel, Closed, Counters, Limits};
use vfu_proto::wire::{Capabilities, HEADER_SIZE, Header};

use super::station::Station;
use crate::link::{Came, Claim, Link, Message, Reenter, Sight};
use crate::server::handshake::{self, Offer};
use crate::shared::Live;

/// One client, from its connection to its end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Session {
    link: Arc<Link>,
}

/// What VERSION says of us.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The largest minor version.
    pub minor: u16,
    /// What we can do; the client hears of what it proposed.
    pub caps: Capabilities,
    /// What it hears of in any case: `max_msg_fds`, `max_data_xfer_size` and `migration` count.
    pub always: Capabilities,
    /// Why a client with such capabilities can't be served, if it can't.
    pub objection: fn(&Capabilities) -> Option<&'static str>,
}

/// A command of the client, to be answered through its [`Session`], once, by its header.
#[derive(Debug)]
pub struct Command(Message);

/// What ended a wait.
#[derive(Debug)]
pub enum Wait<'a> {
    /// The client asks for something. It is to be executed before the claim ends.
    Command(Command, Claim<'a>),
    /// [`Session::kick`] was called.
    Kick,
    /// This thread got a signal.
    Signal,
}

/// Executes commands while somebody waits.
pub trait Serve: Send + Sync {
    /// The right to execute the next command; none while commands have to wait, or another thread
    /// executes one, which then looks for this one. Must not wait.
    fn claim(&self) -> Option<Claim<'_>>;

    /// Executes one command, and answers it. The claim is held meanwhile.
    fn serve(&self, session: &Session, command: Command);
}

pub(super) struct ServeAs<'a>(pub(super) &'a dyn Serve);

impl Reenter for ServeAs<'_> {
    fn claim(&self, _link: &Link) -> Option<Claim<'_>> {
        self.0.claim()
    }

    fn reenter(&self, link: &Arc<Link>, command: Message) {
        self.0.serve(&Session { link: link.clone() }, Command(command));
    }
}

impl Command {
    /// The header.
    pub fn header(&self) -> Header {
        *self.0.header()
    }

    /// What follows the header.
    pub fn payload(&self) -> &[u8] {
        self.0.payload()
    }

    /// The descriptors that came with it. Those that are not taken are closed with it.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        self.0.take_fds()
    }
}

impl Session {
    /// A client that has connected, before VERSION. Nothing is read ahead of that; after it broken
    /// headers and replies to nothing are refused one by one.
    pub fn new(socket: OwnedFd, limits: &Limits) -> Session {
        Session { link: Arc::new(Link::apart(socket, limits.clone())) }
    }

    /// The socket. It is readable when there is something to do, as long as every call of
    /// [`receive`](Self::receive) is followed by calls of [`next`](Self::next) until there is nothing.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.link.main().as_fd()
    }

    /// The second socket, if VERSION has agreed on one.
    pub fn twin_fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.twin().map(AsFd::as_fd)
    }

    /// Answers VERSION, the first command. From now on the device has this client.
    ///
    /// # Errors
    /// The client can't be served; it was told why, and the session has ended.
    pub fn agree(&self, station: &Station, first: &Command, terms: &Terms) -> Result<(), Closed> {
        let offer = Offer {
            minor: terms.minor,
            caps: terms.caps,
            max_transfer: terms.caps.max_data_xfer_size.unwrap_or(u64::MAX),
            twin_socket: terms.caps.twin_socket.is_some_and(|twin| twin.supported),
            always: terms.always,
            objection: terms.objection,
        };
        let agreed = handshake::answer(&self.link, &offer, &first.0)?;
        self.link.opened();
        self.link.indulge();
        station.shared.set_live(Some(Arc::new(Live::new(&self.link, &agreed))));
        Ok(())
    }

    /// The device has no client any more: DMA ends, and none begins. To be called once the session has
    /// ended.
    pub fn leave(&self, station: &Station) {
        station.shared.set_live(None);
        station.shared.next_epoch();
    }

    /// The most bytes of data that a message to or from the client may carry.
    pub fn max_transfer(&self, station: &Station) -> usize {
        station.shared.live().map_or(0, |live| live.max_transfer)
    }

    /// Whether VERSION has agreed on REGION_WRITE_MULTI.
    pub fn may_write_multiple(&self, station: &Station) -> bool {
        station.shared.live().is_some_and(|live| live.write_multiple)
    }

    /// No call waits for a client that leaves replies unread: [`receive`](Self::receive) takes nothing
    /// while there are too many, and little at a time, and [`make_room`](Self::make_room) does not wait.
    pub fn never_block(&self) {
        self.link.never_block();
    }

    /// Whether commands that are here are held back until the client has read replies.
    pub fn holds(&self) -> bool {
        self.link.holds()
    }

    /// Whether the last call of [`receive`](Self::receive) may have left something behind, where it
    /// takes little at a time. Asked twice, it is no.
    pub fn has_filled(&self) -> bool {
        self.link.has_filled()
    }

    /// Takes what has come, without waiting. Says whether anything did.
    pub fn receive(&self) -> bool {
        self.link.poll_sockets()
    }

    /// Of which message only a part is here, if of any: when that began, since the session did.
    pub fn unfinished(&self) -> Option<Duration> {
        self.link.unfinished()
    }

    /// The next command that is here whole. None is given while the client leaves too many replies
    /// unread.
    pub fn next(&self) -> Option<Command> {
        self.link.try_next_command(None).map(Command)
    }

    /// Waits for the next command that `serve` has a claim to, and gives it with the claim. If more than
    /// the client's doing is waited for, i.e. deadlines and [`kick`](Self::kick)s, `alone` is false.
    ///
    /// # Errors
    /// The session has ended.
    pub fn wait<T>(
        &self,
        serve: &dyn Serve,
        alone: bool,
        then: impl FnOnce(Wait<'_>) -> T,
    ) -> Result<T, Closed> {
        let sight = if alone { Sight::MayBeBlind } else { Sight::Sees };
        let serve = ServeAs(serve);
        let came = self.link.next_or_signal(&serve, sight)?;
        Ok(then(match came {
            Came::Command(message, claim) => Wait::Command(Command(message), claim),
            Came::Kick => Wait::Kick,
            Came::Signal => Wait::Signal,
        }))
    }

    /// Ends the wait of a thread, which has something to do.
    pub fn kick(&self) {
        self.link.kick();
    }

    /// Commands that wait.
    pub fn queued(&self) -> usize {
        self.link.queued()
    }

    /// Gives the buffer of a command that is done with back.
    pub fn recycle(&self, done: Command) {
        self.link.recycle(Some(done.0));
    }

    /// Sends the reply whose payload is in `out`, behind room for a header; nothing if the client wants
    /// none. What does not go at once is sent by [`send_apart`](Self::send_apart).
    pub fn reply(&self, header: &Header, out: &mut Vec<u8>, fds: &[BorrowedFd<'_>]) {
        if !header.wants_no_reply() {
            header.reply(out.len().saturating_sub(HEADER_SIZE)).emit_into(out);
            let _closed = self.link.send(Channel::Main, out, fds);
        }
    }

    /// Sends an error reply with any number, if the client wants a reply.
    pub fn refuse(&self, header: &Header, errno: u32) {
        if !header.wants_no_reply() {
            let mut reply = header.error_reply(vfu_proto::wire::Errno::EIO);
            reply.error = errno;
            let _closed = self.link.send_header(Channel::Main, &reply);
        }
    }

    /// Has a thread send what waits to be sent, if anything does.
    pub fn send_apart(&self) {
        self.link.send_apart();
    }

    /// While the client leaves so many replies unread that it gets no commands executed, waits for it;
    /// but not in a session that [never blocks](Self::never_block).
    pub fn make_room(&self) {
        self.link.make_room();
    }

    /// Why the session has ended, if it has.
    pub fn closed(&self) -> Option<Closed> {
        self.link.closed()
    }

    /// Ends the session.
    pub fn close(&self) {
        self.link.close(Closed::Stopped);
    }

    /// What happened in it.
    pub fn counters(&self) -> Counters {
        self.link.counters()
    }

    /// How long nothing has to be done if nothing comes; `None`: for ever.
    pub fn timeout(&self) -> Option<Duration> {
        self.link.time_to_look()
    }
}
