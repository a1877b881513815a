//! Memory that the device reaches by messages only.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vfu::client::DmaMemory;
use vfu::wire::Errno;

use crate::{DEADLINE, KitError};

/// Memory behind DMA_READ and DMA_WRITE. It counts the messages, can refuse them, and can hold
/// their replies back.
#[derive(Debug)]
pub struct MessageRam {
    address: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    reads: u64,
    writes: u64,
    largest: usize,
    refuse: Option<Errno>,
    hold: bool,
    held: usize,
}

impl MessageRam {
    /// Memory of `size` bytes, all 0, that begins at `address`.
    pub fn new(address: u64, size: usize) -> MessageRam {
        let state = State {
            bytes: vec![0; size],
            reads: 0,
            writes: 0,
            largest: 0,
            refuse: None,
            hold: false,
            held: 0,
        };
        MessageRam { address, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first address, as the device sees it.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many bytes.
    pub fn size(&self) -> u64 {
        self.lock().bytes.len() as u64
    }

    /// How many DMA_READ messages came.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// How many DMA_WRITE messages came.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// The most data that any message moved, in bytes.
    pub fn largest(&self) -> usize {
        self.lock().largest
    }

    /// From now on every message is refused with this errno, or served again.
    pub fn refuse(&self, errno: Option<Errno>) {
        self.lock().refuse = errno;
    }

    /// From now on no message is answered before [`release`](Self::release).
    ///
    /// The thread of the client that serves the message waits meanwhile, and with it, on a single
    /// socket, every reply that came behind the message. Any thread that is in a call of the client
    /// may come to serve it: so what makes the device send the message is better called on a thread
    /// of its own.
    pub fn hold(&self) {
        self.lock().hold = true;
    }

    /// Answers what was held, and holds nothing any more.
    pub fn release(&self) {
        self.lock().hold = false;
        self.changed.notify_all();
    }

    /// Waits until a message is held.
    ///
    /// # Errors
    /// [`KitError::TimedOut`].
    pub fn wait_held(&self) -> Result<(), KitError> {
        let wait = self.changed.wait_timeout_while(self.lock(), DEADLINE, |state| state.held == 0);
        match wait.unwrap_or_else(PoisonError::into_inner) {
            (_, timeout) if timeout.timed_out() => Err(KitError::TimedOut("a DMA message")),
            _ => Ok(()),
        }
    }

    /// What is in it, from the address `address` on; `None` if that is not in the memory.
    pub fn bytes(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        Some(self.lock().bytes.get(self.range(address, len)?)?.to_vec())
    }

    /// Stores bytes from the address `address` on, as the CPU would; `None` if that is not in the
    /// memory.
    pub fn store(&self, address: u64, from: &[u8]) -> Option<()> {
        self.lock().bytes.get_mut(self.range(address, from.len())?)?.copy_from_slice(from);
        Some(())
    }

    /// Where in `bytes` these addresses would be.
    fn range(&self, address: u64, len: usize) -> Option<Range<usize>> {
        let at = usize::try_from(address.checked_sub(self.address)?).ok()?;
        Some(at..at.checked_add(len)?)
    }

    /// What every message goes through first.
    fn admit(&self, len: usize, count: impl FnOnce(&mut State)) -> Result<(), Errno> {
        let mut state = self.lock();
        count(&mut state);
        state.largest = state.largest.max(len);
        state.held += 1;
        self.changed.notify_all();
        state = self
            .changed
            .wait_while(state, |state| state.hold)
            .unwrap_or_else(PoisonError::into_inner);
        state.held -= 1;
        state.refuse.map_or(Ok(()), Err)
    }
}

impl DmaMemory for MessageRam {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        self.admit(to.len(), |state| state.reads += 1)?;
        let bytes = self.bytes(address, to.len()).ok_or(Errno::EFAULT)?;
        to.copy_from_slice(&bytes);
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        self.admit(from.len(), |state| state.writes += 1)?;
        self.store(address, from).ok_or(Errno::EFAULT)
    }

    fn lend(&self, address: u64, len: usize, send: &mut dyn FnMut(&[u8])) {
        let mut state = self.lock();
        if state.hold || state.refuse.is_some() {
            return;
        }
        let Some(range) = self.range(address, len) else { return };
        if range.end <= state.bytes.len() {
            (state.reads, state.largest) = (state.reads + 1, state.largest.max(len));
            send(&state.bytes[range]);
        }
    }
}
