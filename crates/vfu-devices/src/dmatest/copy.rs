//! The copy itself, and the thread that does those that the driver does not wait for.

use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread;

use tracing::{error, warn};
use vfu::DmaError;
use vfu::wire::Errno;

use super::registers::Job;
use super::state::{Inner, State, Work};
use super::{MAX_LENGTH, MAX_WAITING};
use crate::pause::Pause;

const NO_THREAD: &str = "dmatest: can't start a thread";
const FAILED: &str = "dmatest: DMA failed";

/// Copies now, inside a handler, and notes how it went. The state must not be locked.
pub(super) fn run(inner: &Inner, mut state: MutexGuard<'_, State>, job: Job) {
    let (generation, id) = (state.generation, state.enter(job));
    drop(state);
    let mut work = Work::from(job);
    let result = match check(&job) {
        Ok(()) => move_inverted(inner, &mut work, |work| {
            if let Some(entered) = inner.lock().inside.get_mut(&id) {
                *entered = work.clone();
            }
        }),
        Err(errno) => Err(Failure::of(errno)),
    };
    let mut state = inner.lock();
    let left = state.inside.remove(&id).is_some();
    match result {
        // The device is about to be stopped, and does not know yet.
        Err(failure) if failure.again && left && state.generation == generation => {
            state.waiting.push_front(work);
        }
        result => inner.ended(&mut state, &job, generation, errno_value(result)),
    }
}

/// Has the device's thread do it.
pub(super) fn queue(inner: &Arc<Inner>, state: &mut State, job: Job) {
    let refused = if state.waiting.len() >= MAX_WAITING {
        Some(Errno::EAGAIN)
    } else {
        start_thread(inner, state).err()
    };
    match refused.or(check(&job).err()) {
        None => {
            state.waiting.push_back(Work::from(job));
            inner.work.notify_one();
        }
        // The driver must not wait for ever.
        Some(errno) => {
            let generation = state.generation;
            inner.ended(state, &job, generation, errno_value(Err(Failure::of(errno))));
        }
    }
}

/// Has the thread look at what waits, if anything does.
pub(super) fn wake_if_due(inner: &Arc<Inner>, state: &mut State) {
    if state.waiting.is_empty() {
        return;
    }
    match start_thread(inner, state) {
        Ok(()) => inner.work.notify_one(),
        Err(errno) => {
            let generation = state.generation;
            for work in std::mem::take(&mut state.waiting) {
                inner.ended(state, &work.job, generation, errno_value(Err(Failure::of(errno))));
            }
        }
    }
}

fn check(job: &Job) -> Result<(), Errno> {
    if job.length > MAX_LENGTH { Err(Errno::EINVAL) } else { Ok(()) }
}

fn start_thread(inner: &Arc<Inner>, state: &mut State) -> Result<(), Errno> {
    if !state.worker {
        spawn(inner.clone()).map_err(|error| {
            if let Some(kept) = inner.handle.seldom(NO_THREAD) {
                error!(%error, "{NO_THREAD}{kept}");
            }
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
        let next = if state.pause.may_work() { state.waiting.pop_front() } else { None };
        state = match next {
            Some(work) => unlocked(inner, state, work),
            None => inner.work.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

fn unlocked<'a>(
    inner: &'a Inner,
    mut state: MutexGuard<'a, State>,
    mut work: Work,
) -> MutexGuard<'a, State> {
    let (generation, tries) = (state.generation, state.pause.begin());
    drop(state);
    let result = move_inverted(inner, &mut work, |_| {});
    let mut state = inner.lock();
    state.pause.end();
    inner.ended.notify_all();
    match result {
        Err(failure) if failure.again && state.generation == generation => {
            state.pause.refused(tries);
            state.waiting.push_front(work);
        }
        result => inner.ended(&mut state, &work.job, generation, errno_value(result)),
    }
    state
}

/// Why a copy has not ended well.
struct Failure {
    errno: Errno,
    /// It is to be tried again.
    again: bool,
}

impl Failure {
    fn of(errno: Errno) -> Failure {
        Failure { errno, again: false }
    }

    fn dma(inner: &Inner, what: &str, job: &Job, error: &DmaError) -> Failure {
        let again = Pause::is_refusal(error, &inner.handle);
        if !again {
            if let Some(kept) = inner.handle.seldom(FAILED) {
                warn!(?job, what, %error, "{FAILED}{kept}");
            }
        }
        Failure { errno: error.errno(), again }
    }
}

/// Source and destination may overlap: once all has been read it is not read again, whoever goes on.
fn move_inverted(
    inner: &Inner,
    work: &mut Work,
    was_read: impl FnOnce(&Work),
) -> Result<(), Failure> {
    let (dma, job) = (inner.handle.dma(), work.job);
    let failed = |what, error| Failure::dma(inner, what, &job, &error);
    if work.bytes.is_none() {
        let mut bytes = vec![0; job.length as usize];
        dma.read(job.source, &mut bytes).map_err(|e| failed("read", e))?;
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        work.bytes = Some(bytes);
        was_read(work);
    }
    let bytes = work.bytes.as_deref().unwrap_or_default();
    dma.write(job.destination, bytes).map_err(|e| failed("write", e))
}

fn errno_value(result: Result<(), Failure>) -> u32 {
    result.err().map_or(0, |failure| failure.errno.raw().unsigned_abs())
}
