//! The C library's errno, and the numbers that stand for what went wrong.

use std::any::Any;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

pub(crate) const EPERM: c_int = 1;
pub(crate) const ENOENT: c_int = 2;
pub(crate) const EINTR: c_int = 4;
pub(crate) const EIO: c_int = 5;
pub(crate) const EAGAIN: c_int = 11;
pub(crate) const ENOMEM: c_int = 12;
pub(crate) const EACCES: c_int = 13;
pub(crate) const EFAULT: c_int = 14;
pub(crate) const EBUSY: c_int = 16;
pub(crate) const EEXIST: c_int = 17;
pub(crate) const EINVAL: c_int = 22;
pub(crate) const ENOSPC: c_int = 28;
pub(crate) const EDEADLK: c_int = 35;
pub(crate) const ENOMSG: c_int = 42;
pub(crate) const ENOTSUP: c_int = 95;
pub(crate) const ENOTCONN: c_int = 107;
pub(crate) const ETIMEDOUT: c_int = 110;
/// What a panic of ours is to the program: a bug, after which nothing is promised.
pub(crate) const ENOTRECOVERABLE: c_int = 131;

/// The errno of this thread.
pub(crate) fn get() -> c_int {
    // SAFETY: the C library gives each thread a place of its own, valid as long as the thread.
    unsafe { *__errno_location() }
}

/// Sets the errno of this thread.
pub(crate) fn set(errno: c_int) {
    // SAFETY: as in `get`.
    unsafe { *__errno_location() = errno };
}

/// Runs the body of a function of the interface: an error becomes errno and `failed`, and so does a
/// panic, which must not cross the border.
pub(crate) fn entry<T>(failed: T, body: impl FnOnce() -> Result<T, c_int>) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(errno)) => {
            set(errno);
            failed
        }
        Err(panic) => {
            forget_panic(panic);
            set(ENOTRECOVERABLE);
            failed
        }
    }
}

/// The same for functions that report nothing. They leave errno as it was.
pub(crate) fn quiet(body: impl FnOnce()) {
    let before = get();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
        forget_panic(panic);
    }
    set(before);
}

/// The panic hook has shown it. Dropping it could panic again.
fn forget_panic(panic: Box<dyn Any + Send>) {
    std::mem::forget(panic);
}

/// Calls back into the program, for which 0 and more is success; gives its errno otherwise.
pub(crate) fn checked<T: Into<i64> + Copy>(call: impl FnOnce() -> T) -> Result<T, c_int> {
    set(0);
    let result = call();
    if result.into() < 0 {
        // It may have forgotten to say why.
        Err(if get() == 0 { EIO } else { get() })
    } else {
        Ok(result)
    }
}
