//! A server at work, as a loop that waits.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing::info;
use vfu_proto::session::{Closed, Role};

use super::builder::{Builder, Settings};
use super::cleanup;
use super::event_loop::Client;
use super::executor::Executor;
use super::handshake::{self, Offer};
use super::poller::Poller;
use super::stop::{ServeError, Stop, Stopper};
use crate::context::{self, Inside};
use crate::device::Device;
use crate::handle::Handle;
use crate::link::{Link, Message, Next};
use crate::pci::Pci;
use crate::shared::{Live, Shared};
use crate::transport::{Accepted, Listener, RETRY};

/// Where clients come from.
#[derive(Debug)]
pub(super) enum Source {
    Listener(Listener),
    /// One client, that is there already.
    Connected(Option<OwnedFd>),
}

/// A device at its socket. It serves one client after the other.
///
/// * [`run`](Self::run) is a loop that waits; [`spawn`](Self::spawn) gives it a thread.
/// * [`poll_fd`](Self::poll_fd) and [`process`](Self::process) fit into somebody else's event loop.
#[derive(Debug)]
pub struct Server<D> {
    pub(super) device: D,
    pub(super) shared: Arc<Shared>,
    pub(super) executor: Arc<Executor>,
    pub(super) source: Source,
    pub(super) settings: Settings,
    pub(super) stop: Arc<Stop>,
    /// The client of an event loop.
    pub(super) client: Option<Client>,
    pub(super) poller: Option<Poller>,
}

impl Server<()> {
    /// Begins the description of a server for a device with this configuration space.
    pub fn builder(pci: Pci) -> Builder {
        Builder::new(pci)
    }
}

impl<D: Device> Server<D> {
    pub(super) fn new(
        device: D,
        shared: Arc<Shared>,
        executor: Arc<Executor>,
        source: Source,
        settings: Settings,
    ) -> Result<Self, ServeError> {
        let stop = Stop::new()?;
        let (client, poller) = (None, None);
        Ok(Server { device, shared, executor, source, settings, stop, client, poller })
    }

    /// A handle like the one that the device got.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// The device.
    pub fn device(&mut self) -> &mut D {
        &mut self.device
    }

    /// What stops the server from elsewhere: another thread, or a signal.
    pub fn stopper(&self) -> Stopper {
        self.stop.stopper()
    }

    /// Serves clients until it is stopped; if it was given a connected socket, until that closes.
    /// A client that misbehaves is disconnected, and the next one is served.
    ///
    /// # Errors
    /// No client can be accepted any more.
    pub fn run(&mut self) -> Result<(), ServeError> {
        while let Some(socket) = self.next_client()? {
            let link = self.connect(socket);
            if self.stop.attach(&link) {
                let why = self.session(&link);
                info!(%why, "client gone");
            }
        }
        self.shared.seldom.tell_rest(true);
        Ok(())
    }

    /// Serves one client, from VERSION to its end.
    fn session(&mut self, link: &Arc<Link>) -> Closed {
        let first = link.first_command();
        let agreed = first.and_then(|first| self.agree(link, &first));
        if let Err(why) = agreed {
            return why;
        }
        let mut done = None;
        let why = loop {
            match link.next(done.take(), self.executor.is_paused(link)) {
                Ok(Next::Command(command)) => {
                    done = self.executor.execute(&mut self.device, link, command);
                }
                Ok(Next::Kick) => self.executor.settle(&mut self.device, link),
                Err(why) => break why,
            }
        };
        cleanup::disconnect(&self.shared, &self.executor, &mut self.device, link);
        why
    }

    pub(super) fn connect(&self, socket: OwnedFd) -> Arc<Link> {
        let link = Link::new(socket, Role::Server, self.settings.limits.clone());
        Arc::new(link.spinning(self.settings.spin))
    }

    /// Answers VERSION, and tells the device that there is a client.
    pub(super) fn agree(&mut self, link: &Arc<Link>, first: &Message) -> Result<(), Closed> {
        let agreed = handshake::answer(link, &Offer::of(&self.settings), first)?;
        link.opened();
        self.shared.set_live(Some(Arc::new(Live::new(link, &agreed))));
        context::run(&self.shared, Inside::Callback, || self.device.connected());
        Ok(())
    }

    /// Waits for a client. `None`: there will be no more.
    fn next_client(&mut self) -> Result<Option<OwnedFd>, ServeError> {
        let accept = |e: Errno| ServeError::Accept(e.into());
        loop {
            if self.stop.is_stopped() {
                return Ok(None);
            }
            let listener = match &mut self.source {
                Source::Connected(socket) => return Ok(socket.take()),
                Source::Listener(listener) => listener,
            };
            let mut set = [
                PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.stop.wake().as_fd(), PollFlags::IN),
            ];
            match poll(&mut set, None) {
                // What woke us, if it was not a stop, was for the last client.
                Ok(_) if set[0].revents().is_empty() => self.stop.wake().clear(),
                Ok(_) => match listener.accept() {
                    Ok(Accepted::Client(socket)) => return Ok(Some(socket)),
                    Ok(Accepted::Nobody) => {}
                    Ok(Accepted::Short) => {
                        self.shared.tell_of_shortage();
                        // For that, or for a stop.
                        let time = Timespec { tv_sec: 0, tv_nsec: RETRY.subsec_nanos().into() };
                        let _woken = poll(&mut set[1..], Some(&time));
                    }
                    Err(e) => return Err(accept(e)),
                },
                Err(Errno::INTR) => {}
                Err(e) => return Err(accept(e)),
            }
        }
    }

    /// Whether no client will be served any more: it was stopped, or the one connection that it was
    /// given has ended. For an event loop, which [`process`](Self::process) does not tell.
    pub fn is_finished(&self) -> bool {
        let exhausted = matches!(self.source, Source::Connected(None));
        self.client.is_none() && (exhausted || self.stop.is_stopped())
    }
}
