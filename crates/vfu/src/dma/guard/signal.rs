//! The handler of `SIGBUS`.
//!
//! It runs in the middle of whatever its thread was doing, so it takes no lock and no memory, and calls
//! nothing but `mmap` and `sigaction`. rustix has no `sigaction`, hence libc.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, transmute};
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use super::slots::Slots;

/// What there is to guard, and who had the signal before. Made once.
static GUARDED: OnceLock<Slots> = OnceLock::new();
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
static IN_PLACE: OnceLock<()> = OnceLock::new();

/// The ranges that are guarded. With the first call the handler is put in place.
pub(super) fn slots() -> &'static Slots {
    let slots = GUARDED.get_or_init(Slots::default);
    IN_PLACE.get_or_init(install);
    slots
}

fn install() {
    // SAFETY: it only looks; and the handler of before is kept until it can be asked.
    let before = unsafe { action(None) };
    let _first = BEFORE.set(before);
    let mut ours = default();
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_fault;
    ours.sa_sigaction = handler as usize;
    // Whoever had it runs inside our handler, with the signals blocked that it asked for.
    ours.sa_mask = before.sa_mask;
    let kept = before.sa_flags & (libc::SA_NODEFER | libc::SA_RESTART);
    ours.sa_flags = kept | libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `on_fault` is what the flags say, and may run at any time.
    unsafe { action(Some(&ours)) };
}

/// Sets what is done at `SIGBUS`, or only looks. It can't fail: the signal exists.
///
/// # Safety
/// A handler in `new` must be one that can run in the middle of everything.
unsafe fn action(new: Option<&libc::sigaction>) -> libc::sigaction {
    let mut old = MaybeUninit::zeroed();
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `new` is null or an action, and `old` has room for one. All zeros are one too.
    unsafe {
        libc::sigaction(libc::SIGBUS, new, old.as_mut_ptr());
        old.assume_init()
    }
}

/// The default action.
fn default() -> libc::sigaction {
    // SAFETY: all zeros are an action: `SIG_DFL`, no flags, no signals blocked.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel calls us with what it knows of the signal (SA_SIGINFO).
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // Others are no missing page, or have no address at all.
    let is_missing = matches!(code, libc::BUS_ADRERR | libc::BUS_MCEERR_AR);
    if is_missing && put_page(address).is_some() {
        return;
    }
    // SAFETY: they are what the kernel gave us.
    unsafe { hand_on(signal, info, context) };
}

/// Puts an empty page where one is missing, if that is for us to do.
fn put_page(address: usize) -> Option<()> {
    let hold = GUARDED.get()?.hold(address)?;
    hold.lose();
    let (page, len) = hold.page();
    // SAFETY: the range is ours and stays mapped while it is held; nothing is in the page.
    let done = unsafe { replace(page, len) };
    // There may be no room for one more piece of a mapping, but for one less there is.
    let (start, len) = hold.range();
    // SAFETY: as above; that the other pages go too is what `lose` has said.
    done.or_else(|_| unsafe { replace(start, len) }).ok()
}

/// # Safety
/// The range is whole pages of a window of ours.
unsafe fn replace(start: usize, len: usize) -> Result<(), Errno> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: what the caller vouches for; nothing has references to shared memory.
    unsafe { mmap_anonymous(start as *mut c_void, len, protection, flags) }.map(drop)
}

/// Does what would be done if we were not there.
///
/// # Safety
/// The arguments are those of a handler.
unsafe fn hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let before = BEFORE.get().copied().unwrap_or_else(default);
    // SAFETY: the caller vouches for it.
    let code = unsafe { (*info).si_code };
    // That memory has gone bad which nobody touches is only news.
    let is_fault = code > 0 && code != libc::BUS_MCEERR_AO;
    match before.sa_sigaction {
        // The kernel does not let a fault be ignored.
        libc::SIG_IGN if !is_fault => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: the default action has no handler.
            unsafe { action(Some(&default())) };
            // A fault happens again as soon as we return; what somebody sent does not.
            if !is_fault {
                // SAFETY: it takes no pointers.
                unsafe { libc::raise(signal) };
            }
        }
        handler => {
            if before.sa_flags & libc::SA_RESETHAND != 0 {
                // SAFETY: as above.
                unsafe { action(Some(&default())) };
            }
            // SAFETY: somebody set it as the handler of this signal, and of the kind that the flags say.
            unsafe {
                if before.sa_flags & libc::SA_SIGINFO != 0 {
                    type Full = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
                    transmute::<usize, Full>(handler)(signal, info, context);
                } else {
                    transmute::<usize, extern "C" fn(c_int)>(handler)(signal);
                }
            }
        }
    }
}
