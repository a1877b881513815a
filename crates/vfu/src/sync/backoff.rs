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
    use std::fs;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    /// What the kernel says that a thread does: `R` if it runs or could.
    fn state(thread: &str) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{thread}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// One that is always ready to run keeps those of a lower priority from it for ever.
    #[test]
    fn who_waits_long_sleeps() {
        let done = Arc::new(AtomicBool::new(false));
        let (tell, told) = channel();
        let until = done.clone();
        let waiter = thread::spawn(move || {
            let id = fs::read_link("/proc/thread-self").unwrap();
            tell.send(id.into_os_string().into_string().unwrap()).unwrap();
            let mut backoff = Backoff::default();
            while !until.load(Ordering::SeqCst) {
                backoff.pause();
            }
        });
        let id = told.recv().unwrap();
        while state(&id) != Some('S') {
            yield_now();
        }
        done.store(true, Ordering::SeqCst);
        waiter.join().unwrap();
    }
}
