//! One doorbell: rung by an eventfd that the client has, and by messages.

use std::fmt;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::io::{Errno, ReadWriteFlags, preadv2, write};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Instant, Mutex, kernel};

/// Where an ioeventfd is; for [`Builder::ioeventfd`](crate::server::Builder::ioeventfd).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoEventFd {
    pub(crate) region: u32,
    pub(crate) offset: u64,
    pub(crate) width: u64,
    pub(crate) datamatch: Option<u64>,
}

impl IoEventFd {
    /// Writes of any width to the byte at `offset` of BAR `region`, and of anything.
    pub const fn at(region: u32, offset: u64) -> Self {
        IoEventFd { region, offset, width: 0, datamatch: None }
    }

    /// Only writes of 1, 2, 4 or 8 bytes.
    pub const fn width(mut self, bytes: u64) -> Self {
        self.width = bytes;
        self
    }

    /// Only writes of this number, in little-endian order. Needs a [`width`](Self::width).
    pub const fn datamatch(mut self, value: u64) -> Self {
        self.datamatch = Some(value);
        self
    }

    /// Whether a write is one that rings.
    pub(crate) fn is_rung_by(&self, offset: u64, data: &[u8]) -> bool {
        if offset != self.offset || (self.width != 0 && data.len() as u64 != self.width) {
            return false;
        }
        let Some(value) = self.datamatch else { return true };
        let mut bytes = [0; 8];
        let fits = bytes.get_mut(..data.len()).map(|bytes| bytes.copy_from_slice(data)).is_some();
        fits && u64::from_le_bytes(bytes) == value
    }
}

/// A doorbell of the device: what a driver's write to an [`IoEventFd`] rings, whether it comes by
/// the eventfd that the client got, or by a message. The device's handlers do not see those writes.
///
/// The device waits for it on a thread of its own ([`wait`](Self::wait)), or has its event loop poll
/// the descriptor and then [`take`](Self::take)s the rings. Cheap to clone, usable from any thread; a
/// ring goes to the one who takes it first.
///
/// An eventfd is a way around the session, so the order of things is looser than for a write by
/// message:
/// * A ring may be seen before writes that the driver posted ahead of it, if its client does not
///   care for the order ([`Client::doorbells`](crate::Client::doorbells) does; a VMM that uses KVM's
///   ioeventfds can't).
/// * A driver that has rung and then reads a register may get what the register held before the
///   device saw the ring.
/// * An eventfd rings also while the function is not in D0, and while the client has stopped it in
///   order to move it. The server drops such writes if they come by message; a device that is to be
///   moved leaves such rings alone, or saves them.
///
/// A [reset](crate::Device::reset) does not take rings back: a device that does not want them takes
/// them there. Once a client has gone, what it kept of the eventfd rings nothing any more.
#[derive(Clone)]
pub struct Doorbell(Arc<Inner>);

struct Inner {
    /// Readable while there is something to take. Both eventfds are in it edge-triggered: their
    /// counters, which the client can reach too, need not be read for it.
    epoll: OwnedFd,
    /// Never leaves this process, and never fills.
    own: OwnedFd,
    /// Rings through `own`.
    rings: AtomicU64,
    /// What the client has.
    client: Mutex<Option<Arc<OwnedFd>>>,
}

impl Inner {
    /// Makes it unreadable until the next ring. Says whether the client has rung.
    fn clear(&self) -> bool {
        let empty = Event { flags: EventFlags::empty(), data: EventData::new_u64(OWN) };
        let mut events = [empty; 2];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.epoll, &mut events, Some(&now)).unwrap_or(0);
        events.iter().take(count).any(|event| event.data.u64() == THEIRS)
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doorbell")
    }
}

impl Doorbell {
    /// Makes one that nobody has rung. It takes two descriptors, and a third while a client has it.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new() -> std::io::Result<Doorbell> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let own = new_eventfd()?;
        watch(&epoll, &own, OWN)?;
        let (rings, client) = (AtomicU64::new(0), Mutex::default());
        Ok(Doorbell(Arc::new(Inner { epoll, own, rings, client })))
    }

    /// Rings it. Never waits.
    pub fn ring(&self) {
        self.0.rings.fetch_add(1, Ordering::SeqCst);
        let _never_full = kernel::act(|| write(&self.0.own, &1u64.to_ne_bytes()));
    }

    /// Takes the rings: how often it was rung since the last time, however many were told of at
    /// once. 0 if it was not. Never waits.
    pub fn take(&self) -> u64 {
        let inner = &self.0;
        // Off first: a ring from here on makes it readable again.
        let told = inner.clear();
        let client = inner.client.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = client.as_ref().map_or(0, |fd| drain(fd, told));
        drop(client);
        inner.rings.swap(0, Ordering::SeqCst).saturating_add(theirs)
    }

    /// Waits until it is rung, and takes the rings; `None` waits for ever. 0: the time is over.
    ///
    /// Not from a handler: the server stands still meanwhile.
    pub fn wait(&self, time: Option<Duration>) -> u64 {
        let begun = Instant::now();
        loop {
            let left = time.map(|time| time.saturating_sub(begun.elapsed()));
            let rings = self.take();
            if rings > 0 || left.is_some_and(|left| left.is_zero()) {
                return rings;
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut set = [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN)];
            match kernel::poll(&mut set, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return self.take(),
            }
        }
    }

    /// The eventfd for the client that is connected; made when it is first asked for.
    pub(crate) fn for_client(&self) -> Result<Arc<OwnedFd>, Errno> {
        let mut client = self.0.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fd) = &*client {
            return Ok(fd.clone());
        }
        let fd = Arc::new(new_eventfd()?);
        watch(&self.0.epoll, &fd, THEIRS)?;
        *client = Some(fd.clone());
        Ok(fd)
    }

    /// The client has gone: its eventfd is not listened to any more. What it rang before counts.
    pub(crate) fn disconnect(&self) {
        let client = self.0.client.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(fd) = client else { return };
        let told = self.0.clear();
        // Closing does not do that: the client has the same file.
        let _not_there = epoll::delete(&self.0.epoll, &fd);
        let rings = drain(&fd, told);
        // Also for those that came by message: their sign was cleared, too.
        if self.0.rings.fetch_add(rings, Ordering::SeqCst) > 0 || rings > 0 {
            let _never_full = kernel::act(|| write(&self.0.own, &1u64.to_ne_bytes()));
        }
    }

    /// Whether both are the same doorbell.
    pub(crate) fn is(&self, other: &Doorbell) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Readable while there are rings to take; not to be read.
impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.epoll.as_fd()
    }
}

fn new_eventfd() -> Result<OwnedFd, Errno> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

/// What epoll says of `Inner::own`, and of the client's eventfd.
const OWN: u64 = 0;
const THEIRS: u64 = 1;

fn watch(epoll: &OwnedFd, fd: &OwnedFd, which: u64) -> Result<(), Errno> {
    epoll::add(epoll, fd, EventData::new_u64(which), EventFlags::IN | EventFlags::ET)
}

/// Reads the counter of a client's eventfd. The client may have made the file one that waits, so
/// that is ruled out for each read. Linux before 5.8 can't promise it: there the counter is left alone,
/// one or many is not known, and it is one if epoll has `told` of any.
fn drain(fd: &OwnedFd, told: bool) -> u64 {
    let mut bytes = [0; 8];
    let read = preadv2(fd, &mut [IoSliceMut::new(&mut bytes)], u64::MAX, ReadWriteFlags::NOWAIT);
    match read {
        Ok(8) => u64::from_ne_bytes(bytes),
        Err(Errno::OPNOTSUPP | Errno::SPIPE | Errno::NOSYS) => told.into(),
        _ => 0,
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use std::thread;

    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use rustix::io::read;

    use super::*;

    fn is_readable(bell: &Doorbell) -> bool {
        let mut set = [PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN)];
        rustix::event::poll(&mut set, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    fn ring_as_client(fd: &OwnedFd, times: u64) {
        write(fd, &times.to_ne_bytes()).unwrap();
    }

    #[test]
    fn rings_of_both_ways_are_counted() {
        let bell = Doorbell::new().unwrap();
        assert_eq!((is_readable(&bell), bell.take()), (false, 0));
        let client = bell.for_client().unwrap();
        assert!(Arc::ptr_eq(&client, &bell.for_client().unwrap()));
        for round in 1..4 {
            bell.ring();
            ring_as_client(&client, round);
            ring_as_client(&client, 1);
            assert!(is_readable(&bell));
            assert_eq!(bell.take(), round + 2);
            assert_eq!((is_readable(&bell), bell.take()), (false, 0));
        }
        assert_eq!(bell.wait(Some(Duration::ZERO)), 0);
    }

    #[test]
    fn a_client_that_has_gone_rings_no_more() {
        let bell = Doorbell::new().unwrap();
        let client = bell.for_client().unwrap();
        ring_as_client(&client, 2);
        bell.disconnect();
        assert!(is_readable(&bell));
        assert_eq!(bell.take(), 2, "what it rang before");
        bell.for_client().unwrap();
        bell.ring();
        bell.disconnect();
        assert_eq!((is_readable(&bell), bell.take()), (true, 1), "what came by message");
        ring_as_client(&client, 1);
        assert_eq!((is_readable(&bell), bell.take()), (false, 0));
        let next = bell.for_client().unwrap();
        ring_as_client(&next, 1);
        assert_eq!(bell.take(), 1);
    }

    /// The client has the same open file: it can change its flags, fill it, and empty it.
    #[test]
    fn a_client_can_not_make_the_device_wait() {
        let bell = Doorbell::new().unwrap();
        let client = bell.for_client().unwrap();
        let flags = fcntl_getfl(&client).unwrap();
        fcntl_setfl(&client, flags - OFlags::NONBLOCK).unwrap();
        ring_as_client(&client, 1);
        read(&*client, &mut [0; 8]).unwrap();
        assert_eq!(bell.take(), 0, "it took its ring back");
        ring_as_client(&client, u64::MAX - 1);
        bell.ring();
        bell.ring();
        assert_eq!(bell.take(), u64::MAX);
        assert_eq!((is_readable(&bell), bell.take()), (false, 0));
    }

    /// A file that can be watched, but can't be read with the promise not to wait.
    #[test]
    fn without_a_count_a_ring_is_one_and_is_taken_once() {
        use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

        let bell = Doorbell::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let client = Arc::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap());
        inotify::add_watch(&client, folder.path(), WatchFlags::CREATE).unwrap();
        watch(&bell.0.epoll, &client, THEIRS).unwrap();
        *bell.0.client.lock().unwrap() = Some(client);
        for name in ["a", "b"] {
            std::fs::write(folder.path().join(name), "").unwrap();
            assert_eq!((is_readable(&bell), bell.take()), (true, 1));
            assert_eq!((is_readable(&bell), bell.take()), (false, 0));
        }
    }

    #[test]
    fn who_waits_is_woken() {
        let bell = Doorbell::new().unwrap();
        let client = bell.for_client().unwrap();
        for by_client in [false, true] {
            let waiter = bell.clone();
            let waiter = thread::spawn(move || waiter.wait(None));
            if by_client {
                ring_as_client(&client, 1)
            } else {
                bell.ring()
            }
            assert_eq!(waiter.join().unwrap(), 1);
        }
    }

    #[test]
    fn a_write_rings_if_all_fits() {
        let any = IoEventFd::at(0, 8);
        assert!(any.is_rung_by(8, &[1]) && any.is_rung_by(8, &[0; 100]));
        assert!(!any.is_rung_by(9, &[1]) && !any.is_rung_by(7, &[0; 8]));
        let wide = IoEventFd::at(0, 8).width(4);
        assert!(wide.is_rung_by(8, &[1; 4]) && !wide.is_rung_by(8, &[1; 2]));
        let one = wide.datamatch(0x0201);
        assert!(one.is_rung_by(8, &[1, 2, 0, 0]) && !one.is_rung_by(8, &[1, 2, 0, 1]));
    }
}
