//! Looking again and again before sleeping: what comes soon is had sooner.
//!
//! To wake a thread on another CPU takes many times as long as the message itself. A thread that
//! still looks when the message comes need not be woken. How long it looks depends on what the last
//! waits were like: as long as that pays the longest time there is, and soon no time at all.

use std::time::Duration;

use rustix::thread::sched_getaffinity;
use vfu_proto::session::Closed;

use super::Link;
use super::read::Reading;
use crate::sync::Instant;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::kernel::yield_now;

/// Whether a thread that waits for the peer first looks for a short time again and again, before it
/// sleeps.
///
/// It halves the time of an access or more where both ends run on CPUs of their own and the peer
/// answers, or asks again, within some microseconds. The price is CPU time, and with it that of
/// whoever else wants the CPU; so it is off unless asked for. The time adapts itself: as long as
/// it pays it is the longest, and when nothing comes within it, it is soon none at all.
///
/// It says nothing about [`Server::process`](crate::Server::process), which never waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spin {
    /// A thread that waits sleeps.
    #[default]
    Off,
    /// It looks for 50 µs at most, unless the thread that begins the session may run on one CPU only.
    Auto,
    /// It looks for so long at most, which is at most [`Spin::MOST`], on whichever CPUs.
    AtMost(Duration),
}

impl Spin {
    /// The most that [`Spin::AtMost`] can ask for; more is taken for this.
    pub const MOST: Duration = Duration::from_micros(100);

    fn most(self) -> Duration {
        match self {
            Spin::Off => Duration::ZERO,
            Spin::Auto if has_one_cpu() => Duration::ZERO,
            Spin::Auto => Duration::from_micros(50),
            Spin::AtMost(most) => most.min(Spin::MOST),
        }
    }
}

fn has_one_cpu() -> bool {
    sched_getaffinity(None).is_ok_and(|cpus| cpus.count() < 2)
}

/// However the clock goes: a model's stands still.
const TRIES: u32 = if cfg!(shuttle) { 2 } else { 10_000 };

/// How long the threads of a session look. They may change it at once: no harm comes of a guess.
#[derive(Debug, Default)]
pub(super) struct Spinning {
    most_ns: u32,
    now_ns: AtomicU32,
    /// Waits that are slept through, after looking was in vain.
    rest: AtomicU32,
    /// How many at the next time.
    next_rest: AtomicU32,
}

/// How a wait went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// What was waited for came while we looked.
    Seen,
    /// We slept, and it was not for long: looking on would have been enough.
    Short,
    /// It took too long.
    Long,
}

impl Spinning {
    pub(super) fn new(spin: Spin) -> Self {
        let most_ns = spin.most().as_nanos() as u32; // at most `Spin::MOST`
        Spinning { most_ns, now_ns: AtomicU32::new(most_ns), ..Spinning::default() }
    }

    /// For how long to look, in nanoseconds.
    fn time(&self) -> u32 {
        if self.rest.load(Ordering::Relaxed) > 0 { 0 } else { self.now_ns.load(Ordering::Relaxed) }
    }

    /// Notes a wait that took so long, of which we looked for `looked`.
    fn note(&self, took: Duration, looked: u32, slept: bool) {
        let most = Duration::from_nanos(self.most_ns.into());
        let wait = match slept {
            false => Wait::Seen,
            // Half of it, or more, was the waking up.
            true if looked < self.most_ns && took <= 2 * most => Wait::Short,
            true => Wait::Long,
        };
        self.learn(wait, looked > 0);
    }

    fn learn(&self, wait: Wait, looked: bool) {
        let (load, store) = (
            |what: &AtomicU32| what.load(Ordering::Relaxed),
            |what: &AtomicU32, value| what.store(value, Ordering::Relaxed),
        );
        let (now, rest) = (load(&self.now_ns), load(&self.rest));
        if rest > 0 {
            store(&self.rest, rest - 1);
        }
        match wait {
            Wait::Seen => store(&self.next_rest, 0),
            Wait::Short if rest > 0 => {}
            Wait::Short => store(&self.now_ns, (now * 2).clamp(self.most_ns / 8, self.most_ns)),
            Wait::Long if looked => {
                let next = load(&self.next_rest).clamp(1, MOST_REST / 2) * 2;
                store(&self.now_ns, if now > self.most_ns / 4 { now / 2 } else { 0 });
                store(&self.rest, next);
                store(&self.next_rest, next);
            }
            Wait::Long => {}
        }
    }
}

/// So seldom looking is tried again that never pays: once in so many waits.
const MOST_REST: u32 = 256;

impl Link {
    /// Has the threads of this session spin.
    pub(crate) fn spinning(mut self, spin: Spin) -> Self {
        self.spinning = Spinning::new(spin);
        self
    }

    /// Waits by `sleep`, which receives once; before that it looks for a while.
    #[inline]
    pub(super) fn look_then(
        &self,
        reading: &mut Reading,
        sleep: impl FnOnce(&mut Reading) -> Result<bool, Closed>,
    ) -> Result<bool, Closed> {
        if self.spinning.most_ns == 0 {
            return sleep(reading);
        }
        let began = Instant::now();
        let time = self.spinning.time();
        let seen = self.look(reading, began, Duration::from_nanos(time.into()));
        let slept = matches!(seen, Ok(false));
        let came = if slept { sleep(reading) } else { seen };
        self.spinning.note(began.elapsed(), time, slept);
        came
    }

    /// Receives without waiting until something comes or the time is over; or until somebody wants
    /// whoever waits.
    fn look(&self, reading: &mut Reading, began: Instant, time: Duration) -> Result<bool, Closed> {
        let wake = self.wakes[reading.channel() as usize].get();
        let wake = wake.and_then(Option::as_ref);
        for _ in 0..TRIES {
            let wanted = wake.is_some_and(|wake| wake.is_asked());
            if wanted || self.has_unsent() || began.elapsed() >= time {
                break;
            }
            if self.receive(reading, [true; 2])? {
                return Ok(true);
            }
            yield_now();
        }
        Ok(false)
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;

    const MOST: u32 = 50_000;

    fn spinning() -> Spinning {
        Spinning::new(Spin::AtMost(Duration::from_nanos(MOST.into())))
    }

    /// A wait for something that comes after so many nanoseconds. Gives for how long we looked.
    fn wait(spinning: &Spinning, comes_after: u32) -> u32 {
        let time = spinning.time();
        let slept = comes_after > time;
        spinning.note(Duration::from_nanos(comes_after.into()), time, slept);
        time.min(comes_after)
    }

    #[test]
    fn what_comes_soon_is_always_seen() {
        let spinning = spinning();
        for _ in 0..1000 {
            assert_eq!(wait(&spinning, 5_000), 5_000);
        }
    }

    #[test]
    fn what_never_comes_soon_is_hardly_looked_for() {
        for pause in [60_000, 90_000, 110_000, 10_000_000] {
            let spinning = spinning();
            let _warm: u32 = (0..1000).map(|_| wait(&spinning, pause)).sum();
            let looked: u32 = (0..1000).map(|_| wait(&spinning, pause)).sum();
            assert!(looked / 1000 < pause / 50, "{looked} ns in 1000 waits of {pause} ns");
        }
    }

    #[test]
    fn looking_is_taken_up_again() {
        let spinning = spinning();
        let _warm: u32 = (0..1000).map(|_| wait(&spinning, 10_000_000)).sum();
        assert_eq!(spinning.time(), 0);
        let soon = (0..2 * MOST_REST).position(|_| wait(&spinning, 4_000) == 4_000);
        assert!(soon.is_some(), "{spinning:?}");
        assert_eq!(wait(&spinning, 4_000), 4_000);
    }

    #[test]
    fn a_burst_between_long_pauses_is_seen() {
        let spinning = spinning();
        for _ in 0..50 {
            wait(&spinning, 10_000_000);
            let seen = (0..100).filter(|_| wait(&spinning, 5_000) == 5_000).count();
            assert!(seen > 50, "{seen} of 100: {spinning:?}");
        }
    }

    #[test]
    fn nobody_looks_for_ever() {
        assert_eq!(Spinning::new(Spin::AtMost(Duration::MAX)).most_ns, 100_000);
        assert_eq!(Spinning::new(Spin::Off).most_ns, 0);
    }
}
