//! Where things run. On which CPUs two threads are matters more than all else between them.

use anyhow::{Context, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that this thread may use.
///
/// # Errors
/// The system does not say.
pub fn cpus() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("which CPUs may be used")?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Has this thread, and what it starts from now on, run on one CPU.
///
/// # Errors
/// This thread may not use it.
pub fn run_on(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("running on CPU {cpu}"))
}

/// Where the two ends of a session are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Both on one CPU.
    OneCpu,
    /// Each on its own.
    TwoCpus,
}

/// Runs `far`, which starts the other end, and then `near` on this end's CPU; on a thread of its own,
/// whose CPU is nobody else's concern.
pub(crate) fn between<F: Send, T: Send>(
    place: Place,
    far: impl FnOnce() -> anyhow::Result<F> + Send,
    near: impl FnOnce(F) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let cpus = cpus()?;
    let first = *cpus.first().context("no CPU to run on")?;
    let other = match place {
        Place::OneCpu => first,
        Place::TwoCpus => {
            ensure!(cpus.len() > 1, "it takes two CPUs, and only CPU {first} may be used");
            cpus[1]
        }
    };
    std::thread::scope(|scope| {
        let measuring = scope.spawn(move || {
            run_on(other)?;
            let far = far()?;
            run_on(first)?;
            near(far)
        });
        measuring.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the measuring thread panicked")))
    })
}
