//! Commands of the peer, in the order in which they came.

use std::collections::VecDeque;

use crate::wire::Command;

use super::{Limits, Message};

/// The queue between whoever reads the socket and the executor.
#[derive(Debug)]
pub(super) struct Commands<F> {
    /// The oldest one: most often there is no other.
    first: Option<Message<F>>,
    /// Those behind it.
    rest: VecDeque<Message<F>>,
    bytes: usize,
    resets: usize,
}

impl<F> Commands<F> {
    pub(super) fn new() -> Self {
        Commands { first: None, rest: VecDeque::new(), bytes: 0, resets: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, message: Message<F>) {
        self.bytes += message.len();
        self.resets += usize::from(is_reset(&message));
        match self.first {
            None => self.first = Some(message),
            Some(_) => self.rest.push_back(message),
        }
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Message<F>> {
        let message = self.first.take()?;
        if !self.rest.is_empty() {
            self.first = self.rest.pop_front();
        }
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
        usize::from(self.first.is_some()) + self.rest.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    #[inline]
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        self.len() >= limits.queued_commands || self.bytes >= limits.queued_bytes
    }

    pub(super) fn clear(&mut self) {
        self.first = None;
        self.rest.clear();
        self.bytes = 0;
        self.resets = 0;
    }
}

fn is_reset<F>(message: &Message<F>) -> bool {
    message.header().command == Command::DeviceReset.as_u16()
}
