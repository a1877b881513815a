//! Moving the device: copies that have begun go with it.

use std::sync::{Arc, PoisonError};

use vfu::migration::{LoadError, Migration, State as _, StateError};
use vfu::wire::Errno;

use super::copy::wake_if_due;
use super::state::{Inner, State, Work};
use super::{MAX_LENGTH, MAX_WAITING};

/// Several copies inside handlers may have their bytes with them.
const MAX_STATE: usize = 8 << 20;

vfu::state! { Work { job, bytes } }
vfu::state! { State { registers, waiting, pin } }

/// What moves the device.
#[derive(Debug)]
pub(super) struct Mover(pub(super) Arc<Inner>);

impl Migration for Mover {
    fn max_len(&self) -> usize {
        MAX_STATE
    }

    /// The thread has nothing in hand after that. Copies inside handlers are ended, and what has been
    /// read of them is written by the thread of whoever goes on.
    fn stop(&mut self) -> Result<(), Errno> {
        let mut state = self.0.lock();
        state.pause.stop();
        while state.pause.is_busy() {
            state = self.0.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.inside.is_empty() {
            let inside = std::mem::take(&mut state.inside);
            inside.into_values().rev().for_each(|work| state.waiting.push_front(work));
            state.generation = state.generation.wrapping_add(1);
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), Errno> {
        let mut state = self.0.lock();
        state.pause.start();
        wake_if_due(&self.0, &mut state);
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        Ok(self.0.lock().to_state())
    }

    fn load(&mut self, version: u32, bytes: &[u8]) -> Result<(), LoadError> {
        let mut state = self.0.lock();
        state.pause.stop();
        state.drop_work();
        let checked = state.load_state(version, bytes).and_then(|()| check(&state));
        if checked.is_err() {
            state.drop_work();
        }
        Ok(checked?)
    }
}

fn check(state: &State) -> Result<(), StateError> {
    if !state.registers.are_possible() {
        return Err(StateError::value("these are no registers of dmatest"));
    }
    // Those of handlers come on top; they wait for each other, so there are few.
    if state.waiting.len() > 2 * MAX_WAITING {
        let why = format!("{} copies wait; at most {MAX_WAITING} can", state.waiting.len());
        return Err(StateError::Value(why));
    }
    let possible = |work: &Work| {
        let length = work.job.length;
        let read = work.bytes.as_ref().map_or(length as usize, Vec::len);
        length <= MAX_LENGTH && read == length as usize
    };
    if !state.waiting.iter().all(possible) {
        return Err(StateError::value(
            "a copy that is too long, or has other bytes than its length",
        ));
    }
    Ok(())
}
