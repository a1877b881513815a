//! Scatter lists: how a program reaches the client's memory.
//!
//! These functions may be called from every thread. An entry says which mapping it is of by the
//! mapping's number, so that one that is out of date is found out.

use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering;

use vfu::DmaError;
use vfu::raw::{Claim, Command, Direct, Memory, Serve, Session, View};

use crate::ctx::{Context, FLAG_REENTRANT, context};
use crate::errno::{self, EACCES, EFAULT, EINVAL, ENOENT, ENOTSUP, EPERM, entry, quiet};
use crate::memory::{PROT_READ, PROT_WRITE};
use crate::types::{Ctx, IoVec, Sg};

/// `VFU_SGL_DIRECT_ACCESS`.
const DIRECT_ACCESS: c_int = 1;

/// The size of an entry in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn dma_sg_size() -> usize {
    size_of::<Sg>()
}

/// Finds the mappings that a range of addresses lies in.
///
/// # Safety
/// As the header says: there is room for `max` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_addr_to_sgl(
    ctx: *mut Ctx,
    address: *mut c_void,
    len: usize,
    sgl: *mut Sg,
    max: usize,
    prot: c_int,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let (mut at, mut left) = (address as u64, len as u64);
        let mut count = 0usize;
        while left > 0 {
            let entry = ctx.station().look(at, |region| entry_of(region, at, left, prot));
            let entry = entry.ok_or(ENOENT)??;
            if count < max && !sgl.is_null() {
                // SAFETY: the program has room for `max` entries.
                unsafe { sgl.add(count).write(entry) };
            }
            count += 1;
            left -= entry.len;
            if left > 0 {
                at = at.checked_add(entry.len).ok_or(ENOENT)?;
            }
        }
        let found = c_int::try_from(count).map_err(|_| EINVAL)?;
        if count > max || (sgl.is_null() && count > 0) {
            errno::set(0);
            return Ok(-found - 1);
        }
        Ok(found)
    })
}

fn entry_of(region: View<'_>, at: u64, left: u64, prot: c_int) -> Result<Sg, c_int> {
    let denied = prot & PROT_WRITE != 0 && !region.is_writable()
        || prot & PROT_READ != 0 && !region.is_readable();
    if denied {
        return Err(EACCES);
    }
    let offset = at - region.address();
    Ok(Sg {
        address: region.address(),
        region: region.serial(),
        len: left.min(region.size() - offset),
        offset,
        writable: u8::from(prot & PROT_WRITE != 0),
    })
}

/// The entries of a list.
///
/// # Safety
/// `sgl` is null, or holds `count` entries.
pub(crate) unsafe fn entries<'a>(sgl: *mut Sg, count: usize) -> Result<&'a [Sg], c_int> {
    if count == 0 {
        return Ok(&[]);
    }
    if sgl.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: the caller vouches for it.
    Ok(unsafe { std::slice::from_raw_parts(sgl, count) })
}

impl Context {
    /// Shows the mapping that an entry is of, if it is still there.
    #[inline]
    pub(crate) fn with_region<T>(
        &self,
        sg: &Sg,
        f: impl FnOnce(View<'_>) -> T,
    ) -> Result<T, c_int> {
        let found = self.station().look(sg.address, |region| {
            let end = sg.offset.checked_add(sg.len);
            let same = region.serial() == sg.region && region.address() == sg.address;
            (same && end.is_some_and(|end| end <= region.size())).then(|| f(region))
        });
        found.flatten().ok_or(EINVAL)
    }
}

/// Where a mapping is in this process, unless the client has taken pages of it away.
fn usable(region: View<'_>) -> Option<Memory> {
    region.memory().filter(|_| !region.is_lost())
}

/// Where entries are in this process.
///
/// # Safety
/// As the header says: both arrays have `count` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_sgl_get(
    ctx: *mut Ctx,
    sgl: *mut Sg,
    iov: *mut IoVec,
    count: usize,
    _flags: c_int,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        // SAFETY: the program vouches for both arrays.
        let sgl = unsafe { entries(sgl, count) }?;
        if iov.is_null() && count > 0 {
            return Err(EINVAL);
        }
        for (i, sg) in sgl.iter().enumerate() {
            let memory = ctx.with_region(sg, usable)?;
            let start = memory.ok_or(EFAULT)?.start.as_ptr();
            let base = start.wrapping_add(sg.offset as usize).cast();
            // SAFETY: as above.
            unsafe { iov.add(i).write(IoVec { base, len: sg.len as usize }) };
        }
        Ok(0)
    })
}

/// The program has written to these entries.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_sgl_mark_dirty(ctx: *mut Ctx, sgl: *mut Sg, count: usize) {
    quiet(|| {
        // SAFETY: the program passes what vfu_create_ctx gave it, or NULL.
        let Some(ctx) = (unsafe { Context::of(ctx) }) else { return };
        // SAFETY: the program vouches for the array.
        for sg in unsafe { entries(sgl, count) }.unwrap_or_default() {
            if sg.writable != 0 {
                let _gone = ctx.with_region(sg, |region| region.mark(sg.offset, sg.len));
            }
        }
    });
}

/// The program is through with entries that it had from vfu_sgl_get.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_sgl_put(ctx: *mut Ctx, sgl: *mut Sg, _iov: *mut IoVec, count: usize) {
    // SAFETY: the caller's promise is the same.
    unsafe { vfu_sgl_mark_dirty(ctx, sgl, count) };
}

/// Whether an entry can be had from vfu_sgl_get.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_sg_is_mappable(ctx: *mut Ctx, sg: *mut Sg) -> bool {
    entry(false, || {
        let ctx = context!(ctx);
        // SAFETY: the program vouches for an entry, or passes NULL.
        let sg = unsafe { sg.as_ref() }.ok_or(EINVAL)?;
        ctx.with_region(sg, |region| usable(region).is_some())
    })
}

/// Reads an entry's memory.
///
/// # Safety
/// As the header says: `data` has room for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_sgl_read(
    ctx: *mut Ctx,
    sgl: *mut Sg,
    count: usize,
    data: *mut c_void,
    flags: c_int,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let (sg, direct) = ctx.one(sgl, count, data, flags)?;
        // SAFETY: the program has room for the entry's bytes, which nobody else touches.
        let to = unsafe { std::slice::from_raw_parts_mut(data.cast::<u8>(), sg.len as usize) };
        ctx.waiting(|serve| ctx.station().read(sg.address + sg.offset, to, direct, serve))
    })
}

/// Writes to an entry's memory.
///
/// # Safety
/// As the header says: `data` holds the bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_sgl_write(
    ctx: *mut Ctx,
    sgl: *mut Sg,
    count: usize,
    data: *mut c_void,
    flags: c_int,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let (sg, direct) = ctx.one(sgl, count, data, flags)?;
        if sg.writable == 0 {
            return Err(EPERM);
        }
        // SAFETY: the program holds the entry's bytes there, and does not change them meanwhile.
        let from = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), sg.len as usize) };
        ctx.waiting(|serve| ctx.station().write(sg.address + sg.offset, from, direct, serve))
    })
}

impl Context {
    /// The flags of a read or write, as the program's interface has them.
    pub(crate) fn direct(&self, flags: c_int) -> Result<Direct, c_int> {
        let is_old = self.dma().is_some_and(|dma| dma.is_old);
        match flags {
            _ if is_old => Ok(Direct::Refused),
            0 => Ok(Direct::Refused),
            DIRECT_ACCESS => Ok(Direct::Allowed),
            _ => Err(EINVAL),
        }
    }

    /// The one entry of a list, and how to reach it.
    fn one(
        &self,
        sgl: *mut Sg,
        count: usize,
        data: *mut c_void,
        flags: c_int,
    ) -> Result<(Sg, Direct), c_int> {
        let direct = self.direct(flags)?;
        if count != 1 {
            return Err(ENOTSUP);
        }
        if data.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: the program vouches for one entry, or passes NULL.
        let sg = *unsafe { sgl.as_ref() }.ok_or(EINVAL)?;
        self.with_region(&sg, |_| ())?;
        Ok((sg, direct))
    }

    /// Runs a transfer that waits. Commands that arrive are executed meanwhile, by this thread, unless
    /// it is in a callback of a program that did not say that it can be called again.
    fn waiting(
        &self,
        transfer: impl FnOnce(Option<&dyn Serve>) -> Result<(), DmaError>,
    ) -> Result<c_int, c_int> {
        let result = if self.station().is_inside() {
            let again = Again(self);
            transfer(self.has(FLAG_REENTRANT).then_some(&again as &dyn Serve))
        } else {
            self.waiters.fetch_add(1, Ordering::SeqCst);
            let result = transfer(Some(&Between(self)));
            self.waiters.fetch_sub(1, Ordering::SeqCst);
            // What was read ahead is not announced by the socket any more.
            self.catch_up();
            result
        };
        result.map(|()| 0).map_err(|error| match error {
            DmaError::Malformed(_) => EINVAL, // as in the C library
            error => error.errno().raw(),
        })
    }
}

/// Executes commands inside a callback that waits.
struct Again<'a>(&'a Context);

impl Serve for Again<'_> {
    fn claim(&self) -> Option<Claim<'_>> {
        // This thread executes already.
        (!self.0.is_pending()).then(Claim::default)
    }

    fn serve(&self, session: &Session, command: Command) {
        let _put_off = self.0.take(session, command);
    }
}

/// Executes commands between two calls of vfu_run_ctx. If another thread executes some just now, it
/// looks for these, too, when it is through: see [`Context::catch_up`].
pub(crate) struct Between<'a>(pub(crate) &'a Context);

impl Serve for Between<'_> {
    fn claim(&self) -> Option<Claim<'_>> {
        let running = self.0.run.try_lock().ok()?;
        (!self.0.is_pending()).then(|| Claim::held(running))
    }

    fn serve(&self, session: &Session, command: Command) {
        let _put_off = self.0.take(session, command);
        self.0.tell_completed_now();
    }
}
