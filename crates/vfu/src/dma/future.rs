//! The other two faces of a transfer: a future, and a callback.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::message::Pause;
use super::transfer::{Transfer, Waiting};
use super::{Dma, DmaError};
use crate::link::Asker;
use crate::sync::Mutex;

/// A read or write under way; made by [`Dma::read_async`] and [`Dma::write_async`].
///
/// It starts when it is first polled, and runs under any executor. Dropped before its end, it gives
/// its messages up; what was moved by then stays moved.
///
/// Somebody has to read the session's sockets meanwhile: the loop of
/// [`Server::run`](crate::Server::run) does, or whoever calls
/// [`Server::process`](crate::Server::process).
#[must_use = "a future does nothing unless it is polled"]
pub struct DmaFuture<'a>(Transfer<'a>);

impl<'a> DmaFuture<'a> {
    pub(crate) fn new(transfer: Transfer<'a>) -> Self {
        DmaFuture(transfer)
    }
}

impl Future for DmaFuture<'_> {
    type Output = Result<(), DmaError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.0.at_once() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let Some(Waiting { link, pause }) = self.0.advance(&Asker::elsewhere())? else {
                return Poll::Ready(Ok(()));
            };
            let wakes = match pause {
                Pause::Reply(ticket) => link.wake_on_end(ticket, context.waker()),
                Pause::Room => link.wake_on_room(context.waker()),
            };
            if wakes {
                return Poll::Pending;
            }
        }
    }
}

impl std::fmt::Debug for DmaFuture<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DmaFuture")
    }
}

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A future that is polled by whoever wakes it.
struct Task {
    state: Mutex<State>,
}

enum State {
    /// Waits to be woken.
    Idle(Boxed),
    /// Is being polled; `true` if it has been woken meanwhile.
    Polled(bool),
    Done,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let mut future = match std::mem::replace(&mut *state, State::Polled(false)) {
                State::Idle(future) => future,
                State::Polled(_) => {
                    *state = State::Polled(true);
                    return;
                }
                State::Done => {
                    *state = State::Done;
                    return;
                }
            };
            drop(state);
            let waker = Waker::from(self.clone());
            let ended = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let again = matches!(*state, State::Polled(true));
            *state = if ended { State::Done } else { State::Idle(future) };
            if ended || !again {
                return;
            }
        }
    }
}

/// Runs `future` now, and on from wherever it is woken.
pub(crate) fn run(future: impl Future<Output = ()> + Send + 'static) {
    let state = Mutex::new(State::Idle(Box::pin(future)));
    Arc::new(Task { state }).wake();
}

impl Dma {
    /// Reads `len` bytes at `address` and calls `then` with them, once, from whatever thread comes
    /// to know: this one if no message is needed, else the one that reads the session's sockets.
    /// `then` must not wait for anything; it may start the next transfer in the same way.
    pub fn read_then(
        &self,
        address: u64,
        len: usize,
        then: impl FnOnce(Result<Vec<u8>, DmaError>) + Send + 'static,
    ) {
        let dma = self.clone();
        run(async move {
            let mut bytes = vec![0; len];
            let result = dma.read_async(address, &mut bytes).await;
            then(result.map(|()| bytes));
        });
    }

    /// Writes `bytes` at `address` and then calls `then`; as [`read_then`](Self::read_then).
    pub fn write_then(
        &self,
        address: u64,
        bytes: Vec<u8>,
        then: impl FnOnce(Result<(), DmaError>) + Send + 'static,
    ) {
        let dma = self.clone();
        run(async move { then(dma.write_async(address, &bytes).await) });
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
