//! Commands of the peer, in the order in which they came.

use std::collections::VecDeque;

use super::{Limits, Message};

/// The queue between whoever reads the socket and the executor.
#[derive(Debug)]
pub(super) struct Commands<F> {
    queue: VecDeque<Message<F>>,
    bytes: usize,
}

impl<F> Commands<F> {
    pub(super) fn new() -> Self {
        Commands { queue: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn push(&mut self, message: Message<F>) {
        self.bytes += message.len();
        self.queue.push_back(message);
    }

    pub(super) fn pop(&mut self) -> Option<Message<F>> {
        let message = self.queue.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        self.queue.len() >= limits.queued_commands || self.bytes >= limits.queued_bytes
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }
}
