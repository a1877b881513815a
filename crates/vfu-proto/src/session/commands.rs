//! Commands of the peer, in the order in which they came.

use std::collections::VecDeque;

use crate::wire::Command;

use super::{Limits, Message};

/// The queue between whoever reads the socket and the executor.
#[derive(Debug)]
pub(super) struct Commands<F> {
    queue: VecDeque<Message<F>>,
    bytes: usize,
    resets: usize,
}

impl<F> Commands<F> {
    pub(super) fn new() -> Self {
        Commands { queue: VecDeque::new(), bytes: 0, resets: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, message: Message<F>) {
        self.bytes += message.len();
        self.resets += usize::from(is_reset(&message));
        self.queue.push_back(message);
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Message<F>> {
        let message = self.queue.pop_front()?;
        self.bytes -= message.len();
        self.resets -= usize::from(is_reset(&message));
        Some(message)
    }

    /// How many DEVICE_RESETs wait.
    pub(super) fn resets(&self) -> usize {
        self.resets
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    #[inline]
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        self.queue.len() >= limits.queued_commands || self.bytes >= limits.queued_bytes
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
        self.resets = 0;
    }
}

fn is_reset<F>(message: &Message<F>) -> bool {
    message.header().command == Command::DeviceReset.as_u16()
}
