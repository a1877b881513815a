//! Waiting for somebody who is through in a moment, and who does not say so.

#[cfg(not(any(loom, shuttle)))]
use std::time::Duration;

use super::yield_now;

/// Pauses between two looks.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    #[cfg(not(any(loom, shuttle)))]
    pauses: u32,
}

/// So many times others may run that want to.
#[cfg(not(any(loom, shuttle)))]
const YIELDS: u32 = 64;
/// Then it may be one of a lower priority that has to: it does not run as long as we could.
#[cfg(not(any(loom, shuttle)))]
const SLEEP: Duration = Duration::from_micros(50);

impl Backoff {
    /// Lets others run.
    pub(crate) fn pause(&mut self) {
        #[cfg(not(any(loom, shuttle)))]
        if self.pauses >= YIELDS {
            return std::thread::sleep(SLEEP);
        } else {
            self.pauses += 1;
        }
        yield_now();
    }
}

#[cfg(all(test, not(any(loom, shuttle, miri))))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;

    use vfu_testkit::{this_thread, thread_state};

    use super::*;

    /// One that is always ready to run keeps those of a lower priority from it for ever.
    #[test]
    fn who_waits_long_sleeps() {
        let done = Arc::new(AtomicBool::new(false));
        let (tell, told) = channel();
        let until = done.clone();
        let waiter = thread::spawn(move || {
            tell.send(this_thread()).unwrap();
            let mut backoff = Backoff::default();
            while !until.load(Ordering::SeqCst) {
                backoff.pause();
            }
        });
        let waiting = told.recv().unwrap();
        while thread_state(&waiting) != Some('S') {
            yield_now();
        }
        done.store(true, Ordering::SeqCst);
        waiter.join().unwrap();
    }
}
