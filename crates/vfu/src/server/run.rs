//! A server at work: as a loop that waits, or a step at a time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing::info;
use vfu_proto::session::{Closed, Role};

use super::builder::{Builder, Settings};
use super::cleanup;
use super::executor::Executor;
use super::handshake;
use super::poller::Poller;
use super::stop::{ServeError, Stop, Stopper};
use crate::device::Device;
use crate::handle::Handle;
use crate::link::{Link, Message};
use crate::pci::Pci;
use crate::shared::{Live, Shared};
use crate::transport::Listener;

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
/// * [`as_fd`](AsFd::as_fd) and [`process`](Self::process) fit into somebody else's event loop.
#[derive(Debug)]
pub struct Server<D> {
    device: D,
    shared: Arc<Shared>,
    executor: Executor,
    source: Source,
    settings: Settings,
    stop: Arc<Stop>,
    /// The client of an event loop.
    client: Option<Client>,
    poller: Option<Poller>,
}

/// A session as an event loop sees it.
#[derive(Debug)]
struct Client {
    link: Arc<Link>,
    agreed: bool,
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
        executor: Executor,
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
            let link = Arc::new(self.connect(socket));
            if self.stop.attach(&link) {
                let why = self.session(&link);
                info!(%why, "client gone");
            }
        }
        Ok(())
    }

    /// Serves one client, from VERSION to its end.
    fn session(&mut self, link: &Arc<Link>) -> Closed {
        let agreed = link.first_command().and_then(|first| self.agree(link, &first));
        if let Err(why) = agreed {
            return why;
        }
        let mut done = None;
        let why = loop {
            match link.next_command(done.take()) {
                Ok(mut command) => {
                    self.executor.execute(&mut self.device, link, &mut command);
                    done = Some(command);
                }
                Err(why) => break why,
            }
        };
        cleanup::disconnect(&self.shared, &self.executor, &mut self.device, link);
        why
    }

    fn connect(&self, socket: OwnedFd) -> Link {
        Link::new(socket, Role::Server, self.settings.limits.clone())
    }

    fn agree(&self, link: &Arc<Link>, first: &Message) -> Result<(), Closed> {
        let agreed = handshake::answer(link, &self.settings, first)?;
        let live = Live { link: link.clone(), max_transfer: agreed.max_transfer };
        self.shared.set_live(Some(Arc::new(live)));
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
                Ok(_) if set[0].revents().is_empty() => {}
                Ok(_) => match listener.accept() {
                    Ok(Some(socket)) => return Ok(Some(socket)),
                    Ok(None) => {}
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

    /// Gives the server a thread of its own.
    pub fn spawn(mut self) -> Running<D>
    where
        D: Send + 'static,
    {
        let stopper = self.stopper();
        let thread = thread::spawn(move || {
            let result = self.run();
            (self, result)
        });
        Running { stopper, thread: Some(thread) }
    }

    /// The descriptor that an event loop waits on: readable when [`process`](Self::process) has
    /// something to do. It stays the same while clients come and go.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn poll_fd(&mut self) -> Result<BorrowedFd<'_>, ServeError> {
        if self.poller.is_none() {
            let mut poller = Poller::new(self.stop.wake())?;
            match (&self.client, &self.source) {
                (Some(client), _) => {
                    client.link.wake_by(self.stop.wake().clone());
                    poller.watch(&client.link)?;
                }
                (None, Source::Listener(listener)) => poller.add(listener.as_fd())?,
                // There is a client already: nothing will announce it.
                (None, Source::Connected(_)) => poller.wake(),
            }
            self.poller = Some(poller);
        }
        match &self.poller {
            Some(poller) => Ok(poller.as_fd()),
            None => Err(ServeError::Setup(Errno::BADF.into())),
        }
    }

    /// Does what can be done without waiting: accepts a client, executes every command that has
    /// arrived whole, sends what waits to be sent. Gives the number of commands executed.
    ///
    /// Timeouts of the session are looked at here too: an event loop that wants them exact calls
    /// this now and then without a reason.
    ///
    /// # Errors
    /// No client can be accepted any more.
    pub fn process(&mut self) -> Result<usize, ServeError> {
        if let Some(poller) = &self.poller {
            poller.clear();
        }
        if self.client.is_none() && !self.accept_one()? {
            return Ok(0);
        }
        let Some(Client { link, agreed }) = &self.client else { return Ok(0) };
        let (link, mut agreed) = (link.clone(), *agreed);
        link.poll_sockets();
        let (mut executed, mut done) = (0, None);
        while let Some(mut command) = link.try_next_command(done.take()) {
            if agreed {
                self.executor.execute(&mut self.device, &link, &mut command);
            } else if self.agree(&link, &command).is_ok() {
                agreed = true;
                self.watch(&link)?;
            }
            executed += 1;
            done = Some(command);
        }
        link.recycle(done);
        if let Some(client) = &mut self.client {
            client.agreed = agreed;
        }
        if let Some(poller) = &mut self.poller {
            poller.update(&link)?;
        }
        self.end_if_closed(&link, agreed);
        Ok(executed)
    }

    fn end_if_closed(&mut self, link: &Link, agreed: bool) {
        let Some(why) = link.closed() else { return };
        info!(%why, "client gone");
        if let Some(poller) = &mut self.poller {
            poller.forget(link);
        }
        if agreed {
            cleanup::disconnect(&self.shared, &self.executor, &mut self.device, link);
        }
        self.client = None;
        if let Some(poller) = &self.poller {
            // The next one may be waiting already.
            if let Source::Listener(listener) = &self.source {
                let _full = poller.add(listener.as_fd());
            }
            poller.wake();
        }
    }

    /// Takes the next client if one is there. Without a poll fd, too.
    fn accept_one(&mut self) -> Result<bool, ServeError> {
        if self.stop.is_stopped() {
            return Ok(false);
        }
        let socket = match &mut self.source {
            Source::Connected(socket) => socket.take(),
            Source::Listener(listener) => {
                let mut set = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
                let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                match poll(&mut set, Some(&now)) {
                    Ok(n) if n > 0 => {
                        listener.accept().map_err(|e| ServeError::Accept(e.into()))?
                    }
                    Ok(_) | Err(Errno::INTR) => None,
                    Err(e) => return Err(ServeError::Accept(e.into())),
                }
            }
        };
        let Some(socket) = socket else { return Ok(false) };
        let link = Arc::new(self.connect(socket));
        if !self.stop.attach(&link) {
            return Ok(false);
        }
        if let (Some(poller), Source::Listener(listener)) = (&self.poller, &self.source) {
            // The next one has to wait, and must not keep the loop busy meanwhile.
            poller.remove(listener.as_fd());
        }
        self.watch(&link)?;
        self.client = Some(Client { link, agreed: false });
        Ok(true)
    }

    fn watch(&mut self, link: &Arc<Link>) -> Result<(), ServeError> {
        match &mut self.poller {
            Some(poller) => {
                link.wake_by(self.stop.wake().clone());
                poller.watch(link)
            }
            None => Ok(()),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.close(Closed::Stopped);
    }
}

/// What a thread that serves ends with.
type Ended<D> = (Server<D>, Result<(), ServeError>);

/// A server on a thread of its own. Dropping it stops the server, and waits for that.
#[derive(Debug)]
pub struct Running<D> {
    stopper: Stopper,
    thread: Option<JoinHandle<Ended<D>>>,
}

impl<D> Running<D> {
    /// What stops it from elsewhere.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Stops it and gives the server back.
    ///
    /// # Errors
    /// What [`Server::run`] ended with.
    ///
    /// # Panics
    /// If the device did.
    pub fn stop(self) -> Result<Server<D>, ServeError> {
        self.stopper.stop();
        self.join()
    }

    /// Waits until it ends by itself, or by its [`Stopper`].
    ///
    /// # Errors
    /// What [`Server::run`] ended with.
    ///
    /// # Panics
    /// If the device did.
    pub fn join(mut self) -> Result<Server<D>, ServeError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok((server, result))) => result.map(|()| server),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => unreachable!("only joining and dropping take the thread"),
        }
    }
}

impl<D> Drop for Running<D> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stopper.stop();
            let _its_panic_was_shown = thread.join();
        }
    }
}
