//! MSI-X masks kept by the library, for programs that ask for it.

use std::ffi::c_int;

use crate::caps::{Capability, Kind};
use crate::ctx::{Context, context};
use crate::errno::{EINVAL, entry};
use crate::types::Ctx;

impl Context {
    /// The client has written to a capability.
    pub(crate) fn follow_config(&self, cap: &Capability) {
        if cap.kind == Kind::Msix {
            let control = self.config.get_u16(cap.start + 2);
            self.irqs.with(|state| {
                state.function_mask = control & 1 << 14 != 0;
                state.settle();
            });
        }
    }

    /// An access to the MSI-X table or its pending bits, if the library answers those.
    pub(crate) fn access_msix(
        &self,
        _region: usize,
        _offset: u64,
        _data: &mut [u8],
        _is_write: bool,
    ) -> Option<Result<(), c_int>> {
        None
    }
}

/// The library keeps what is raised while it is masked.
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
        ctx.irqs.with(|state| state.masking = true);
        Ok(0)
    })
}
