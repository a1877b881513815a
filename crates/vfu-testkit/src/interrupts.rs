//! Interrupts, caught in eventfds.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::io::Errno;

use crate::deadline::ready;
use crate::{DEADLINE, KitError};

/// One eventfd for each vector.
#[derive(Debug)]
pub struct Interrupts {
    eventfds: Vec<OwnedFd>,
}

impl Interrupts {
    /// So many eventfds, which nothing writes to yet.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(vectors: usize) -> Result<Interrupts, KitError> {
        let make = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let eventfds = (0..vectors).map(make).collect::<Result<_, _>>();
        Ok(Interrupts { eventfds: eventfds.map_err(KitError::system("eventfd"))? })
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.eventfds.len()
    }

    /// Whether there is no vector.
    pub fn is_empty(&self) -> bool {
        self.eventfds.is_empty()
    }

    /// The eventfds, to be given to the device.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.eventfds.iter().map(AsFd::as_fd).collect()
    }

    /// Waits until a vector was raised; gives how often since the last look.
    ///
    /// # Errors
    /// [`KitError::TimedOut`] if that takes longer than [`DEADLINE`].
    pub fn wait(&self, vector: usize) -> Result<u64, KitError> {
        self.wait_for(vector, DEADLINE)
    }

    /// As [`wait`](Self::wait), with a deadline of one's own.
    ///
    /// # Errors
    /// [`KitError::TimedOut`].
    pub fn wait_for(&self, vector: usize, timeout: Duration) -> Result<u64, KitError> {
        let deadline = Instant::now() + timeout;
        let fd = self.fd(vector)?;
        loop {
            match self.count_now(vector)? {
                0 => {}
                count => return Ok(count),
            }
            if !ready(fd, PollFlags::IN, deadline).map_err(KitError::system("poll"))? {
                return Err(KitError::TimedOut("the interrupt"));
            }
        }
    }

    /// How often a vector was raised since the last look, without waiting.
    ///
    /// # Errors
    /// There is no such vector.
    pub fn count_now(&self, vector: usize) -> Result<u64, KitError> {
        let mut count = [0; 8];
        match rustix::io::read(self.fd(vector)?, &mut count) {
            Ok(_) => Ok(u64::from_ne_bytes(count)),
            Err(Errno::AGAIN) => Ok(0),
            Err(e) => Err(KitError::system("reading an eventfd")(e)),
        }
    }

    /// Fills a counter so far that one more write would block.
    ///
    /// # Errors
    /// There is no such vector.
    pub fn saturate(&self, vector: usize) -> Result<(), KitError> {
        self.count_now(vector)?;
        let most = (u64::MAX - 1).to_ne_bytes();
        let written = rustix::io::write(self.fd(vector)?, &most);
        written.map(drop).map_err(KitError::system("writing an eventfd"))
    }

    fn fd(&self, vector: usize) -> Result<BorrowedFd<'_>, KitError> {
        self.eventfds.get(vector).map(AsFd::as_fd).ok_or(KitError::Missing("vector of that number"))
    }
}
