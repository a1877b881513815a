//! DMA that nobody waits for.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use vfu::raw::{Direct, Piece};

use crate::ctx::{Context, context, lock};
use crate::errno::{EINVAL, EPERM, entry};
use crate::sgl::entries;
use crate::types::{Ctx, Sg};

/// `vfu_rs_dma_done_cb_t`.
pub type DoneFn = unsafe extern "C" fn(*mut Ctx, *mut c_void, c_int);

/// What the program wants to be told, once.
struct Done {
    function: DoneFn,
    opaque: *mut c_void,
}

// SAFETY: the pointer is the program's, given back as it came and never followed.
unsafe impl Send for Done {}

/// What has ended, and how. Whoever reads the sockets puts it here; the program is told by the thread
/// that executes commands.
#[derive(Default)]
pub(crate) struct Completed {
    ended: Mutex<Vec<(Done, c_int)>>,
    /// How much is under way.
    under_way: Mutex<usize>,
    /// Nothing is.
    idle: Condvar,
    /// The program is being told, by the thread that executes commands.
    is_telling: AtomicBool,
}

/// Counts for as long as DMA is under way.
struct UnderWay(Arc<Completed>);

impl UnderWay {
    fn new(completed: &Arc<Completed>) -> UnderWay {
        *lock(&completed.under_way) += 1;
        UnderWay(completed.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut under_way = lock(&self.0.under_way);
        *under_way -= 1;
        if *under_way == 0 {
            self.0.idle.notify_all();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

impl Context {
    /// Whether anything has ended that the program has not been told of.
    pub(crate) fn has_completed(&self) -> bool {
        self.moves.load(Ordering::Acquire) && !lock(&self.completed.ended).is_empty()
    }

    /// The session has ended, and all that was under way with it: waits until the thread that has seen
    /// the end has said so.
    pub(crate) fn settle_moves(&self) {
        let mut under_way = lock(&self.completed.under_way);
        while *under_way > 0 {
            under_way = self.completed.idle.wait(under_way).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells the program of what has ended. This thread executes commands.
    pub(crate) fn tell_completed_now(&self) {
        while self.has_completed() {
            let ended = std::mem::take(&mut *lock(&self.completed.ended));
            for (done, error) in ended {
                let outer = self.completed.is_telling.swap(true, Ordering::Relaxed);
                self.station().handle(|| {
                    // SAFETY: the program's callback, called as the header says, once.
                    unsafe { (done.function)(self.as_ptr(), done.opaque, error) };
                });
                self.completed.is_telling.store(outer, Ordering::Relaxed);
            }
        }
    }

    /// Starts to move the memory of a list.
    ///
    /// # Safety
    /// The list has `count` entries; `data` is theirs until `done` is called.
    unsafe fn start(
        &self,
        way: Way,
        (sgl, count): (*mut Sg, usize),
        data: *mut c_void,
        flags: c_int,
        done: Option<DoneFn>,
        opaque: *mut c_void,
    ) -> Result<c_int, c_int> {
        let direct = self.direct(flags)?;
        let function = done.ok_or(EINVAL)?;
        // SAFETY: the caller vouches for the list.
        let sgl = unsafe { entries(sgl, count) }?;
        let total = sgl.iter().try_fold(0u64, |sum, sg| sum.checked_add(sg.len)).ok_or(EINVAL)?;
        if data.is_null() && total > 0 {
            return Err(EINVAL);
        }
        let mut pieces = Vec::with_capacity(sgl.len());
        let mut at = data.cast::<u8>();
        for sg in sgl.iter().filter(|sg| sg.len > 0) {
            self.with_region(sg, |_| ())?;
            if way == Way::Write && sg.writable == 0 {
                return Err(EPERM);
            }
            let (address, len) = (sg.address + sg.offset, sg.len as usize);
            pieces.push(if way == Way::Read {
                // SAFETY: the program lends these bytes until it is told; nobody else touches them.
                let to = unsafe { std::slice::from_raw_parts_mut(at, len) };
                Piece::Read(address, to)
            } else {
                // SAFETY: as above, and the program does not change them.
                let from = unsafe { std::slice::from_raw_parts(at, len) };
                Piece::Write(address, from)
            });
            at = at.wrapping_add(len);
        }
        self.move_all(pieces, direct, Done { function, opaque });
        Ok(0)
    }

    fn move_all(&self, pieces: Vec<Piece>, direct: Direct, done: Done) {
        self.moves.store(true, Ordering::Release);
        let (completed, station) = (self.completed.clone(), self.station().clone());
        let under_way = UnderWay::new(&self.completed);
        let ended = Box::new(move |result: Result<(), vfu::DmaError>| {
            let error = result.map_or_else(|e| e.errno().raw(), |()| 0);
            lock(&completed.ended).push((done, error));
            drop(under_way);
            station.kick();
        });
        self.station().move_all(pieces, direct, ended);
        if self.is_logging() {
            // It is told of by the thread that executes commands.
        } else if self.station().is_inside() {
            // One that is started where another one's end is told is told of next, not inside of that:
            // a long chain of them would have no stack.
            if !self.completed.is_telling.load(Ordering::Relaxed) {
                self.tell_completed_now();
            }
        } else {
            self.catch_up();
        }
    }
}

/// Starts to read the memory of a list.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_sgl_read_async(
    ctx: *mut Ctx,
    sgl: *mut Sg,
    count: usize,
    data: *mut c_void,
    flags: c_int,
    done: Option<DoneFn>,
    opaque: *mut c_void,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        // SAFETY: the program vouches for the list and for the memory.
        unsafe { ctx.start(Way::Read, (sgl, count), data, flags, done, opaque) }
    })
}

/// Starts to write the memory of a list.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_sgl_write_async(
    ctx: *mut Ctx,
    sgl: *mut Sg,
    count: usize,
    data: *mut c_void,
    flags: c_int,
    done: Option<DoneFn>,
    opaque: *mut c_void,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        // SAFETY: the program vouches for the list and for the memory.
        unsafe { ctx.start(Way::Write, (sgl, count), data, flags, done, opaque) }
    })
}
