//! What the handlers and the thread share. No lock is held while a copy runs: handlers are called
//! meanwhile.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vfu::Handle;

use super::registers::{Job, Registers};

#[derive(Debug)]
pub(super) struct Inner {
    state: Mutex<State>,
    /// There is work, or an end of it.
    pub(super) work: Condvar,
    pub(super) handle: Handle,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) registers: Registers,
    /// Copies that wait for the thread.
    pub(super) jobs: VecDeque<Job>,
    /// Counts resets: what was begun before one must not end after it.
    pub(super) generation: u64,
    /// The thread exists.
    pub(super) worker: bool,
    /// The device is gone.
    pub(super) stop: bool,
    /// The level of the pin.
    pin: bool,
}

impl State {
    /// Forgets copies that wait, and what comes of those that run.
    pub(super) fn drop_work(&mut self) {
        self.jobs.clear();
        self.generation = self.generation.wrapping_add(1);
    }
}

impl Inner {
    pub(super) fn new(handle: Handle) -> Self {
        let state = State {
            registers: Registers::new(),
            jobs: VecDeque::new(),
            generation: 0,
            worker: false,
            stop: false,
            pin: false,
        };
        Inner { state: Mutex::new(state), work: Condvar::new(), handle }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the end of a copy, unless a reset came in between.
    pub(super) fn ended(&self, state: &mut State, job: &Job, generation: u64, errno: u32) {
        if state.generation != generation {
            return;
        }
        state.registers.ended(errno);
        if job.interrupt {
            self.set_pin(state, true);
        }
    }

    pub(super) fn set_pin(&self, state: &mut State, up: bool) {
        if up != state.pin {
            state.pin = up;
            self.handle.intx().set(up);
        }
    }

    /// All as after power-on.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.drop_work();
        state.registers = Registers::new();
        state.pin = false;
        self.handle.intx().lower();
    }
}
