//! Interrupts: the eventfds that the client gave, and what is held back.

use std::ffi::c_int;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use vfu::raw::{Distrust, Event};
use vfu::wire::{IrqAction, IrqData, SetIrqs};

use crate::ctx::{Context, context, lock};
use crate::errno::{EINVAL, ENOENT, entry};
use crate::msix::Table;
use crate::setup::{IRQ_TYPES, IrqCounts, irq_type};
use crate::types::Ctx;

pub(crate) const INTX: usize = 0;
pub(crate) const MSI: usize = 1;
pub(crate) const MSIX: usize = 2;

/// All vectors of a device.
#[derive(Default)]
pub(crate) struct Irqs {
    state: Mutex<State>,
    /// The library keeps what is masked.
    keeps: AtomicBool,
}

#[derive(Default)]
pub(crate) struct State {
    vectors: [Vec<Vector>; IRQ_TYPES],
    /// The type that a device's interrupt goes to.
    in_use: usize,
    keeps: bool,
    /// All of MSI-X is masked: Function Mask.
    pub(crate) function_mask: bool,
    /// The MSI-X table, if the library answers for it.
    pub(crate) table: Table,
    /// Of the eventfds of this session.
    distrust: Distrust,
}

#[derive(Default)]
pub(crate) struct Vector {
    event: Option<Event>,
    /// By SET_IRQS.
    masked: bool,
    pub(crate) pending: bool,
}

impl State {
    fn is_masked(&self, index: usize, number: usize) -> bool {
        let by_client = self.vectors[index].get(number).is_some_and(|vector| vector.masked);
        let by_table = index == MSIX && (self.function_mask || self.table.is_masked(number));
        self.keeps && (by_client || by_table)
    }

    /// The eventfd of a vector.
    fn event(&self, index: usize, number: usize) -> Result<&Event, c_int> {
        self.vectors[index].get(number).ok_or(EINVAL)?.event.as_ref().ok_or(ENOENT)
    }

    /// The type of a vector, which the client listens to: this one, or else the one that it uses.
    fn find(&self, index: Option<usize>, number: usize) -> Result<usize, c_int> {
        if let Some(index) = index {
            return self.event(index, number).map(|_| index);
        }
        let most = self.vectors.iter().map(Vec::len).max().unwrap_or(0);
        if number >= most {
            return Err(EINVAL);
        }
        // A vector of another type's number has no eventfd.
        self.event(self.in_use, number).map(|_| self.in_use).map_err(|_| ENOENT)
    }

    fn raise(&mut self, index: usize, number: usize) -> Result<(), c_int> {
        let event = self.event(index, number)?;
        if self.is_masked(index, number) {
            self.vectors[index][number].pending = true;
            return Ok(());
        }
        event.signal().map_err(vfu::wire::Errno::raw)
    }

    /// Raises what was kept and is masked no more.
    pub(crate) fn settle(&mut self) {
        for index in [INTX, MSI, MSIX] {
            for number in 0..self.vectors[index].len() {
                if self.vectors[index][number].pending && !self.is_masked(index, number) {
                    self.vectors[index][number].pending = false;
                    let _no_longer_there = self.raise(index, number);
                }
            }
        }
    }

    /// Which vectors of MSI-X wait, from vector `8 * byte` on.
    pub(crate) fn pending_bits(&self, byte: usize) -> u8 {
        let vectors = self.vectors[MSIX].iter().skip(byte.saturating_mul(8)).take(8);
        vectors.enumerate().fold(0, |bits, (i, vector)| bits | u8::from(vector.pending) << i)
    }

    /// Sees which type a device's interrupt goes to: what the client has given eventfds.
    fn look(&mut self) {
        let used = |index: &usize| self.vectors[*index].iter().any(|v| v.event.is_some());
        self.in_use = [MSIX, MSI].into_iter().find(used).unwrap_or(INTX);
    }
}

impl Irqs {
    pub(crate) fn resize(&self, counts: &IrqCounts) {
        let mut state = lock(&self.state);
        for (vectors, count) in state.vectors.iter_mut().zip(counts.0) {
            vectors.resize_with(count as usize, Vector::default);
        }
        state.look();
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut lock(&self.state))
    }

    /// From now on what is masked is kept.
    pub(crate) fn keep_masked(&self) {
        lock(&self.state).keeps = true;
        self.keeps.store(true, Ordering::Release);
    }

    pub(crate) fn keeps_masked(&self) -> bool {
        self.keeps.load(Ordering::Acquire)
    }

    /// The client has gone, and its eventfds with it.
    pub(crate) fn clear(&self) {
        let mut state = lock(&self.state);
        for vector in state.vectors.iter_mut().flatten() {
            *vector = Vector::default();
        }
        state.look();
        state.table = Table::default();
        state.distrust = Distrust::default();
    }

    /// A reset: nothing is kept any more.
    pub(crate) fn forget(&self) {
        let mut state = lock(&self.state);
        state.vectors.iter_mut().flatten().for_each(|vector| vector.pending = false);
        state.table = Table::default();
    }

    /// Checks what SET_IRQS asks for, and does it, but for masks of which the program is told.
    pub(crate) fn set(&self, request: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), c_int> {
        let index = irq_type(c_int::try_from(request.index).map_err(|_| EINVAL)?)?;
        let mut state = lock(&self.state);
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
                let event = |fd| Event::new(fd, &state.distrust);
                let events = fds.into_iter().map(event).collect::<Result<Vec<_>, _>>();
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
        state.look();
        Ok(())
    }
}

impl Context {
    /// Raises an interrupt, but not before the data that it announces is written: DMA that nobody
    /// waits for may still be under way.
    fn raise(&self, index: Option<usize>, number: usize) -> Result<(), c_int> {
        let raise = move |state: &mut State| {
            let index = state.find(index, number)?;
            state.raise(index, number)
        };
        if !self.moves.load(Ordering::Acquire) {
            return self.irqs.with(raise);
        }
        self.irqs.with(|state| state.find(index, number))?;
        let irqs = self.irqs.clone();
        self.station().after_writes(move || {
            let _no_longer_there = irqs.with(raise);
        });
        Ok(())
    }

    pub(crate) fn set_irqs(&self, request: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), c_int> {
        self.irqs.set(request, fds)?;
        if request.action == IrqAction::Trigger {
            return Ok(());
        }
        let callback = self.setup().irq_state.get(request.index as usize).copied().flatten();
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
    entry(-1, || {
        let ctx = context!(ctx);
        ctx.raise(None, vector as usize).map(|()| 0)
    })
}

/// Raises a vector of any type.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_irq_raise(ctx: *mut Ctx, index: c_int, vector: u32) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        ctx.raise(Some(irq_type(index)?), vector as usize).map(|()| 0)
    })
}
