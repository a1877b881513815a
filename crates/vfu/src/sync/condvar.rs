//! A condition variable whose waits end in time, as the clock of the model has it.

use std::sync::{Arc, LockResult, Mutex, MutexGuard as StdGuard, PoisonError};
use std::time::Duration;

use shuttle::sync::MutexGuard;

use super::clock;

shuttle::lazy_static! {
    /// Who waits, and until when. Not a lock of the model: nobody waits for it.
    static ref ALARMS: Mutex<Vec<Alarm>> = Mutex::new(Vec::new());
}

#[derive(Clone)]
struct Alarm {
    until: Duration,
    condvar: Arc<shuttle::sync::Condvar>,
}

fn alarms() -> StdGuard<'static, Vec<Alarm>> {
    ALARMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes those whose time has come, until they have noticed.
#[cfg(test)]
pub(super) fn ring() {
    loop {
        let due = alarms().iter().find(|alarm| alarm.until <= clock::now()).cloned();
        let Some(alarm) = due else { return };
        alarm.condvar.notify_all();
        shuttle::thread::yield_now();
    }
}

/// As [`std::sync::Condvar`]; the model's own never times out.
#[derive(Debug, Default)]
pub(crate) struct Condvar(Arc<shuttle::sync::Condvar>);

impl Condvar {
    pub(crate) fn new() -> Self {
        Condvar::default()
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        let Some(until) = clock::now().checked_add(time) else {
            return self.wait(guard).map(|guard| (guard, false)).map_err(into_pair);
        };
        if time.is_zero() {
            return Ok((guard, true));
        }
        alarms().push(Alarm { until, condvar: self.0.clone() });
        // The first look at the list lets others run: the time may be over, and nobody rings again.
        let result = if until <= clock::now() { Ok(guard) } else { self.0.wait(guard) };
        let mut alarms = alarms();
        let ours = |alarm: &Alarm| alarm.until == until && Arc::ptr_eq(&alarm.condvar, &self.0);
        if let Some(at) = alarms.iter().position(ours) {
            alarms.swap_remove(at);
        }
        let timed_out = until <= clock::now();
        result.map(|guard| (guard, timed_out)).map_err(into_pair)
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

fn into_pair<T>(e: PoisonError<T>) -> PoisonError<(T, bool)> {
    PoisonError::new((e.into_inner(), false))
}
