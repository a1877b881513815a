//! A server at work, a step at a time, in somebody else's event loop.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::io::Errno;
use tracing::info;
use vfu_proto::session::Closed;

use super::cleanup;
use super::run::{Server, Source};
use super::stop::ServeError;
use crate::device::Device;
use crate::link::{Link, Message};
use crate::poller::Poller;
use crate::transport::{Accepted, RETRY};

/// A session as an event loop sees it.
#[derive(Debug)]
pub(super) struct Client {
    link: Arc<Link>,
    agreed: bool,
    /// The last command, whose buffer is used again when more is received.
    done: Option<Message>,
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
            let mut poller = Poller::new(self.stop.wake()).map_err(ServeError::Setup)?;
            match (&self.client, &self.source) {
                (Some(client), _) => {
                    client.link.in_event_loop(self.stop.wake());
                    poller.watch(&client.link).map_err(ServeError::Setup)?;
                }
                (None, Source::Listener(listener)) => {
                    poller.add(listener.as_fd()).map_err(ServeError::Setup)?
                }
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
        let executed = self.greet()? + self.serve();
        self.end_if_closed();
        if let (Some(poller), Some(client)) = (&mut self.poller, &self.client) {
            poller.update(&client.link).map_err(ServeError::Setup)?;
        }
        Ok(executed)
    }

    /// Executes VERSION if that is what comes first.
    fn greet(&mut self) -> Result<usize, ServeError> {
        let Some(client) = self.client.as_mut().filter(|client| !client.agreed) else {
            return Ok(0);
        };
        let link = client.link.clone();
        let Some(first) = link.receive_command(None, false) else { return Ok(0) };
        if self.agree(&link, &first).is_ok() {
            self.client.iter_mut().for_each(|client| client.agreed = true);
            self.watch(&link)?;
        }
        link.recycle(Some(first));
        link.executed();
        Ok(1)
    }

    /// Executes the commands that have come, and what was put off before them.
    fn serve(&mut self) -> usize {
        let Server { client: Some(client), executor, device, .. } = self else { return 0 };
        let Client { link, agreed: true, done } = client else { return 0 };
        let mut next = link.receive_command(done.take(), executor.is_paused(link));
        let mut executed = 0;
        loop {
            let settles = link.take_kick();
            if settles {
                executor.settle(device, link);
            }
            match next.take() {
                Some(command) => {
                    *done = executor.execute(device, link, command);
                    executed += 1;
                }
                None if settles => {}
                None => {
                    link.executed();
                    return executed;
                }
            }
            if link.has_more() && !executor.is_paused(link) {
                next = link.try_next_command(done.take());
            }
        }
    }

    fn end_if_closed(&mut self) {
        let Some(link) = self.client.as_ref().map(|client| &client.link) else { return };
        let Some(why) = link.closed() else { return };
        let link = link.clone();
        info!(%why, "client gone");
        if let Some(poller) = &mut self.poller {
            poller.forget(&link);
        }
        if self.client.take().is_some_and(|client| client.agreed) {
            cleanup::disconnect(&self.shared, &self.executor, &mut self.device, &link);
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
                    poller.resume(listener.as_fd()).map_err(ServeError::Setup)?;
                }
                listener.accept().map_err(|e| ServeError::Accept(e.into()))?
            }
        };
        let socket = match (accepted, &mut self.poller, &self.source) {
            (Accepted::Client(socket), ..) => socket,
            (Accepted::Short, Some(poller), Source::Listener(listener)) => {
                self.shared.tell_of_shortage();
                poller.pause(listener.as_fd(), RETRY).map_err(ServeError::Setup)?;
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
        self.client = Some(Client { link, agreed: false, done: None });
        Ok(true)
    }

    fn watch(&mut self, link: &Arc<Link>) -> Result<(), ServeError> {
        match &mut self.poller {
            Some(poller) => {
                link.in_event_loop(self.stop.wake());
                poller.watch(link).map_err(ServeError::Setup)
            }
            None => Ok(()),
        }
    }
}
