//! One descriptor that stands for all that a server or a client waits for, for somebody else's event loop.

use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use vfu_proto::session::Channel;

use crate::link::{Link, Wake};

/// An epoll instance over the listening socket, the session's sockets, and a wake-up for commands
/// that another thread read while it waited.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    wake: Arc<Wake>,
    /// The session's sockets are watched for room to write, too.
    writing: bool,
    /// The one with the commands is watched for nothing else: there is no room for them.
    stuck: bool,
    /// Readable at the next deadline of the session.
    timer: OwnedFd,
    /// When that is.
    armed: Option<Instant>,
    /// The listening socket is left alone for a while: the timer says when that is over.
    paused: bool,
}

impl Poller {
    pub(crate) fn new(wake: &Arc<Wake>) -> Result<Poller> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let (wake, writing, stuck) = (wake.clone(), false, false);
        let poller = Poller { epoll, wake, writing, stuck, timer, armed: None, paused: false };
        poller.add(poller.wake.as_fd())?;
        poller.add(poller.timer.as_fd())?;
        Ok(poller)
    }

    /// Watches a descriptor for something to read.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>) -> Result<()> {
        match epoll::add(&self.epoll, fd, EventData::new_u64(0), EventFlags::IN) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Watches a descriptor no more.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        let _not_there = epoll::delete(&self.epoll, fd);
    }

    /// Watches a listening socket no more, for so long: somebody is there who can't be accepted.
    pub(crate) fn pause(&mut self, listener: BorrowedFd<'_>, time: Duration) -> Result<()> {
        self.remove(listener);
        self.paused = true;
        self.set_timer(time)?;
        self.armed = Instant::now().checked_add(time);
        Ok(())
    }

    /// Watches it again.
    pub(crate) fn resume(&mut self, listener: BorrowedFd<'_>) -> Result<()> {
        if !std::mem::take(&mut self.paused) {
            return Ok(());
        }
        let _none = rustix::io::read(&self.timer, &mut [0u8; 8]);
        self.add(listener)
    }

    /// Has the timer go off once, after so long.
    fn set_timer(&self, time: Duration) -> Result<()> {
        let it_value = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: zero, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Watches a client's sockets; called again when there is one more.
    pub(crate) fn watch(&mut self, link: &Link) -> Result<()> {
        self.add(link.main().as_fd())?;
        link.twin().map_or(Ok(()), |twin| self.add(twin.as_fd()))
    }

    /// Sets the timer for the session's next deadline, unless it goes off early enough anyway.
    fn arm(&mut self, link: &Link) -> Result<()> {
        let now = Instant::now();
        let spent = self.armed.is_some_and(|armed| armed <= now);
        if spent {
            let _none = rustix::io::read(&self.timer, &mut [0u8; 8]);
            self.armed = None;
        }
        let wanted = link.time_to_look().and_then(|time| now.checked_add(time));
        let Some(wanted) = wanted.filter(|w| self.armed.is_none_or(|armed| *w < armed)) else {
            return Ok(());
        };
        // Zero would disarm it.
        let time = wanted.saturating_duration_since(now).max(Duration::from_nanos(1));
        self.set_timer(time)?;
        self.armed = Some(wanted);
        Ok(())
    }

    /// Watches for the session's next deadline, for room to write as long as something waits to be sent,
    /// and for commands as long as there is room for them.
    pub(crate) fn update(&mut self, link: &Link) -> Result<()> {
        self.arm(link)?;
        let writing = link.has_unsent();
        let stuck = writing && link.is_stuck();
        if (self.writing, self.stuck) == (writing, stuck) {
            return Ok(());
        }
        (self.writing, self.stuck) = (writing, stuck);
        for channel in Channel::ALL {
            let Some(socket) = link.socket_of(channel) else { continue };
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::OUT, writing);
            flags.set(EventFlags::IN, !stuck || channel != link.command_channel());
            epoll::modify(&self.epoll, socket, EventData::new_u64(0), flags)?;
        }
        Ok(())
    }

    /// Stops watching a client.
    pub(crate) fn forget(&mut self, link: &Link) {
        (self.writing, self.stuck) = (false, false);
        for socket in [Some(link.main()), link.twin()].into_iter().flatten() {
            let _not_there = epoll::delete(&self.epoll, socket);
        }
    }

    /// Makes the descriptor readable.
    pub(crate) fn wake(&self) {
        self.wake.wake();
    }

    /// Takes wake-ups off, now that they are answered.
    pub(crate) fn clear(&self) {
        self.wake.clear();
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
