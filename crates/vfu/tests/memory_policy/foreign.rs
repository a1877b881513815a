//! Faults and handlers that are not vfu's.
#![allow(unsafe_code)] // mmap, and handlers of signals, as the program around vfu has them

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};

const PAGE: usize = 4096;

/// A page of a file that is empty: touching it is a fault.
pub(crate) struct Missing(*mut u8);

impl Missing {
    pub(crate) fn new() -> Missing {
        let file = memfd_create("foreign", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 0).unwrap();
        // SAFETY: a new mapping, which stays until the process ends.
        let page =
            unsafe { mmap(null_mut(), PAGE, ProtFlags::READ, MapFlags::SHARED, &file, 0).unwrap() };
        PLACE.store(page as usize, Ordering::SeqCst);
        Missing(page.cast())
    }

    pub(crate) fn touch(&self) -> u8 {
        // SAFETY: a page of ours; what its absence does is what the test is about.
        unsafe { self.0.read_volatile() }
    }
}

/// The page that the handlers mend.
static PLACE: AtomicUsize = AtomicUsize::new(0);
/// Who had the signal before.
static BEFORE: AtomicUsize = AtomicUsize::new(0);
/// Calls of the handlers.
pub(crate) static CALLS: AtomicUsize = AtomicUsize::new(0);

fn mend() {
    CALLS.fetch_add(1, Ordering::SeqCst);
    let place = PLACE.load(Ordering::SeqCst) as *mut c_void;
    let (protection, flags) = (ProtFlags::READ, MapFlags::PRIVATE | MapFlags::FIXED);
    // SAFETY: the page is `Missing`'s, and nothing is in it.
    let _page = unsafe { mmap_anonymous(place, PAGE, protection, flags) };
}

extern "C" fn plain(_: c_int) {
    mend();
}

extern "C" fn full(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's, handed on.
    let address = unsafe { (*info).si_addr() as usize };
    if address == PLACE.load(Ordering::SeqCst) {
        return mend();
    }
    let before = BEFORE.load(Ordering::SeqCst);
    // SAFETY: `install` found it there, with SA_SIGINFO.
    unsafe {
        type Full = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
        std::mem::transmute::<usize, Full>(before)(signal, info, context);
    }
}

/// Leaves the page as it is.
extern "C" fn idle(_: c_int) {
    CALLS.fetch_add(1, Ordering::SeqCst);
}

/// Sends this thread the signal, which is not a fault.
pub(crate) fn send() {
    // SAFETY: it takes no pointers.
    unsafe { libc::raise(libc::SIGBUS) };
}

/// Sends this thread what the kernel sends of memory that has gone bad and that nobody touches.
pub(crate) fn send_news() {
    // SAFETY: all zeros are such a thing, and the call reads it.
    let sent = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        info.si_signo = libc::SIGBUS;
        info.si_code = libc::BUS_MCEERR_AO;
        let (process, thread) = (libc::getpid(), libc::gettid());
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, libc::SIGBUS, &raw const info)
    };
    assert_eq!(sent, 0);
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Handler {
    /// Mends the page.
    Plain,
    /// Mends the page, and hands on what it does not know.
    Full,
    /// Does nothing, and only once: the default action comes next.
    Once,
    Ignore,
}

/// Puts a handler of SIGBUS in place.
pub(crate) fn install(handler: Handler) {
    let simple = |f: extern "C" fn(c_int)| f as usize;
    let with_info: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = full;
    let (function, flags) = match handler {
        Handler::Plain => (simple(plain), 0),
        Handler::Full => (with_info as usize, libc::SA_SIGINFO),
        Handler::Once => (simple(idle), libc::SA_RESETHAND),
        Handler::Ignore => (libc::SIG_IGN, 0),
    };
    // SAFETY: all zeros are an action; the handlers do what handlers may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = function;
        action.sa_flags = flags;
        let mut before: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(libc::SIGBUS, &action, &mut before), 0);
        BEFORE.store(before.sa_sigaction, Ordering::SeqCst);
    }
}
