//! The thread that computes and copies, so that the handler never waits.

use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread;

use tracing::{error, warn};
use vfu::DmaError;

use super::BUFFER_SIZE;
use super::registers::Transfer;
use super::state::{Shared, State};
use crate::pause::Pause;

const NO_THREAD: &str = "edu: can't start a thread; what it had to do has failed";
const FAILED: &str = "edu: DMA failed";

/// Has the worker look at the state, and starts it if this is the first time.
pub(super) fn wake(shared: &Arc<Shared>, state: &mut State) {
    if state.worker {
        shared.work.notify_one();
        return;
    }
    match spawn(shared.clone()) {
        Ok(()) => state.worker = true,
        // The driver must not wait for ever.
        Err(error) => {
            if let Some(kept) = shared.handle.seldom(NO_THREAD) {
                error!(%error, "{NO_THREAD}{kept}");
            }
            let compute = state.compute.take().map(factorial);
            let interrupt = compute.is_some_and(|result| state.registers.computed(result))
                | (state.copy.take().is_some() && state.registers.copied());
            if interrupt {
                shared.interrupt(state);
            }
        }
    }
}

/// As [`wake`], if there is something to do.
pub(super) fn wake_if_due(shared: &Arc<Shared>, state: &mut State) {
    if state.compute.is_some() || state.copy.is_some() {
        wake(shared, state);
    }
}

fn spawn(shared: Arc<Shared>) -> io::Result<()> {
    let builder = thread::Builder::new().name("edu".into()).stack_size(256 << 10);
    builder.spawn(move || run(&shared)).map(drop)
}

fn run(shared: &Shared) {
    let mut state = shared.lock();
    while !state.stop {
        if !state.pause.may_work() {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        } else if let Some(n) = state.compute.take() {
            state = compute(shared, state, n);
        } else if let Some(transfer) = state.copy.take() {
            state = copy(shared, state, &transfer);
        } else {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn compute<'a>(
    shared: &'a Shared,
    mut state: MutexGuard<'a, State>,
    n: u32,
) -> MutexGuard<'a, State> {
    let generation = state.generation;
    state.pause.begin();
    drop(state);
    let result = factorial(n);
    let mut state = shared.lock();
    state.pause.end();
    shared.ended.notify_all();
    if state.generation == generation && state.registers.computed(result) {
        shared.interrupt(&mut state);
    }
    state
}

/// Moves the bytes without holding the lock: the driver may read registers, or reset the device,
/// while a peer takes its time.
fn copy<'a>(
    shared: &'a Shared,
    mut state: MutexGuard<'a, State>,
    transfer: &Transfer,
) -> MutexGuard<'a, State> {
    let generation = state.generation;
    let mut data = *state.buffer;
    let tries = state.pause.begin();
    drop(state);
    let result = move_bytes(shared, transfer, &mut data);
    let mut state = shared.lock();
    state.pause.end();
    shared.ended.notify_all();
    if state.generation != generation {
        return state;
    }
    match result {
        Ok(()) => *state.buffer = data,
        Err(error) if Pause::is_refusal(&error, &shared.handle) => {
            state.pause.refused(tries);
            state.copy = Some(transfer.clone());
            return state;
        }
        Err(error) => {
            if let Some(kept) = shared.handle.seldom(FAILED) {
                let (address, len) = (transfer.ram, transfer.buffer.len());
                warn!(address, len, %error, "{FAILED}{kept}");
            }
        }
    }
    if state.registers.copied() {
        shared.interrupt(&mut state);
    }
    state
}

fn move_bytes(
    shared: &Shared,
    transfer: &Transfer,
    data: &mut [u8; BUFFER_SIZE],
) -> Result<(), DmaError> {
    let piece = &mut data[transfer.buffer.clone()];
    match transfer.to_ram {
        _ if piece.is_empty() => Ok(()),
        true => shared.handle.dma().write(transfer.ram, piece),
        false => shared.handle.dma().read(transfer.ram, piece),
    }
}

/// n! modulo 2^32, which is 0 from 34! on.
pub(super) fn factorial(n: u32) -> u32 {
    (1..=n.min(34)).fold(1, u32::wrapping_mul)
}
