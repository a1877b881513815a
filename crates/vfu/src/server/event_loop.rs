//! A server at work, a step at a time, in somebody else's event loop.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::io::Errno;
use tracing::{info, warn};
use vfu_proto::session::Closed;

use super::cleanup;
use super::poller::Poller;
use super::run::{Server, Source};
use super::stop::ServeError;
use crate::device::Device;
use crate::link::{Link, Message};
use crate::transport::{Accepted, RETRY};

/// A session as an event loop sees it.
#[derive(Debug)]
pub(super) struct Client {
    link: Arc<Link>,
    agreed: bool,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.close(Closed::Stopped);
    }
}

impl<D: Device> Server<D> {
    /// The descriptor that an event loop waits on: readable when [`process`](Self::process) has
    /// something to do, be it a message, an answer that is due, or a deadline. It stays the same
    /// while clients come and go.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn poll_fd(&mut self) -> Result<BorrowedFd<'_>, ServeError> {
        if self.poller.is_none() {
            let mut poller = Poller::new(self.stop.wake())?;
            match (&self.client, &self.source) {
                (Some(client), _) => {
                    client.link.in_event_loop(self.stop.wake());
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
    /// # Errors
    /// No client can be accepted any more.
    pub fn process(&mut self) -> Result<usize, ServeError> {
        if let Some(poller) = &self.poller {
            poller.clear();
        }
        if self.client.is_none() && !self.accept_one()? {
            return Ok(0);
        }
        let Some(client) = &self.client else { return Ok(0) };
        let link = client.link.clone();
        link.poll_sockets();
        let executed = self.execute_all(&link)?;
        if let Some(poller) = &mut self.poller {
            poller.update(&link)?;
        }
        self.end_if_closed(&link);
        Ok(executed)
    }

    fn execute_all(&mut self, link: &Arc<Link>) -> Result<usize, ServeError> {
        let mut executed = 0;
        let mut done = None;
        loop {
            if link.take_kick() {
                self.executor.settle(&mut self.device, link);
            }
            let paused = self.executor.is_paused(link);
            let next = if paused { None } else { link.try_next_command(done.take()) };
            let Some(command) = next else { break };
            done = self.execute_one(link, command)?;
            executed += 1;
        }
        link.recycle(done);
        Ok(executed)
    }

    fn execute_one(
        &mut self,
        link: &Arc<Link>,
        command: Message,
    ) -> Result<Option<Message>, ServeError> {
        if self.client.as_ref().is_some_and(|client| client.agreed) {
            return Ok(self.executor.execute(&mut self.device, link, command));
        }
        if self.agree(link, &command).is_ok() {
            if let Some(client) = &mut self.client {
                client.agreed = true;
            }
            self.watch(link)?;
        }
        Ok(Some(command))
    }

    fn end_if_closed(&mut self, link: &Arc<Link>) {
        let Some(why) = link.closed() else { return };
        info!(%why, "client gone");
        if let Some(poller) = &mut self.poller {
            poller.forget(link);
        }
        if self.client.take().is_some_and(|client| client.agreed) {
            cleanup::disconnect(&self.shared, &self.executor, &mut self.device, link);
        }
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
        let accepted = match &mut self.source {
            Source::Connected(socket) => socket.take().map_or(Accepted::Nobody, Accepted::Client),
            Source::Listener(listener) => {
                if let Some(poller) = &mut self.poller {
                    poller.resume(listener.as_fd())?;
                }
                listener.accept().map_err(|e| ServeError::Accept(e.into()))?
            }
        };
        let socket = match (accepted, &mut self.poller, &self.source) {
            (Accepted::Client(socket), ..) => socket,
            (Accepted::Short, Some(poller), Source::Listener(listener)) => {
                warn!("no descriptor or memory for a client; it waits");
                poller.pause(listener.as_fd(), RETRY)?;
                return Ok(false);
            }
            (Accepted::Nobody | Accepted::Short, ..) => return Ok(false),
        };
        let link = self.connect(socket);
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
                link.in_event_loop(self.stop.wake());
                poller.watch(link)
            }
            None => Ok(()),
        }
    }
}
