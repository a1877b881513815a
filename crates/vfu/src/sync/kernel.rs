//! System calls that wait, and those that end the wait of another thread.
//!
//! A model checker has one thread of the system for all of ours, so none may wait in the kernel. Its
//! calls only look, and when there is nothing the thread waits, as the model sees it, until another
//! has done something that could change that. The descriptors are real.

#[cfg(not(shuttle))]
mod chosen {
    use std::os::fd::BorrowedFd;

    pub(crate) use rustix::event::poll;
    use rustix::net::RecvFlags;
    pub(crate) use rustix::thread::sched_yield as yield_now;

    /// The flags of a receive that may wait, or may not.
    #[inline]
    pub(crate) fn may_wait(_socket: BorrowedFd<'_>, wait: bool) -> RecvFlags {
        if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT }
    }

    /// Makes a call for which another thread may wait.
    #[inline]
    pub(crate) fn act<T>(call: impl FnOnce() -> T) -> T {
        call()
    }
}

#[cfg(shuttle)]
mod chosen {
    use std::os::fd::{AsFd, BorrowedFd};
    use std::sync::PoisonError;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec};
    use rustix::io::Errno;
    use rustix::net::RecvFlags;
    use rustix::net::sockopt::{Timeout, socket_timeout};
    use shuttle::sync::{Condvar, Mutex};
    pub(crate) use shuttle::thread::yield_now;

    use crate::sync::clock;

    shuttle::lazy_static! {
        static ref CALLS: Mutex<()> = Mutex::new(());
        static ref CHANGED: Condvar = Condvar::new();
    }

    pub(crate) fn poll(set: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> Result<usize, Errno> {
        let time = |t: &Timespec| Duration::new(t.tv_sec as u64, t.tv_nsec as u32);
        let until = timeout.and_then(|t| clock::now().checked_add(time(t)));
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let ready = rustix::event::poll(set, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            if ready > 0 || until.is_some_and(|until| until <= clock::now()) {
                return Ok(ready);
            }
            calls = CHANGED.wait(calls).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn may_wait(socket: BorrowedFd<'_>, wait: bool) -> RecvFlags {
        if wait {
            let limit = socket_timeout(socket, Timeout::Recv).ok().flatten();
            let limit = limit.and_then(|limit| limit.try_into().ok());
            let mut set = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
            let _seen_by_recv = poll(&mut set, limit.as_ref());
        }
        RecvFlags::DONTWAIT
    }

    pub(crate) fn act<T>(call: impl FnOnce() -> T) -> T {
        let _calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        let result = call();
        CHANGED.notify_all();
        result
    }
}

pub(crate) use chosen::*;
