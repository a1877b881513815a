//! Moving the device: work that has begun goes with it.

use std::sync::PoisonError;

use vfu::migration::{LoadError, Migration, State as _, StateError};
use vfu::wire::Errno;

use super::state::{Shared, State};
use super::{BUFFER_SIZE, Edu};

vfu::state! { State { registers, buffer, compute, copy, pin } }

impl Migration for Edu {
    /// Room for the buffer a few times, should it change.
    fn max_len(&self) -> usize {
        64 << 10
    }

    /// A factorial is computed to its end; DMA has ended, or is begun anew by whoever goes on.
    fn stop(&mut self) -> Result<(), Errno> {
        let mut state = self.shared.lock();
        state.pause.stop();
        while state.pause.is_busy() {
            state = self.shared.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), Errno> {
        let mut state = self.shared.lock();
        state.pause.start();
        super::worker::wake_if_due(&self.shared, &mut state);
        Ok(())
    }

    fn begin_saving(&mut self) {
        self.shared.lock().buffer.begin_saving();
    }

    fn can_pre_copy(&self) -> bool {
        true
    }

    fn save_early(&mut self) -> Vec<u8> {
        self.shared.lock().buffer.send_ahead()
    }

    fn load_early(&mut self, _: u32, bytes: &[u8]) -> Result<(), LoadError> {
        Ok(self.shared.lock().buffer.arrived(bytes)?)
    }

    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        Ok(self.shared.lock().to_state())
    }

    fn load(&mut self, version: u32, bytes: &[u8]) -> Result<(), LoadError> {
        Ok(load(&self.shared, version, bytes)?)
    }
}

fn load(shared: &Shared, version: u32, bytes: &[u8]) -> Result<(), StateError> {
    let mut state = shared.lock();
    state.pause.stop();
    let mask = state.registers.dma_mask;
    let loaded = state.load_state(version, bytes);
    let saved = std::mem::replace(&mut state.registers.dma_mask, mask);
    let checked = loaded.and_then(|()| {
        if saved != mask {
            let why = format!("the device had the DMA mask {saved:#x}, here it is {mask:#x}");
            return Err(StateError::Value(why));
        }
        check(&state)
    });
    if checked.is_err() {
        // Nothing of it is worked on.
        state.drop_work();
    }
    checked
}

/// Work that is due is work that the registers show, inside the buffer and the mask.
fn check(state: &State) -> Result<(), StateError> {
    let registers = &state.registers;
    if registers.is_computing() != state.compute.is_some()
        || registers.is_running() != state.copy.is_some()
    {
        return Err(StateError::value("the registers show other work than there is"));
    }
    match &state.copy {
        Some(copy)
            if copy.buffer.start > copy.buffer.end
                || copy.buffer.end > BUFFER_SIZE
                || copy.ram & !registers.dma_mask != 0 =>
        {
            Err(StateError::value("DMA beyond the buffer or the mask"))
        }
        _ => Ok(()),
    }
}
