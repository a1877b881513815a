//! The life of a context.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::ctx::{Context, FLAG_ATTACH_NB, FLAG_REENTRANT, FLAG_THREAD_SAFE, context, lock};
use crate::errno::{EINVAL, ENOTSUP, entry, quiet};
use crate::listen::Listener;
use crate::log::ERR;
use crate::types::Ctx;

/// `VFU_TRANS_SOCK`.
const TRANS_SOCK: c_int = 0;
/// `VFU_DEV_TYPE_PCI`.
const DEV_TYPE_PCI: c_int = 0;

/// Makes a device that listens at `path`.
///
/// # Safety
/// As the header says: `path` is a string that ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_create_ctx(
    trans: c_int,
    path: *const c_char,
    flags: c_int,
    private: *mut c_void,
    dev_type: c_int,
) -> *mut Ctx {
    entry(std::ptr::null_mut(), || {
        if flags & !(FLAG_ATTACH_NB | FLAG_REENTRANT | FLAG_THREAD_SAFE) != 0 {
            return Err(EINVAL);
        }
        if trans != TRANS_SOCK || dev_type != DEV_TYPE_PCI {
            return Err(ENOTSUP);
        }
        if path.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: the program vouches for a string that ends.
        let listener = Listener::bind(unsafe { CStr::from_ptr(path) })?;
        let ctx = Box::new(Context::new(flags, private, listener));
        Ok(Box::into_raw(ctx).cast())
    })
}

/// Ends a device: its client is disconnected, and everything goes.
///
/// # Safety
/// As the header says: nobody uses the context any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_destroy_ctx(ctx: *mut Ctx) {
    quiet(|| {
        // SAFETY: the program passes what vfu_create_ctx gave it, or NULL.
        let Some(context) = (unsafe { Context::of(ctx) }) else { return };
        if context.station().is_inside() {
            // It would go from under the callback, and from under us.
            context.log(ERR, format_args!("vfu_destroy_ctx in a callback: nothing was destroyed"));
            return;
        }
        {
            let _running = lock(&context.run);
            drop(context.take_pending());
            context.setup().quiesce = None;
            context.end();
            context.log_rest(true);
        }
        // SAFETY: it came from `Box::into_raw`, and the program gives it back now.
        drop(unsafe { Box::from_raw(ctx.cast::<Context>()) });
    });
}

/// The pointer that the program gave to vfu_create_ctx.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_get_private(ctx: *mut Ctx) -> *mut c_void {
    entry(std::ptr::null_mut(), || Ok(context!(ctx).private))
}
