//! What the handler and the worker share. One lock guards registers, buffer and pin together, so
//! that the pin is never at odds with the interrupt status.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tracing::warn;
use vfu::Handle;

use super::buffer::Buffer;
use super::registers::{Registers, Transfer};
use crate::pause::Pause;

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is work, or an end of it.
    pub(super) work: Condvar,
    /// The worker has come to an end of something.
    pub(super) ended: Condvar,
    pub(super) handle: Handle,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) registers: Registers,
    pub(super) buffer: Buffer,
    /// A factorial that waits for the worker.
    pub(super) compute: Option<u32>,
    /// A transfer that waits for the worker.
    pub(super) copy: Option<Transfer>,
    /// Counts resets: what was begun before one must not end after it.
    pub(super) generation: u64,
    /// The worker exists.
    pub(super) worker: bool,
    /// The device is gone.
    pub(super) stop: bool,
    /// The level of the pin.
    pub(super) pin: bool,
    pub(super) pause: Pause,
}

impl State {
    /// Forgets work that waits, and what comes of work that runs.
    pub(super) fn drop_work(&mut self) {
        (self.compute, self.copy) = (None, None);
        self.generation = self.generation.wrapping_add(1);
    }
}

impl Shared {
    pub(super) fn new(handle: Handle) -> Self {
        let state = State {
            registers: Registers::new(super::DEFAULT_DMA_MASK),
            buffer: Buffer::new(),
            compute: None,
            copy: None,
            generation: 0,
            worker: false,
            stop: false,
            pin: false,
            pause: Pause::default(),
        };
        let (work, ended) = (Condvar::new(), Condvar::new());
        Shared { state: Mutex::new(state), work, ended, handle }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the driver that the interrupt status has got bits.
    pub(super) fn interrupt(&self, state: &mut State) {
        let vector = self.handle.vector(0);
        if vector.is_enabled() {
            if let Err(error) = vector.trigger() {
                const LOST: &str = "edu: interrupt lost";
                if let Some(kept) = self.handle.seldom(LOST) {
                    warn!(%error, "{LOST}{kept}");
                }
            }
        }
        self.update_pin(state);
    }

    /// Brings the pin in line with the interrupt status. A driver that uses MSI does not need it.
    pub(super) fn update_pin(&self, state: &mut State) {
        let up = state.registers.interrupt_status() != 0 && !self.handle.vector(0).is_enabled();
        if up != state.pin {
            state.pin = up;
            self.handle.intx().set(up);
        }
    }

    /// All as after power-on.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.drop_work();
        state.registers.reset();
        state.buffer.reset();
        state.pin = false;
        state.pause.start();
        self.handle.intx().lower();
    }
}
