//! What a `vfu_ctx_t` is.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use vfu::Limits;
use vfu::raw::{Command, Session, Station};

use crate::config::Config;
use crate::irq::Irqs;
use crate::listen::Listener;
use crate::log::Log;
use crate::moving::Completed;
use crate::setup::Setup;
use crate::types::Ctx;

pub(crate) const FLAG_ATTACH_NB: c_int = 1 << 0;
pub(crate) const FLAG_REENTRANT: c_int = 1 << 8;
pub(crate) const FLAG_THREAD_SAFE: c_int = 1 << 9;

/// The most data in one message, in bytes, as VERSION says.
pub(crate) const MAX_TRANSFER: u32 = 1 << 20;

/// A device of a C program, from `vfu_create_ctx` to `vfu_destroy_ctx`.
///
/// Every lock in it is held for a moment only, never while the program is called; but for `run`,
/// which makes sure that commands are executed one at a time.
pub(crate) struct Context {
    pub(crate) flags: c_int,
    pub(crate) private: *mut c_void,
    pub(crate) listener: Listener,
    pub(crate) log: Log,
    pub(crate) config: Config,
    pub(crate) irqs: Arc<Irqs>,
    pub(crate) setup: Mutex<Setup>,
    pub(crate) limits: Mutex<Limits>,
    /// The page size of the log that the client started.
    pub(crate) logging: Mutex<Option<u64>>,
    station: OnceLock<Station>,
    /// `vfu_realize_ctx` was called, to be seen without the lock of `setup`.
    pub(crate) is_realized: AtomicBool,
    /// The program has started DMA that it does not wait for, some time.
    pub(crate) moves: AtomicBool,
    /// Of that, what has ended, and not been told of yet.
    pub(crate) completed: Arc<Completed>,
    /// The client that is attached.
    session: Mutex<Option<Session>>,
    /// A client that has connected and still owes VERSION, and since when.
    pub(crate) opening: Mutex<Option<(Session, Instant)>>,
    /// What waits until the device is quiesced.
    pending: Mutex<Option<Pending>>,
    /// Whether anything does, to be seen without the lock.
    is_pending: AtomicBool,
    /// Threads that wait for DMA outside callbacks, and read commands meanwhile.
    pub(crate) waiters: AtomicUsize,
    /// Held by the thread that executes commands.
    pub(crate) run: Mutex<()>,
}

// SAFETY: the only part that is not sendable by itself is the program's pointer, which is given
// back as it came and never followed.
unsafe impl Send for Context {}
// SAFETY: as above; everything else is behind locks and atomics.
unsafe impl Sync for Context {}

/// What waits until the device is quiesced.
pub(crate) enum Pending {
    /// A command.
    Command(Command),
    /// The end of the connection.
    Lost,
}

impl Context {
    pub(crate) fn new(flags: c_int, private: *mut c_void, listener: Listener) -> Context {
        Context {
            flags,
            private,
            listener,
            log: Log::default(),
            config: Config::default(),
            irqs: Arc::default(),
            is_realized: AtomicBool::new(false),
            moves: AtomicBool::new(false),
            completed: Arc::default(),
            setup: Mutex::default(),
            // A message that the C library's clients may send: so much data and its headers.
            limits: Mutex::new(Limits {
                max_message: MAX_TRANSFER as usize + 32,
                ..Limits::default()
            }),
            logging: Mutex::new(None),
            station: OnceLock::new(),
            session: Mutex::new(None),
            opening: Mutex::new(None),
            pending: Mutex::new(None),
            is_pending: AtomicBool::new(false),
            waiters: AtomicUsize::new(0),
            run: Mutex::new(()),
        }
    }

    /// The context behind a pointer of the program's.
    ///
    /// # Safety
    /// `ctx` is null, or came from `vfu_create_ctx` and has not been destroyed.
    pub(crate) unsafe fn of<'a>(ctx: *mut Ctx) -> Option<&'a Context> {
        // SAFETY: the caller vouches for it; a context is never changed but through its locks.
        unsafe { ctx.cast::<Context>().as_ref() }
    }

    /// The pointer that the program knows it by.
    pub(crate) fn as_ptr(&self) -> *mut Ctx {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    pub(crate) fn has(&self, flag: c_int) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn setup(&self) -> MutexGuard<'_, Setup> {
        lock(&self.setup)
    }

    /// The device, as the engine knows it.
    pub(crate) fn station(&self) -> &Station {
        self.station.get_or_init(|| Station::new(&lock(&self.limits)))
    }

    pub(crate) fn session(&self) -> Option<Session> {
        lock(&self.session).clone()
    }

    pub(crate) fn set_session(&self, session: Option<Session>) {
        *lock(&self.session) = session;
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Acquire)
    }

    pub(crate) fn set_pending(&self, pending: Pending) {
        *lock(&self.pending) = Some(pending);
        self.is_pending.store(true, Ordering::Release);
    }

    pub(crate) fn take_pending(&self) -> Option<Pending> {
        self.is_pending.store(false, Ordering::Release);
        lock(&self.pending).take()
    }
}

/// A lock whose holder never leaves a half-done change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The context behind a pointer, or the error of a function that got none.
macro_rules! context {
    ($ctx:expr) => {
        // SAFETY: the program passes what vfu_create_ctx gave it, or NULL.
        unsafe { $crate::ctx::Context::of($ctx) }.ok_or($crate::errno::EINVAL)?
    };
}
pub(crate) use context;
