//! What the handlers and the thread share. No lock is held while a copy runs: handlers are called
//! meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vfu::Handle;

use super::registers::{Job, Registers};
use crate::pause::Pause;

#[derive(Debug)]
pub(super) struct Inner {
    state: Mutex<State>,
    /// There is work, or an end of it.
    pub(super) work: Condvar,
    /// The thread has come to an end of something.
    pub(super) ended: Condvar,
    pub(super) handle: Handle,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) registers: Registers,
    /// Copies that wait for the thread.
    pub(super) waiting: VecDeque<Work>,
    /// Copies inside handlers, the oldest first.
    pub(super) inside: BTreeMap<u64, Work>,
    entered: u64,
    /// Counts resets: what was begun before one must not end after it.
    pub(super) generation: u64,
    /// The thread exists.
    pub(super) worker: bool,
    /// The device is gone.
    pub(super) stop: bool,
    /// The level of the pin.
    pub(super) pin: bool,
    pub(super) pause: Pause,
}

/// A copy on its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Work {
    pub(super) job: Job,
    /// What is to be written, once it has been read.
    pub(super) bytes: Option<Vec<u8>>,
}

impl From<Job> for Work {
    fn from(job: Job) -> Work {
        Work { job, bytes: None }
    }
}

impl State {
    /// Notes that a handler copies.
    pub(super) fn enter(&mut self, job: Job) -> u64 {
        self.entered += 1;
        self.inside.insert(self.entered, job.into());
        self.entered
    }

    /// Forgets copies that wait, and what comes of those that run.
    pub(super) fn drop_work(&mut self) {
        self.waiting.clear();
        self.inside.clear();
        self.generation = self.generation.wrapping_add(1);
    }
}

impl Inner {
    pub(super) fn new(handle: Handle) -> Self {
        let state = State {
            registers: Registers::new(),
            waiting: VecDeque::new(),
            inside: BTreeMap::new(),
            entered: 0,
            generation: 0,
            worker: false,
            stop: false,
            pin: false,
            pause: Pause::default(),
        };
        let (work, ended) = (Condvar::new(), Condvar::new());
        Inner { state: Mutex::new(state), work, ended, handle }
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
        state.registers.reset();
        state.pin = false;
        state.pause.start();
        self.handle.intx().lower();
    }
}
