//! A watch on a thread of its own.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, PoisonError};

use super::pace::Pace;
use super::scan::Ring;
use super::watch::{Inner, Watch};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Instant, Mutex, ThreadBuilder, thread_local};

/// Looks between two looks at the clock.
const LOOKS: u32 = 64;

thread_local! {
    /// The watch whose callback this thread runs.
    static CURRENT: Cell<*const Watched> = const { Cell::new(std::ptr::null()) };
}

/// A [`Watch`] on a thread of its own; dropping it ends the thread, and waits for that.
pub struct Watching(Arc<Watched>);

struct Watched {
    inner: Arc<Inner>,
    stopped: AtomicBool,
    ended: Mutex<bool>,
    changed: Condvar,
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watching").field(&self.0.inner).finish()
    }
}

impl Watch {
    /// Gives it a thread, which calls `on_ring` for each ring, one at a time and in no order between
    /// the words. It may take its time, and may do DMA that waits; meanwhile rings gather in the
    /// memory. It goes on while clients come and go, and while the device is reset or stopped:
    /// DMA fails then as on any thread of the device.
    ///
    /// `on_ring` must not wait for a thread that stops or drops the [`Watching`], and a handler of
    /// the device that takes a lock of `on_ring`'s waits for it.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn spawn(self, on_ring: impl FnMut(Ring) + Send + 'static) -> std::io::Result<Watching> {
        let watched = Arc::new(Watched {
            inner: self.into_inner(),
            stopped: AtomicBool::new(false),
            ended: Mutex::new(false),
            changed: Condvar::new(),
        });
        let thread = watched.clone();
        let builder = ThreadBuilder::new().name("doorbells".into());
        builder.spawn(move || thread.run(on_ring)).map(drop)?;
        Ok(Watching(watched))
    }
}

impl Watching {
    /// Ends the thread, and waits until a callback that runs has returned; from the callback itself
    /// it does not wait. Rings that were not seen yet stay in the memory.
    pub fn stop(&self) {
        let watched = &self.0;
        watched.stopped.store(true, Ordering::SeqCst);
        watched.inner.bell.ring();
        if CURRENT.with(Cell::get) == Arc::as_ptr(watched) {
            return;
        }
        let mut ended = watched.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            ended = watched.changed.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has it look now, for somebody who knows that a word was written: the device itself.
    pub fn look(&self) {
        self.0.inner.bell.ring();
    }

    /// All words become 0, and that rings nothing: for a reset of the device. A callback that has
    /// begun may still be running.
    pub fn reset(&self) {
        self.0.inner.reset();
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread is over, also if the callback panics.
struct End<'a>(&'a Watched);

impl Drop for End<'_> {
    fn drop(&mut self) {
        *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}

impl Watched {
    fn run(self: Arc<Self>, mut on_ring: impl FnMut(Ring)) {
        let _end = End(&self);
        CURRENT.with(|current| current.set(Arc::as_ptr(&self)));
        let inner = &self.inner;
        let mut pace = Pace::new(inner.words.spin);
        while !self.is_stopped() {
            if let Some(ring) = inner.next() {
                on_ring(ring);
                continue;
            }
            match self.spin(pace) {
                Some(ring) => {
                    pace.found();
                    on_ring(ring);
                }
                None => {
                    pace.missed();
                    if let Some(ring) = self.sleep(&mut pace) {
                        on_ring(ring);
                    }
                }
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Looks for a time.
    fn spin(&self, pace: Pace) -> Option<Ring> {
        let time = pace.spin();
        let begun = Instant::now();
        while !self.is_stopped() && begun.elapsed() < time {
            for _ in 0..LOOKS {
                if let Some(ring) = self.inner.next() {
                    return Some(ring);
                }
                std::hint::spin_loop();
            }
        }
        None
    }

    /// Sleeps until there is a ring, or the end.
    fn sleep(&self, pace: &mut Pace) -> Option<Ring> {
        let inner = &self.inner;
        let begun = Instant::now();
        while !self.is_stopped() {
            if inner.fall_asleep() {
                inner.bell.wait(inner.words.interval);
                inner.wake_up();
            }
            if let Some(ring) = inner.next() {
                pace.woken_after(begun.elapsed());
                return Some(ring);
            }
        }
        None
    }
}
