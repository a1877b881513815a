//! Logging: the program's function for it, and `vfu_log`, whose arguments only C can fetch.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::ctx::{Context, context, lock};
use crate::errno::{self, EINVAL, entry, quiet};
use crate::types::{Ctx, LogFn};

/// Levels of syslog(3).
pub(crate) const ERR: c_int = 3;
pub(crate) const WARNING: c_int = 4;
pub(crate) const INFO: c_int = 6;
pub(crate) const DEBUG: c_int = 7;

/// No level is as low: what a context without a function logs.
const NOTHING: c_int = -1;

/// Where a context logs to.
pub(crate) struct Log {
    /// The most talkative level that is logged, to be seen without the lock.
    level: AtomicI32,
    function: Mutex<Option<LogFn>>,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: AtomicI32::new(NOTHING), function: Mutex::new(None) }
    }
}

impl Log {
    fn wants(&self, level: c_int) -> bool {
        (0..=self.level.load(Ordering::Relaxed)).contains(&level)
    }
}

thread_local! {
    /// The context whose function runs.
    static LOGGING: Cell<*const Context> = const { Cell::new(std::ptr::null()) };
}

impl Context {
    /// Whether this thread is in this context's log function, which runs on any thread at any time: it
    /// does not follow that this one executes commands.
    pub(crate) fn is_logging(&self) -> bool {
        std::ptr::eq(LOGGING.get(), self)
    }

    /// Logs, if anybody wants to hear it. errno stays as it was.
    pub(crate) fn log(&self, level: c_int, message: fmt::Arguments<'_>) {
        if self.log.wants(level) {
            let text = message.to_string().replace('\0', " ");
            self.log_text(level, &CString::new(text).unwrap_or_default());
        }
    }

    /// Logs what a client can cause as often as it likes: a few of a kind in each interval, and how many
    /// were left out with the next one.
    pub(crate) fn log_seldom(&self, level: c_int, kind: &'static str, why: fmt::Arguments<'_>) {
        if !self.log.wants(level) {
            return;
        }
        if let Some(kept) = self.station().seldom(kind) {
            self.log(level, format_args!("{kind}: {why}{kept}"));
        }
    }

    /// Logs how many were left out and not told of: of what is due, or, at the end, of all.
    pub(crate) fn log_rest(&self, at_the_end: bool) {
        if !self.log.wants(ERR) {
            return;
        }
        for (kind, kept) in self.station().seldom_rest(at_the_end) {
            let time = kept.time.as_secs();
            self.log(ERR, format_args!("{} more in the last {time} s: {kind}", kept.count));
        }
    }

    fn log_text(&self, level: c_int, text: &std::ffi::CStr) {
        let function = *lock(&self.log.function);
        if let Some(function) = function {
            // What a log function does is not logged: there would be no end.
            let outer = LOGGING.replace(self);
            if std::ptr::eq(outer, self) {
                return;
            }
            let before = errno::get();
            self.station().notify(|| {
                // SAFETY: the program's function, called as the header says, with a string that ends.
                unsafe { function(self.as_ptr(), level, text.as_ptr()) };
            });
            errno::set(before);
            LOGGING.set(outer);
        }
    }
}

/// Sets the function that messages go to, and the most talkative level of them.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_setup_log(ctx: *mut Ctx, log: Option<LogFn>, level: c_int) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        if !(0..=DEBUG).contains(&level) {
            return Err(EINVAL);
        }
        *lock(&ctx.log.function) = log;
        ctx.log.level.store(if log.is_some() { level } else { NOTHING }, Ordering::Relaxed);
        Ok(0)
    })
}

/// Whether a message of this level would be logged.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_log_enabled(ctx: *mut Ctx, level: c_int) -> c_int {
    // SAFETY: the program passes what vfu_create_ctx gave it, or NULL.
    let ctx = unsafe { Context::of(ctx) };
    c_int::from(ctx.is_some_and(|ctx| ctx.log.wants(level)))
}

/// Logs a message as it is, for languages without variable arguments.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_log_text(ctx: *mut Ctx, level: c_int, text: *const c_char) {
    quiet(|| {
        // SAFETY: the program passes what vfu_create_ctx gave it, or NULL.
        let ctx = unsafe { Context::of(ctx) };
        let Some(ctx) = ctx.filter(|ctx| ctx.log.wants(level) && !text.is_null()) else { return };
        // SAFETY: the program vouches for a string that ends.
        ctx.log_text(level, unsafe { std::ffi::CStr::from_ptr(text) });
    });
}

unsafe extern "C" {
    /// In `log_args.c`.
    fn vfu_rs_log_args(ctx: *mut Ctx, level: c_int, format: *const c_char, ...);
}

/// Logs a message that is made of a format and arguments. Goes on in C, with the registers and the
/// stack just as they are.
///
/// # Safety
/// As the header says.
#[cfg(has_naked)]
#[unsafe(no_mangle)]
#[unsafe(naked)]
#[allow(clippy::incompatible_msrv)]
pub unsafe extern "C" fn vfu_log(_ctx: *mut Ctx, _level: c_int, _format: *const c_char) {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    std::arch::naked_asm!("jmp {}", sym vfu_rs_log_args);
    #[cfg(target_arch = "aarch64")]
    std::arch::naked_asm!("b {}", sym vfu_rs_log_args);
    #[cfg(any(target_arch = "riscv64", target_arch = "loongarch64"))]
    std::arch::naked_asm!("tail {}", sym vfu_rs_log_args);
}

/// Rust before 1.88 can't hand the arguments on: the format is logged as it is.
///
/// # Safety
/// As the header says.
#[cfg(not(has_naked))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_log(ctx: *mut Ctx, level: c_int, format: *const c_char) {
    // SAFETY: the caller vouches for the context and for a string that ends; "%s" takes one.
    unsafe { vfu_rs_log_args(ctx, level, c"%s".as_ptr(), format) };
}
