//! What the C library does not have: limits, counters, timeouts.

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::time::Duration;

use vfu::MemoryPolicy;

use crate::ctx::{context, lock};
use crate::errno::{EBUSY, EINVAL, ENOENT, ENOTCONN, entry};
use crate::types::Ctx;

/// After which time a program comes again when commands wait for the client to read.
const HELD: Duration = Duration::from_millis(10);

/// `vfu_rs_limits_t`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Limits {
    /// Of this structure, in bytes: filled in by the program.
    pub size: usize,
    /// One DMA message.
    pub dma_timeout_ms: u32,
    /// All DMA messages of one callback.
    pub handler_timeout_ms: u32,
    /// From connecting to VERSION.
    pub handshake_timeout_ms: u32,
    /// From the first byte of a message to the last.
    pub message_timeout_ms: u32,
    /// The client reads nothing.
    pub send_timeout_ms: u32,
    /// DMA messages under way at once.
    pub outstanding: u32,
    /// Replies still owed to DMA that was given up.
    pub zombies: u32,
    /// Commands that wait.
    pub queued_commands: u32,
    /// And their bytes.
    pub queued_bytes: u64,
    /// Replies that the client leaves unread, in bytes.
    pub unsent_bytes: u64,
}

/// `vfu_rs_counters_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Counters {
    size: usize,
    commands: u64,
    replies: u64,
    late_replies: u64,
    stray_replies: u64,
    misplaced_commands: u64,
    timeouts: u64,
    canceled: u64,
    queue_peak: u64,
}

/// 0 stands for ever.
fn millis(time: Option<Duration>) -> u32 {
    time.map_or(0, |time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1))
}

fn time(millis: u32) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis.into()))
}

/// The version of this library: major, minor and patch in a byte each.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_rs_version() -> u32 {
    let mut numbers = env!("CARGO_PKG_VERSION").split('.').map(|n| n.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0u32) & 0xff;
    next() << 16 | next() << 8 | next()
}

/// Gives the limits in force.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_get_limits(ctx: *mut Ctx, limits: *mut Limits) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        // SAFETY: null, or the program's structure; its size says whether it is all there.
        let size = unsafe { limits.cast::<usize>().as_ref() }.copied();
        if size.is_none_or(|size| size < size_of::<Limits>()) {
            return Err(EINVAL);
        }
        let now = lock(&ctx.limits).clone();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let values = Limits {
            size: size_of::<Limits>(),
            dma_timeout_ms: millis(now.reply_timeout),
            handler_timeout_ms: millis(now.handler_timeout),
            handshake_timeout_ms: millis(now.handshake_timeout),
            message_timeout_ms: millis(now.message_timeout),
            send_timeout_ms: millis(now.send_timeout),
            outstanding: count(now.outstanding),
            zombies: count(now.zombies),
            queued_commands: count(now.queued_commands),
            queued_bytes: now.queued_bytes as u64,
            unsent_bytes: now.unsent_bytes as u64,
        };
        // SAFETY: as above.
        unsafe { limits.write(values) };
        Ok(0)
    })
}

/// Sets the limits of the clients to come.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_set_limits(ctx: *mut Ctx, limits: *const Limits) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        // SAFETY: null, or the program's structure; its size says whether it is all there.
        let size = unsafe { limits.cast::<usize>().as_ref() }.copied();
        if size.is_none_or(|size| size < size_of::<Limits>()) {
            return Err(EINVAL);
        }
        // SAFETY: as above.
        let asked = unsafe { limits.read() };
        if asked.outstanding == 0 || asked.queued_commands == 0 || asked.queued_bytes == 0 {
            return Err(EINVAL);
        }
        if ctx.session().is_some() {
            return Err(EBUSY);
        }
        let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let mut limits = lock(&ctx.limits);
        limits.reply_timeout = time(asked.dma_timeout_ms);
        limits.handler_timeout = time(asked.handler_timeout_ms);
        limits.handshake_timeout = time(asked.handshake_timeout_ms);
        limits.message_timeout = time(asked.message_timeout_ms);
        limits.send_timeout = time(asked.send_timeout_ms);
        limits.outstanding = asked.outstanding as usize;
        limits.zombies = asked.zombies as usize;
        limits.queued_commands = asked.queued_commands as usize;
        limits.queued_bytes = bytes(asked.queued_bytes);
        limits.unsent_bytes = bytes(asked.unsent_bytes);
        let timeout = limits.handler_timeout;
        drop(limits);
        ctx.station().set_handler_timeout(timeout);
        Ok(0)
    })
}

/// Says how the memory of clients to come is reached.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_set_memory_policy(ctx: *mut Ctx, policy: c_int) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let policy = match policy {
            0 => MemoryPolicy::Trusting,
            1 => MemoryPolicy::Guarded,
            2 => MemoryPolicy::Copying,
            3 => MemoryPolicy::Sealed,
            _ => return Err(EINVAL),
        };
        if ctx.session().is_some() {
            return Err(EBUSY);
        }
        ctx.station().set_memory_policy(policy);
        Ok(0)
    })
}

/// Gives the counters of the session.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_get_counters(ctx: *mut Ctx, counters: *mut Counters) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        // SAFETY: null, or the program's structure; its size says whether it is all there.
        let size = unsafe { counters.cast::<usize>().as_ref() }.copied();
        if size.is_none_or(|size| size < size_of::<Counters>()) {
            return Err(EINVAL);
        }
        let now = ctx.session().ok_or(ENOTCONN)?.counters();
        let values = Counters {
            size: size_of::<Counters>(),
            commands: now.commands,
            replies: now.replies,
            late_replies: now.late_replies,
            stray_replies: now.stray_replies,
            misplaced_commands: now.misplaced_commands,
            timeouts: now.timeouts,
            canceled: now.canceled,
            queue_peak: now.queue_peak as u64,
        };
        // SAFETY: as above.
        unsafe { counters.write(values) };
        Ok(0)
    })
}

/// Milliseconds until something has to be done though nothing comes; -1: never.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_get_timeout(ctx: *mut Ctx) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let opening = lock(&ctx.opening).as_ref().map(|(session, _)| session.clone());
        let left = ctx.session().or(opening).and_then(|session| session.timeout());
        let holds = ctx.session().is_some_and(|session| session.holds());
        let left = if holds { Some(left.map_or(HELD, |left| left.min(HELD))) } else { left };
        // Rounded up: who comes too early comes in vain.
        let left = left.map(|left| left.as_nanos().div_ceil(1_000_000));
        Ok(left.map_or(-1, |left| c_int::try_from(left).unwrap_or(c_int::MAX)))
    })
}

/// The socket on which replies to DMA messages come, if it is another one.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_rs_get_dma_poll_fd(ctx: *mut Ctx) -> c_int {
    entry(-1, || {
        let session = context!(ctx).session().ok_or(ENOENT)?;
        session.twin_fd().map(|fd| fd.as_raw_fd()).ok_or(ENOENT)
    })
}
