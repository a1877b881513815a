//! The registers of one device: their values.

use std::sync::Arc;

use super::coverage::{Coverage, Uncovered};
use super::map::RegisterMap;
use super::spin::Spin;
use super::trace;

/// The values of a map's registers, and what is watched about accesses to them.
///
/// A register is asked for by the offset that it is declared at; an element of an array by its own
/// offset, or by the array's and its index.
#[derive(Clone, Debug)]
pub struct RegisterBank {
    pub(super) map: Arc<RegisterMap>,
    /// As long as the map's slots.
    pub(super) values: Box<[u64]>,
    pub(super) coverage: Coverage,
    pub(super) spin: Spin,
}

impl RegisterBank {
    /// All registers as after a reset.
    pub fn new(map: impl Into<Arc<RegisterMap>>) -> Self {
        let map = map.into();
        RegisterBank {
            values: map.reset_values().collect(),
            coverage: Coverage::new(),
            spin: Spin::new(map.spin_limit, map.slots.len()),
            map,
        }
    }

    /// The map that it was made from.
    pub fn map(&self) -> &Arc<RegisterMap> {
        &self.map
    }

    /// Sets all registers to their reset values. What was counted stays.
    pub fn reset(&mut self) {
        for (value, reset) in self.values.iter_mut().zip(self.map.reset_values()) {
            *value = reset;
        }
        self.spin.interrupt();
    }

    /// The value of a register, bits that the driver can't read included. No hook is called, and
    /// nothing is cleared.
    ///
    /// # Panics
    /// If no register begins at `offset`.
    #[track_caller]
    pub fn get(&self, offset: u64) -> u64 {
        self.values[self.slot(offset)]
    }

    /// Gives a register a value, whatever the driver could write to it. Bits that it has not are
    /// dropped; no hook is called.
    ///
    /// # Panics
    /// If no register begins at `offset`.
    #[track_caller]
    pub fn set(&mut self, offset: u64, value: u64) {
        let slot = self.slot(offset);
        self.values[slot] = value & self.map.rules(slot).ones;
    }

    /// Whether a register has any of these bits.
    ///
    /// # Panics
    /// If no register begins at `offset`.
    #[track_caller]
    pub fn has(&self, offset: u64, bits: u64) -> bool {
        self.get(offset) & bits != 0
    }

    /// Sets bits of a register.
    ///
    /// # Panics
    /// If no register begins at `offset`.
    #[track_caller]
    pub fn set_bits(&mut self, offset: u64, bits: u64) {
        self.set(offset, self.get(offset) | bits);
    }

    /// Clears bits of a register.
    ///
    /// # Panics
    /// If no register begins at `offset`.
    #[track_caller]
    pub fn clear_bits(&mut self, offset: u64, bits: u64) {
        self.set(offset, self.get(offset) & !bits);
    }

    /// The offset of an element of the array that is declared at `array`, for
    /// [`get`](Self::get) and [`set`](Self::set).
    ///
    /// # Panics
    /// If no register begins there, or the array is shorter.
    #[track_caller]
    pub fn element(&self, array: u64, index: u32) -> u64 {
        let register = self.map.register(self.slot(array));
        assert!(index < register.count(), "{} has {} elements", register.name, register.count());
        array + u64::from(index) * register.stride()
    }

    /// Accesses that the model did not cover: no register was there, or it could not be accessed
    /// in that width. At most 64 different ones are kept; see
    /// [`uncovered_others`](Self::uncovered_others).
    pub fn uncovered(&self) -> &[Uncovered] {
        self.coverage.all()
    }

    /// How many accesses the model did not cover and [`uncovered`](Self::uncovered) had no room
    /// for.
    pub fn uncovered_others(&self) -> u64 {
        self.coverage.others()
    }

    /// Logs [`uncovered`](Self::uncovered) at `INFO`, with the target `vfu::regmap`, and begins anew.
    /// Nothing if there is nothing to tell.
    pub fn report_uncovered(&mut self) {
        if self.coverage.is_empty() {
            return;
        }
        trace::coverage(&self.map, &self.coverage);
        self.coverage.clear();
    }

    #[track_caller]
    fn slot(&self, offset: u64) -> usize {
        match self.map.find_start(offset) {
            Some(slot) => slot,
            None => panic!("{} has no register at {offset:#x}", self.map.name),
        }
    }
}
