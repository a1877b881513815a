//! The vectors of a device, what holds them back, and what fires them.

use std::ops::Range;
use std::sync::PoisonError;
use std::time::Duration;

use super::eventfd::EventFd;
use super::gates::Gates;
use super::msix::Table;
use super::pace::{Coalescing, Pace, Verdict};
use super::rescue::Distrust;
use super::{IrqError, IrqIndex};
use crate::pci::{ConfigSpace, MsixState};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Instant, Mutex, MutexGuard};

/// All interrupts of a device.
///
/// Whoever needs its lock and that of configuration space takes this one first.
#[derive(Debug)]
pub(crate) struct Irqs {
    state: Mutex<State>,
    /// The level that the device has last asked for; the pin may follow a little later.
    wanted: AtomicBool,
    /// Where the MSI-X Table and the Pending Bit Array are, if there are any.
    pub(super) msix: Option<MsixState>,
    /// Where time is counted from.
    origin: Instant,
}

#[derive(Debug)]
pub(super) struct State {
    /// By index, then by vector.
    pub(super) vectors: [Vec<Vector>; 5],
    /// The level of the pin.
    pub(super) pin: bool,
    /// The device is stopped: interrupts wait until it is started.
    pub(super) stopped: bool,
    gates: Gates,
    /// Whether MSI Enable and MSI-X Enable say if these are in use, by index. They do once one has been
    /// set: some clients have eventfds and nothing else.
    governed: [bool; 5],
    /// The MSI-X Table, if there is MSI-X.
    pub(super) table: Option<Table>,
    /// Of the eventfds of this session.
    pub(super) distrust: Distrust,
}

#[derive(Debug, Default)]
pub(super) struct Vector {
    pub(super) eventfd: Option<EventFd>,
    /// Masked by DEVICE_SET_IRQS; INTx masks itself.
    pub(super) masked: bool,
    /// Raised while it was held back.
    pub(super) pending: bool,
    /// Raised while it was not, but too soon.
    pub(super) pace: Pace,
}

impl Vector {
    /// Writes the eventfd.
    pub(super) fn signal(&self) -> Result<(), IrqError> {
        let eventfd = self.eventfd.as_ref().ok_or(IrqError::NotEnabled)?;
        eventfd.signal().map_err(|_| IrqError::Eventfd)
    }

    fn forget(&mut self) {
        self.pending = false;
        self.pace.take_held();
    }
}

/// The interrupts that have no level.
const EDGES: [IrqIndex; 4] = [IrqIndex::Msi, IrqIndex::Msix, IrqIndex::Err, IrqIndex::Req];

impl Irqs {
    /// The interrupts of a device with this configuration space.
    pub(crate) fn of(config: &ConfigSpace) -> Self {
        let counts = [
            u32::from(config.interrupt_pin().is_some()),
            config.msi().map_or(0, |msi| msi.vectors_supported.into()),
            config.msix().map_or(0, |msix| msix.vectors.into()),
            1,
            1,
        ];
        Irqs::new(counts, config.msix())
    }

    /// A device with so many vectors of each type.
    pub(super) fn new(counts: [u32; 5], msix: Option<MsixState>) -> Self {
        let state = State {
            vectors: counts.map(|n| (0..n).map(|_| Vector::default()).collect()),
            pin: false,
            stopped: false,
            gates: Gates::default(),
            governed: [false; 5],
            table: msix.map(|msix| Table::new(msix.vectors)),
            distrust: Distrust::default(),
        };
        let (state, wanted) = (Mutex::new(state), AtomicBool::new(false));
        Irqs { state, wanted, msix, origin: Instant::now() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// How many vectors a type has.
    pub(crate) fn count(&self, index: IrqIndex) -> u32 {
        self.lock().vectors[index as usize].len() as u32
    }

    /// MSI-X or MSI, if the driver uses one of them, and how many vectors of it.
    pub(crate) fn messages(&self) -> Option<(IrqIndex, u32)> {
        let state = self.lock();
        let index = state.message_index()?;
        Some((index, state.granted(index) as u32))
    }

    /// Raises a message. Gives the time after which [`flush`](Self::flush) has something to do.
    pub(super) fn raise_message(
        &self,
        vector: u32,
        may_master: bool,
    ) -> Result<Option<Duration>, IrqError> {
        let mut state = self.lock();
        let (index, vector) = state.find_message(vector, may_master)?;
        let granted = state.granted(index);
        let shared = if vector < granted { vector } else { vector % granted };
        state.raise(index, shared, || self.now())
    }

    /// Whether a message could be raised.
    pub(super) fn check_message(&self, vector: u32, may_master: bool) -> Result<(), IrqError> {
        self.lock().find_message(vector, may_master).map(drop)
    }

    /// Raises ERR or REQ.
    pub(super) fn raise_notice(&self, index: IrqIndex) -> Result<(), IrqError> {
        let mut state = self.lock();
        let vector = state.find(index, 0)?;
        state.raise(index, vector, || self.now()).map(drop)
    }

    /// Signals what has been held for long enough. Gives the time after which there is more to do.
    pub(super) fn flush(&self) -> Option<Duration> {
        let mut state = self.lock();
        let now = self.now();
        for index in EDGES {
            state.settle(index, 0..usize::MAX, now);
        }
        let vectors = state.vectors.iter().flatten();
        let next = vectors.filter_map(|vector| vector.pace.due()).min()?;
        Some(next.saturating_sub(now))
    }

    /// How often vectors of a message signal at most; `None` chooses all.
    pub(crate) fn coalesce(&self, vector: Option<u32>, rule: Option<Coalescing>) {
        let mut state = self.lock();
        let now = self.now();
        for index in [IrqIndex::Msi, IrqIndex::Msix] {
            let vectors = state.vectors[index as usize].iter_mut().enumerate();
            for (_, chosen) in vectors.filter(|(i, _)| vector.is_none_or(|v| v as usize == *i)) {
                // What was held by the old rule is signalled, and the next one too.
                chosen.pending |= chosen.pace.take_held();
                chosen.pace = Pace::new(rule);
            }
            state.settle(index, 0..usize::MAX, now);
        }
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

    /// Does what configuration space says, which `read` reads: raises what has become free, and
    /// forgets what was pending of a type that is no longer enabled.
    pub(crate) fn configure(&self, read: impl FnOnce() -> Gates) {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.gates, read());
        for index in [IrqIndex::Msi, IrqIndex::Msix] {
            let enabled = state.gates.enabled(index);
            if before.enabled(index) && !enabled {
                state.vectors[index as usize].iter_mut().for_each(Vector::forget);
            }
            state.governed[index as usize] |= enabled;
        }
        state.settle_all(self.now());
    }

    /// The Pending Bits of MSI.
    pub(crate) fn msi_pending(&self) -> u32 {
        let state = self.lock();
        let count = state.vectors[IrqIndex::Msi as usize].len().min(32);
        (0..count).fold(0, |bits, vector| {
            bits | u32::from(state.is_pending(IrqIndex::Msi, vector)) << vector
        })
    }

    /// Everything as at power-on, but for what the client has arranged: a reset took the pin down.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        self.want_pin(false);
        state.pin = false;
        state.gates = Gates::default();
        state.governed = [false; 5];
        state.vectors.iter_mut().flatten().for_each(Vector::forget);
        if let Some(table) = &mut state.table {
            table.reset();
        }
    }

    /// The client has gone: all its eventfds are closed.
    pub(crate) fn disconnect(&self) {
        let mut state = self.lock();
        for index in IrqIndex::ALL {
            state.disable(index);
            state.vectors[index as usize].iter_mut().for_each(Vector::forget);
            state.governed[index as usize] = state.gates.enabled(index);
        }
        if let Some(table) = &mut state.table {
            table.disconnect();
        }
        state.distrust = Distrust::default();
    }
}

impl State {
    /// The place of a vector, if it exists.
    fn find(&self, index: IrqIndex, vector: u32) -> Result<usize, IrqError> {
        let count = self.vectors[index as usize].len();
        let found = (vector as usize) < count;
        let count = count as u32;
        if found { Ok(vector as usize) } else { Err(IrqError::NoSuchVector { vector, count }) }
    }

    /// Whether the driver uses MSI or MSI-X: it is enabled, or has an eventfd if the client never
    /// enables it.
    fn in_use(&self, index: IrqIndex) -> bool {
        match index {
            IrqIndex::Msi | IrqIndex::Msix if self.governed[index as usize] => {
                self.gates.enabled(index)
            }
            IrqIndex::Msi | IrqIndex::Msix => {
                self.vectors[index as usize].iter().any(|vector| vector.eventfd.is_some())
            }
            IrqIndex::Intx | IrqIndex::Err | IrqIndex::Req => true,
        }
    }

    fn message_index(&self) -> Option<IrqIndex> {
        [IrqIndex::Msix, IrqIndex::Msi].into_iter().find(|index| self.in_use(*index))
    }

    /// The place of a message.
    fn find_message(&self, vector: u32, may_master: bool) -> Result<(IrqIndex, usize), IrqError> {
        let index = self.message_index().ok_or(IrqError::NotEnabled)?;
        if !may_master {
            return Err(IrqError::BusMasterDisabled);
        }
        Ok((index, self.find(index, vector)?))
    }

    /// How many vectors the driver has granted, at least 1. Software may grant fewer MSI vectors than
    /// the function has asked for, and the function must do with them (PCI 6.8.1.3, Multiple Message
    /// Enable): its vectors then share those, by the low bits of their numbers.
    fn granted(&self, index: IrqIndex) -> usize {
        let vectors = &self.vectors[index as usize];
        let granted = match self.gates.msi.filter(|msi| msi.enabled) {
            _ if index != IrqIndex::Msi => vectors.len(),
            Some(msi) => msi.vectors_enabled.into(),
            None => {
                let assigned = vectors.iter().take_while(|vector| vector.eventfd.is_some()).count();
                assigned.checked_ilog2().map_or(1, |log2| 1 << log2)
            }
        };
        granted.clamp(1, vectors.len().max(1))
    }

    /// Whether something other than coalescing holds a vector back.
    fn is_held(&self, index: IrqIndex, number: usize) -> bool {
        let Some(vector) = self.vectors[index as usize].get(number) else { return true };
        if self.stopped || vector.masked {
            return true;
        }
        match index {
            IrqIndex::Msi | IrqIndex::Msix => {
                let table = self.table.as_ref().filter(|_| index == IrqIndex::Msix);
                vector.eventfd.is_none()
                    || !self.gates.master
                    || !self.in_use(index)
                    || self.gates.mask(index, number)
                    || table.is_some_and(|table| table.masks(number))
            }
            IrqIndex::Intx | IrqIndex::Err | IrqIndex::Req => false,
        }
    }

    /// Whether a vector was raised and is held back.
    pub(super) fn is_pending(&self, index: IrqIndex, number: usize) -> bool {
        let vector = self.vectors[index as usize].get(number);
        vector.is_some_and(|vector| vector.pending)
    }

    /// Raises a vector, and keeps it if it is held back. The eventfd is written under the lock: it
    /// can't be closed meanwhile.
    fn raise(
        &mut self,
        index: IrqIndex,
        number: usize,
        now: impl Fn() -> Duration,
    ) -> Result<Option<Duration>, IrqError> {
        let held = self.is_held(index, number);
        let Some(vector) = self.vectors[index as usize].get_mut(number) else {
            return Err(IrqError::NotEnabled);
        };
        if held {
            vector.pending = true;
            return Ok(None);
        }
        if vector.pace.rule.is_some() {
            let now = now();
            if let Verdict::At(until) = vector.pace.raise(now) {
                return Ok(Some(until.saturating_sub(now)));
            }
        }
        vector.signal().map(|()| None)
    }

    /// Raises those of a range that are pending and no longer held back, or that have been coalesced
    /// for long enough. What is coalesced and held back is pending from then on.
    pub(super) fn settle(&mut self, index: IrqIndex, range: Range<usize>, now: Duration) {
        let end = range.end.min(self.vectors[index as usize].len());
        for number in range.start..end {
            let vector = &self.vectors[index as usize][number];
            if !vector.pending && !vector.pace.holds() {
                continue;
            }
            let held = self.is_held(index, number);
            let vector = &mut self.vectors[index as usize][number];
            if held {
                vector.pending |= vector.pace.take_held();
            } else if vector.pending || vector.pace.due().is_some_and(|due| due <= now) {
                vector.pending = false;
                vector.pace.signalled(now);
                let _not_assigned_or_broken = vector.signal();
            }
        }
    }

    pub(super) fn settle_all(&mut self, now: Duration) {
        for index in EDGES {
            self.settle(index, 0..usize::MAX, now);
        }
        self.signal_pin();
    }

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
        let held = self.stopped || self.gates.hold_pin();
        let Some(vector) = self.vectors[0].first_mut() else { return };
        if self.pin && !held && !vector.masked && vector.signal().is_ok() {
            vector.masked = true;
        }
    }

    /// All eventfds of a type are closed. What is pending stays if configuration space has the type
    /// enabled still: some clients do this to change a few of the eventfds.
    pub(super) fn disable(&mut self, index: IrqIndex) {
        let enabled = self.gates.enabled(index);
        for vector in &mut self.vectors[index as usize] {
            vector.eventfd = None;
            vector.masked = false;
            vector.pending |= vector.pace.take_held();
            vector.pending &= enabled;
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
