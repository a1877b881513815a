//! What a device was told, in order.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vfu::device::{DmaRange, Reset};
use vfu::pci::PowerState;

use crate::{DEADLINE, KitError};

/// A call of the server to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The driver read.
    Read {
        /// The region.
        region: u32,
        /// The first byte.
        offset: u64,
        /// How many bytes.
        len: usize,
    },
    /// The driver wrote.
    Write {
        /// The region.
        region: u32,
        /// The first byte.
        offset: u64,
        /// What it wrote.
        data: Vec<u8>,
    },
    /// A client connected.
    Connected,
    /// The device was reset.
    Reset(Reset),
    /// The driver changed the power state, from one to another.
    Power(PowerState, PowerState),
    /// The client mapped memory.
    Mapped(DmaRange),
    /// The client took memory back.
    Unmapped(DmaRange),
}

/// The calls so far. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct CallLog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    calls: Mutex<Vec<Call>>,
    changed: Condvar,
}

impl CallLog {
    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, call: Call) {
        self.lock().push(call);
        self.0.changed.notify_all();
    }

    /// A copy of all calls.
    pub fn all(&self) -> Vec<Call> {
        self.lock().clone()
    }

    /// Takes all calls out.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.lock())
    }

    /// How many calls `which` picks.
    pub fn count(&self, which: impl Fn(&Call) -> bool) -> usize {
        self.lock().iter().filter(|call| which(call)).count()
    }

    /// Waits until one of the calls is `wanted`.
    ///
    /// # Errors
    /// [`KitError::TimedOut`] after [`DEADLINE`].
    pub fn wait_for(&self, wanted: &Call) -> Result<(), KitError> {
        self.wait_until(|calls| calls.contains(wanted))
    }

    /// Waits until `done` says so of the calls.
    ///
    /// # Errors
    /// [`KitError::TimedOut`] after [`DEADLINE`].
    pub fn wait_until(&self, done: impl Fn(&[Call]) -> bool) -> Result<(), KitError> {
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.lock(), DEADLINE, |calls| !done(calls.as_slice()));
        match waited.unwrap_or_else(PoisonError::into_inner) {
            (_, timeout) if timeout.timed_out() => Err(KitError::TimedOut("the device's call")),
            _ => Ok(()),
        }
    }
}
