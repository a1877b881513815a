//! `vfu_log`, whose arguments only C can fetch.

use std::ffi::{c_char, c_int};

use crate::types::Ctx;

unsafe extern "C" {
    /// In `log_args.c`.
    fn vfu_rs_log_args(ctx: *mut Ctx, level: c_int, format: *const c_char, ...);
}

/// Goes on in C, with the registers and the stack just as they are.
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
#[cfg(not(has_naked))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_log(ctx: *mut Ctx, level: c_int, format: *const c_char) {
    // SAFETY: the caller vouches for the context and for a string that ends; "%s" takes one.
    unsafe { vfu_rs_log_args(ctx, level, c"%s".as_ptr(), format) };
}
