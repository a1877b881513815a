//! `vfu_realize_ctx`: what the program has said of its device becomes what the client sees.

use std::ffi::c_int;
use std::sync::atomic::Ordering;

use crate::config::{BAR0, CONVENTIONAL, INTERRUPT_PIN, STATUS, STATUS_CAPS};
use crate::ctx::{Context, context};
use crate::errno::entry;
use crate::setup::{
    BARS, CONFIG, FLAG_64_BITS, FLAG_MEM, FLAG_PREFETCH, FLAG_READ, FLAG_WRITE, Setup,
};
use crate::types::Ctx;

impl Setup {
    /// Configuration space is a region of so many bytes, unless the program has described it.
    pub(crate) fn init_config(&mut self, size: u64) {
        let region = &mut self.regions[CONFIG];
        region.size = size;
        region.flags |= FLAG_READ | FLAG_WRITE;
    }

    /// The low bits of a BAR, which say what it is.
    pub(crate) fn bar_type(&self, bar: usize) -> u8 {
        let region = &self.regions[bar];
        if region.size == 0 {
            return 0;
        }
        if region.flags & FLAG_MEM == 0 {
            return 1;
        }
        let wide = if region.flags & FLAG_64_BITS != 0 { 0b0100 } else { 0 };
        let prefetchable = if region.flags & FLAG_PREFETCH != 0 { 0b1000 } else { 0 };
        wide | prefetchable
    }
}

impl Context {
    /// Shows in the Status register whether there are capabilities.
    pub(crate) fn show_capabilities(&self) {
        self.config.set_u16(STATUS, self.config.get_u16(STATUS) | STATUS_CAPS);
    }
}

/// The description of the device is complete.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_realize_ctx(ctx: *mut Ctx) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let mut setup = ctx.setup();
        if setup.realized {
            return Ok(0);
        }
        if setup.regions[CONFIG].size == 0 {
            setup.init_config(CONVENTIONAL as u64);
        }
        ctx.config.make();
        for bar in 0..BARS {
            ctx.config.set_masked(BAR0 + bar * 4, setup.bar_type(bar), 0x0f);
        }
        if setup.irq_counts.0[0] != 0 {
            ctx.config.set(INTERRUPT_PIN, 1);
        }
        if setup.caps.iter().any(|cap| cap.start < CONVENTIONAL) {
            ctx.show_capabilities();
        }
        ctx.irqs.resize(&setup.irq_counts);
        setup.realized = true;
        ctx.is_realized.store(true, Ordering::Release);
        Ok(0)
    })
}
