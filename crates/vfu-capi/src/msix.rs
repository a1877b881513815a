//! MSI-X masks kept by the library, for programs that ask for it (PCI 6.8.2).

use std::ffi::c_int;

use crate::caps::{Capability, Kind};
use crate::ctx::{Context, context};
use crate::errno::{EINVAL, entry};
use crate::irq::State;
use crate::types::Ctx;

/// Bytes of an entry of the table; the last four are Vector Control.
const ENTRY: usize = 16;
const CONTROL: usize = 12;
/// Function Mask in Message Control.
const FUNCTION_MASK: u16 = 1 << 14;

/// The MSI-X table. It counts from the client's first write on: a VMM that keeps the guest's table to
/// itself never writes to this one, whose entries begin masked.
#[derive(Default)]
pub(crate) struct Table(Vec<u8>);

impl Table {
    /// Whether the mask bit of a vector is set.
    pub(crate) fn is_masked(&self, vector: usize) -> bool {
        let control = vector.checked_mul(ENTRY).and_then(|at| self.0.get(at + CONTROL));
        control.is_some_and(|control| control & 1 != 0)
    }

    fn byte(&self, at: usize) -> u8 {
        let unwritten = u8::from(at % ENTRY == CONTROL);
        self.0.get(at).copied().unwrap_or(unwritten)
    }

    fn write(&mut self, size: usize, at: usize, data: &[u8]) {
        if self.0.is_empty() {
            self.0 = (0..size).map(|at| u8::from(at % ENTRY == CONTROL)).collect();
        }
        for (i, value) in data.iter().enumerate() {
            // Of Vector Control there is only the mask.
            let mask = match (at + i) % ENTRY {
                CONTROL => 1,
                13.. => 0,
                _ => 0xff,
            };
            if let Some(byte) = self.0.get_mut(at + i) {
                *byte = value & mask;
            }
        }
    }
}

/// Where the table and the pending bits are.
struct Place {
    vectors: usize,
    table: (usize, u64),
    pending: (usize, u64),
}

impl Context {
    /// The client has written to a capability.
    pub(crate) fn follow_config(&self, cap: &Capability) {
        if cap.kind == Kind::Msix {
            let control = self.config.get_u16(cap.start + 2);
            self.irqs.with(|state| {
                state.function_mask = control & FUNCTION_MASK != 0;
                state.settle();
            });
        }
    }

    fn msix_place(&self) -> Option<Place> {
        let setup = self.setup();
        let cap = setup.caps.iter().find(|cap| cap.kind == Kind::Msix)?;
        let place = |at: usize| {
            let value = self.config.get_u32(cap.start + at);
            ((value & 7) as usize, u64::from(value & !7))
        };
        let vectors = usize::from(self.config.get_u16(cap.start + 2) & 0x7ff) + 1;
        Some(Place { vectors, table: place(4), pending: place(8) })
    }

    /// An access to the MSI-X table or its pending bits, if the library answers those.
    pub(crate) fn access_msix(
        &self,
        region: usize,
        offset: u64,
        data: &mut [u8],
        is_write: bool,
    ) -> Option<Result<(), c_int>> {
        if !self.irqs.keeps_masked() {
            return None;
        }
        let place = self.msix_place()?;
        let inside = |(bar, start): (usize, u64), size: usize| {
            let at = (bar == region).then(|| offset.checked_sub(start)).flatten()?;
            let at = usize::try_from(at).ok()?;
            at.checked_add(data.len()).filter(|end| *end <= size).map(|_| at)
        };
        let size = place.vectors * ENTRY;
        if let Some(at) = inside(place.table, size) {
            self.irqs.with(|state| access_table(state, size, at, data, is_write));
            return Some(Ok(()));
        }
        let at = inside(place.pending, place.vectors.div_ceil(64) * 8)?;
        if !is_write {
            self.irqs.with(|state| {
                for (i, byte) in data.iter_mut().enumerate() {
                    *byte = state.pending_bits(at + i);
                }
            });
        }
        Some(Ok(()))
    }
}

fn access_table(state: &mut State, size: usize, at: usize, data: &mut [u8], is_write: bool) {
    if is_write {
        state.table.write(size, at, data);
        state.settle();
    } else {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = state.table.byte(at + i);
        }
    }
}

/// The library keeps what is raised while it is masked, and answers for the MSI-X table.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_setup_irq_masking(ctx: *mut Ctx) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        if ctx.setup().realized {
            return Err(EINVAL);
        }
        ctx.irqs.keep_masked();
        Ok(0)
    })
}
