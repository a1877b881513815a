//! The vectors of a device, as DEVICE_SET_IRQS arranges them.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;

use tracing::debug;
use vfu_proto::wire::{Errno, IrqAction, IrqData, SetIrqs};

use super::eventfd::EventFd;
use super::{IrqError, IrqIndex};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// All interrupts of a device.
#[derive(Debug)]
pub(crate) struct Irqs {
    state: Mutex<State>,
    /// The level that the device has last asked for; the pin may follow a little later.
    wanted: AtomicBool,
}

#[derive(Debug)]
pub(super) struct State {
    /// By index, then by vector.
    pub(super) vectors: [Vec<Vector>; 5],
    /// The level of the pin.
    pub(super) pin: bool,
    /// Interrupt Disable of the Command register.
    pin_disabled: bool,
    /// The device is stopped: interrupts wait until it is started.
    pub(super) stopped: bool,
}

#[derive(Debug, Default)]
pub(super) struct Vector {
    eventfd: Option<EventFd>,
    pub(super) masked: bool,
    /// Raised while masked.
    pub(super) pending: bool,
}

impl Vector {
    pub(super) fn fire(&mut self) -> Result<(), IrqError> {
        if self.masked {
            self.pending = true;
            return Ok(());
        }
        let eventfd = self.eventfd.as_ref().ok_or(IrqError::NotEnabled)?;
        eventfd.signal().map_err(|_| IrqError::Eventfd)
    }
}

impl Irqs {
    /// A device with so many vectors of each type.
    pub(crate) fn new(counts: [u32; 5]) -> Self {
        let vectors = counts.map(|n| (0..n).map(|_| Vector::default()).collect());
        let state = State { vectors, pin: false, pin_disabled: false, stopped: false };
        Irqs { state: Mutex::new(state), wanted: AtomicBool::new(false) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many vectors a type has.
    pub(crate) fn count(&self, index: IrqIndex) -> u32 {
        self.lock().vectors[index as usize].len() as u32
    }

    /// MSI-X or MSI, if the client has given any of its vectors an eventfd.
    pub(crate) fn message_index(&self) -> Option<IrqIndex> {
        let state = self.lock();
        [IrqIndex::Msix, IrqIndex::Msi]
            .into_iter()
            .find(|i| state.vectors[*i as usize].iter().any(|v| v.eventfd.is_some()))
    }

    /// Raises a vector. The eventfd is written under the lock: it can't be closed meanwhile.
    pub(crate) fn trigger(&self, index: IrqIndex, vector: u32) -> Result<(), IrqError> {
        let mut state = self.lock();
        let stopped = state.stopped;
        let vectors = &mut state.vectors[index as usize];
        let count = vectors.len() as u32;
        let vector =
            vectors.get_mut(vector as usize).ok_or(IrqError::NoSuchVector { vector, count })?;
        if stopped {
            vector.pending = true;
            return Ok(());
        }
        vector.fire()
    }

    /// The device asks for a level of the pin.
    pub(super) fn want_pin(&self, up: bool) {
        self.wanted.store(up, Ordering::SeqCst);
    }

    /// Brings the pin to a level, and `status`, the bit that shows it, unless the device has asked
    /// for the other level meanwhile: then whoever asked for that does it.
    pub(super) fn follow_pin(&self, up: bool, status: impl FnOnce(bool)) {
        let mut state = self.lock();
        if self.wanted.load(Ordering::SeqCst) == up {
            status(up);
            state.set_pin(up);
        }
    }

    /// The level that the device wants, and the pin's.
    #[cfg(all(test, loom))]
    pub(super) fn levels(&self) -> (bool, bool) {
        (self.wanted.load(Ordering::SeqCst), self.lock().pin)
    }

    /// Interrupt Disable has changed.
    pub(crate) fn disable_pin(&self, disabled: bool) {
        let mut state = self.lock();
        state.pin_disabled = disabled;
        state.signal_pin();
    }

    /// Does what DEVICE_SET_IRQS asks for (specification, "VFIO_USER_DEVICE_SET_IRQS").
    ///
    /// # Errors
    /// `EINVAL`: a range beyond the vectors, a wrong number of descriptors, or one that is no
    /// eventfd. Nothing has changed then.
    pub(crate) fn set(&self, request: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let index = IrqIndex::from_u32(request.index).ok_or(Errno::EINVAL)?;
        let mut state = self.lock();
        let count = state.vectors[index as usize].len();
        let disable = request.action == IrqAction::Trigger
            && request.data == IrqData::None
            && request.count == 0;
        let start = request.start as usize;
        let end = start.checked_add(request.count as usize).ok_or(Errno::EINVAL)?;
        if end > count || (start >= count && !disable) || (start > 0 && disable) {
            return Err(Errno::EINVAL);
        }
        if !fds.is_empty() && request.data != IrqData::EventFd {
            return Err(Errno::EINVAL);
        }
        if matches!(index, IrqIndex::Err | IrqIndex::Req) && request.action != IrqAction::Trigger {
            return Err(Errno::EINVAL);
        }
        match (request.action, request.data) {
            (IrqAction::Trigger, IrqData::None) if disable => state.disable(index),
            (IrqAction::Trigger, IrqData::EventFd) => state.assign(index, start..end, fds)?,
            (IrqAction::Trigger, data) => {
                for vector in chosen(&mut state.vectors[index as usize][start..end], data) {
                    let _not_enabled = vector.fire();
                }
            }
            (IrqAction::Mask, data) => {
                for vector in chosen(&mut state.vectors[index as usize][start..end], data) {
                    vector.masked = true;
                }
            }
            (IrqAction::Unmask, data) => {
                let stopped = state.stopped;
                for vector in chosen(&mut state.vectors[index as usize][start..end], data) {
                    vector.masked = false;
                    if index == IrqIndex::Intx {
                        vector.pending = false;
                    } else if !stopped && std::mem::take(&mut vector.pending) {
                        let _not_enabled = vector.fire();
                    }
                }
                state.signal_pin();
            }
        }
        Ok(())
    }

    /// Everything as at power-on, but for what the client has arranged: a reset took the pin down.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        self.want_pin(false);
        state.pin = false;
        state.pin_disabled = false;
        for vector in state.vectors.iter_mut().flatten() {
            vector.pending = false;
        }
    }

    /// The client has gone: all its eventfds are closed.
    pub(crate) fn disconnect(&self) {
        let mut state = self.lock();
        for index in IrqIndex::ALL {
            state.disable(index);
        }
    }
}

impl State {
    fn set_pin(&mut self, up: bool) {
        let rises = up && !self.pin;
        self.pin = up;
        if rises {
            self.signal_pin();
        } else if !up {
            if let Some(vector) = self.vectors[0].first_mut() {
                vector.pending = false;
            }
        }
    }

    /// Tells the client of the pin, if it is up and nothing holds it back. The pin then masks
    /// itself (AUTOMASKED): the client hears of it again after it has unmasked it.
    pub(super) fn signal_pin(&mut self) {
        let Some(vector) = self.vectors[0].first_mut() else { return };
        let held = self.stopped || self.pin_disabled || vector.masked;
        if self.pin && !held && vector.fire().is_ok() {
            vector.masked = true;
        }
    }

    fn disable(&mut self, index: IrqIndex) {
        for vector in &mut self.vectors[index as usize] {
            *vector = Vector::default();
        }
    }

    fn assign(
        &mut self,
        index: IrqIndex,
        range: std::ops::Range<usize>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Errno> {
        if fds.is_empty() {
            for vector in &mut self.vectors[index as usize][range] {
                vector.eventfd = None;
            }
            return Ok(());
        }
        if fds.len() != range.len() {
            return Err(Errno::EINVAL);
        }
        let eventfds = fds.into_iter().map(EventFd::new).collect::<Result<Vec<_>, _>>();
        let eventfds =
            eventfds.inspect_err(|_| debug!("SET_IRQS with something else than eventfds"))?;
        for (vector, eventfd) in self.vectors[index as usize][range].iter_mut().zip(eventfds) {
            vector.eventfd = Some(eventfd);
        }
        if index == IrqIndex::Intx {
            self.signal_pin();
        }
        Ok(())
    }
}

/// The vectors that the data picks: all, or those with a byte that is not zero.
fn chosen<'a>(
    vectors: &'a mut [Vector],
    data: IrqData<'a>,
) -> impl Iterator<Item = &'a mut Vector> {
    vectors.iter_mut().enumerate().filter_map(move |(i, vector)| match data {
        IrqData::Bool(bytes) => (bytes.get(i).copied().unwrap_or(0) != 0).then_some(vector),
        IrqData::None | IrqData::EventFd => Some(vector),
    })
}
