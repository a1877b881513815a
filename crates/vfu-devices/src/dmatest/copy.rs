//! The copy itself, and the thread that does those that the driver does not wait for.

use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread;

use tracing::{error, warn};
use vfu::wire::Errno;

use super::registers::Job;
use super::state::{Inner, State};
use super::{MAX_LENGTH, MAX_WAITING};

/// Copies now, on this thread, and notes how it went. The state must not be locked.
pub(super) fn run(inner: &Inner, job: &Job, generation: u64) {
    let errno = move_inverted(inner, job).err().map_or(0, errno_value);
    inner.ended(&mut inner.lock(), job, generation, errno);
}

/// Has the device's thread do it.
pub(super) fn queue(inner: &Arc<Inner>, state: &mut State, job: Job) {
    let refused = if state.jobs.len() >= MAX_WAITING {
        Some(Errno::EAGAIN)
    } else {
        start_thread(inner, state).err()
    };
    match refused {
        None => {
            state.jobs.push_back(job);
            inner.work.notify_one();
        }
        // The driver must not wait for ever.
        Some(errno) => {
            let generation = state.generation;
            inner.ended(state, &job, generation, errno_value(errno));
        }
    }
}

fn start_thread(inner: &Arc<Inner>, state: &mut State) -> Result<(), Errno> {
    if !state.worker {
        spawn(inner.clone()).map_err(|error| {
            error!(%error, "dmatest: can't start a thread");
            Errno::EAGAIN
        })?;
        state.worker = true;
    }
    Ok(())
}

fn spawn(inner: Arc<Inner>) -> io::Result<()> {
    let builder = thread::Builder::new().name("dmatest".into()).stack_size(256 << 10);
    builder.spawn(move || work(&inner)).map(drop)
}

fn work(inner: &Inner) {
    let mut state = inner.lock();
    while !state.stop {
        state = match state.jobs.pop_front() {
            Some(job) => unlocked(inner, state, &job),
            None => inner.work.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

fn unlocked<'a>(
    inner: &'a Inner,
    state: MutexGuard<'a, State>,
    job: &Job,
) -> MutexGuard<'a, State> {
    let generation = state.generation;
    drop(state);
    run(inner, job, generation);
    inner.lock()
}

fn move_inverted(inner: &Inner, job: &Job) -> Result<(), Errno> {
    if job.length > MAX_LENGTH {
        return Err(Errno::EINVAL);
    }
    let (dma, mut bytes) = (inner.handle.dma(), vec![0; job.length as usize]);
    let failed = |what: &str, error: vfu::DmaError| {
        warn!(?job, %error, "dmatest: can't {what}");
        error.errno()
    };
    dma.read(job.source, &mut bytes).map_err(|e| failed("read", e))?;
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    dma.write(job.destination, &bytes).map_err(|e| failed("write", e))
}

fn errno_value(errno: Errno) -> u32 {
    errno.raw().unsigned_abs()
}
