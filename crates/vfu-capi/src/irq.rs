//! Interrupts: the eventfds that the client gave, and what is held back.

use std::ffi::c_int;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use vfu::raw::Event;
use vfu::wire::{IrqAction, IrqData, SetIrqs};

use crate::ctx::{Context, context, lock};
use crate::errno::{EINVAL, ENOENT, entry};
use crate::setup::{IRQ_TYPES, IrqCounts, irq_type};
use crate::types::Ctx;

pub(crate) const INTX: usize = 0;
pub(crate) const MSI: usize = 1;
pub(crate) const MSIX: usize = 2;

/// All vectors of a device.
#[derive(Default)]
pub(crate) struct Irqs(Mutex<State>);

#[derive(Default)]
pub(crate) struct State {
    vectors: [Vec<Vector>; IRQ_TYPES],
    /// The library keeps what is masked.
    pub(crate) masking: bool,
    /// All of MSI-X is masked: Function Mask.
    pub(crate) function_mask: bool,
}

#[derive(Default)]
pub(crate) struct Vector {
    event: Option<Event>,
    /// By SET_IRQS.
    masked: bool,
    /// By its entry of the MSI-X table.
    pub(crate) masked_in_table: bool,
    pub(crate) pending: bool,
}

impl State {
    fn is_masked(&self, index: usize, vector: &Vector) -> bool {
        self.masking
            && (vector.masked || index == MSIX && (vector.masked_in_table || self.function_mask))
    }

    fn raise(&mut self, index: usize, number: usize) -> Result<(), c_int> {
        let vector = self.vectors[index].get(number).ok_or(EINVAL)?;
        let event = vector.event.as_ref().ok_or(ENOENT)?;
        if self.is_masked(index, vector) {
            self.vectors[index][number].pending = true;
            return Ok(());
        }
        event.signal().map_err(vfu::wire::Errno::raw)
    }

    /// Raises what was kept and is masked no more.
    pub(crate) fn settle(&mut self) {
        for index in [INTX, MSI, MSIX] {
            for number in 0..self.vectors[index].len() {
                let vector = &self.vectors[index][number];
                if vector.pending && !self.is_masked(index, vector) {
                    self.vectors[index][number].pending = false;
                    let _no_longer_there = self.raise(index, number);
                }
            }
        }
    }

    /// The type that a device's interrupt goes to: what the client has given eventfds.
    fn in_use(&self) -> usize {
        let used = |index: &usize| self.vectors[*index].iter().any(|v| v.event.is_some());
        [MSIX, MSI].into_iter().find(used).unwrap_or(INTX)
    }
}

impl Irqs {
    pub(crate) fn resize(&self, counts: &IrqCounts) {
        let mut state = lock(&self.0);
        for (vectors, count) in state.vectors.iter_mut().zip(counts.0) {
            vectors.resize_with(count as usize, Vector::default);
        }
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut lock(&self.0))
    }

    /// The client has gone, and its eventfds with it.
    pub(crate) fn clear(&self) {
        let mut state = lock(&self.0);
        for vector in state.vectors.iter_mut().flatten() {
            *vector = Vector::default();
        }
    }

    /// A reset: nothing is kept any more.
    pub(crate) fn forget(&self) {
        lock(&self.0).vectors.iter_mut().flatten().for_each(|vector| vector.pending = false);
    }

    fn trigger(&self, number: u32) -> Result<(), c_int> {
        let mut state = lock(&self.0);
        let most = state.vectors.iter().map(Vec::len).max().unwrap_or(0);
        if number as usize >= most {
            return Err(EINVAL);
        }
        let index = state.in_use();
        // A vector of another type's number has no eventfd.
        state.raise(index, number as usize).map_err(|_| ENOENT)
    }

    /// Checks what SET_IRQS asks for, and does it, but for masks of which the program is told.
    pub(crate) fn set(&self, request: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), c_int> {
        let index = irq_type(request.index as c_int)?;
        let mut state = lock(&self.0);
        let count = state.vectors[index].len();
        let (start, end) =
            (request.start as usize, request.start as usize + request.count as usize);
        if end > count || (start >= count && !request.disables()) {
            return Err(EINVAL);
        }
        request.check_fds(fds.len()).map_err(vfu::wire::Errno::raw)?;
        let chosen = |i: usize| match request.data {
            IrqData::Bool(bytes) => bytes.get(i - start).is_some_and(|byte| *byte != 0),
            IrqData::None | IrqData::EventFd => true,
        };
        match (request.action, request.data) {
            (IrqAction::Trigger, _) if request.disables() => {
                state.vectors[index].iter_mut().for_each(|vector| *vector = Vector::default());
            }
            (IrqAction::Trigger, IrqData::EventFd) if fds.is_empty() => {
                state.vectors[index][start..end].iter_mut().for_each(|vector| vector.event = None);
            }
            (IrqAction::Trigger, IrqData::EventFd) => {
                let events = fds.into_iter().map(Event::new).collect::<Result<Vec<_>, _>>();
                let events = events.map_err(vfu::wire::Errno::raw)?;
                for (vector, event) in state.vectors[index][start..end].iter_mut().zip(events) {
                    vector.event = Some(event);
                }
            }
            (IrqAction::Trigger, _) => {
                for number in (start..end).filter(|i| chosen(*i)) {
                    let _no_eventfd = state.raise(index, number);
                }
            }
            // Clients are known that send all zeros for "all of them".
            (IrqAction::Mask | IrqAction::Unmask, _) => {
                let masked = request.action == IrqAction::Mask;
                state.vectors[index][start..end].iter_mut().for_each(|v| v.masked = masked);
                state.settle();
            }
        }
        Ok(())
    }
}

impl Context {
    pub(crate) fn set_irqs(&self, request: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), c_int> {
        self.irqs.set(request, fds)?;
        if request.action == IrqAction::Trigger {
            return Ok(());
        }
        let callback = self.setup().irq_state[irq_type(request.index as c_int)?];
        if let Some(callback) = callback {
            let masked = request.action == IrqAction::Mask;
            self.station().handle(|| {
                // SAFETY: the program's callback, called as the header says.
                unsafe { callback(self.as_ptr(), request.start, request.count, masked) };
            });
        }
        Ok(())
    }
}

/// Raises an interrupt, of the type that the client uses.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_irq_trigger(ctx: *mut Ctx, vector: u32) -> c_int {
    entry(-1, || context!(ctx).irqs.trigger(vector).map(|()| 0))
}

/// Raises a vector of any type.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_irq_raise(ctx: *mut Ctx, index: c_int, vector: u32) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let index = irq_type(index)?;
        ctx.irqs.with(|state| state.raise(index, vector as usize)).map(|()| 0)
    })
}
