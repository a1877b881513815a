//! The device's buffer, and what of it has been sent ahead.

use std::ops::{Deref, DerefMut};

use vfu::migration::{State, StateError, StateReader, StateWriter};

use super::BUFFER_SIZE;

type Bytes = Box<[u8; BUFFER_SIZE]>;

/// Bytes, which go to another device ahead of the rest.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Bytes,
    /// What a device that is being saved has sent ahead.
    sent: Option<Bytes>,
    /// Bytes that came ahead have been put in.
    arrived: bool,
}

impl Buffer {
    pub(super) fn new() -> Buffer {
        Buffer { bytes: Box::new([0; BUFFER_SIZE]), sent: None, arrived: false }
    }

    /// As after power-on.
    pub(super) fn reset(&mut self) {
        *self = Buffer::new();
    }

    /// Nothing has been sent yet.
    pub(super) fn begin_saving(&mut self) {
        self.sent = None;
    }

    /// What is to be sent ahead: nothing if it has been.
    pub(super) fn send_ahead(&mut self) -> Vec<u8> {
        if self.is_sent() {
            return Vec::new();
        }
        self.sent = Some(self.bytes.clone());
        self.bytes.to_vec()
    }

    pub(super) fn arrived(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let wrong = |_| StateError::value(format!("a buffer of {} bytes", bytes.len()));
        *self.bytes = bytes.try_into().map_err(wrong)?;
        self.arrived = true;
        Ok(())
    }

    fn is_sent(&self) -> bool {
        self.sent.as_ref() == Some(&self.bytes)
    }
}

impl Deref for Buffer {
    type Target = [u8; BUFFER_SIZE];

    fn deref(&self) -> &Self::Target {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.bytes
    }
}

/// Whether the bytes follow, and the bytes; if they do not they have come ahead.
impl State for Buffer {
    fn write_state(&self, to: &mut StateWriter) {
        to.value(&!self.is_sent());
        if !self.is_sent() {
            to.value(&self.bytes);
        }
    }

    fn read_state(&mut self, from: &mut StateReader<'_>) -> Result<(), StateError> {
        match (from.value::<bool>()?, std::mem::take(&mut self.arrived)) {
            (true, _) => self.bytes.read_state(from),
            (false, true) => Ok(()),
            (false, false) => Err(StateError::value("the buffer was to come ahead, and did not")),
        }
    }
}
