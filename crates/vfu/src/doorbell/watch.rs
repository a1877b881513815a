//! Doorbells in memory that the driver writes without a word.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::Doorbell;
use super::scan::{Page, Ring, Scan};
use crate::memory::{OutOfBounds, SharedMemory, Watcher};
use crate::sync::Mutex;

/// Watches doorbells in [`SharedMemory`]: words that the driver writes, and the device has to look at.
///
/// A ring is a **change** of a word. Writing the same value twice is one ring, and of two writes in
/// quick succession only the second may be seen: put a count or an index there, as NVMe's tail
/// doorbells are. What the words hold when the watch begins counts as seen.
///
/// Nothing tells the device of a store to mapped memory. So a device that looks all the time is as
/// fast as can be and takes a processor, and a device that sleeps is woken by one of these:
///
/// * The driver says it. While the device sleeps it has a number that is not 0 in a word of the memory
///   ([`sleep_flag`](WatchBuilder::sleep_flag)). A driver stores the doorbell, then a full memory fence, then
///   reads that word, and if it is not 0 rings [`doorbell`](WatchBuilder::doorbell), for example by the
///   ioeventfd that the device offers beside. With such a driver no ring is lost, and a device at
///   rest does nothing.
/// * The time. For a driver that knows of no such word the device looks again every
///   [`interval`](WatchBuilder::interval): a ring that meets it asleep is seen that much later at worst, and
///   a device at rest wakes up that often.
/// * A message. A client that has not mapped the memory writes it by message; that wakes the device.
///
/// [`spawn`](Self::spawn) gives it a thread that does all of this. For an event loop there are
/// [`next`](Self::next) and [`fall_asleep`](Self::fall_asleep).
pub struct Watch(Arc<Inner>);

pub(super) struct Inner {
    pub(super) words: Words,
    scan: Mutex<Scan>,
    pub(super) bell: Doorbell,
}

/// Where the doorbells are.
#[derive(Debug)]
pub(super) struct Words {
    memory: SharedMemory,
    offset: u64,
    count: u32,
    stride: u64,
    wide: bool,
    flag: Option<u64>,
    pub(super) interval: Option<Duration>,
    pub(super) spin: Duration,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.0.words).finish()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.fmt(f)
    }
}

/// Describes a [`Watch`]; made by [`Watch::over`].
#[derive(Debug)]
#[must_use]
pub struct WatchBuilder {
    words: Words,
    bell: Option<Doorbell>,
}

impl WatchBuilder {
    /// Words of 64 bits, not of 32.
    pub fn wide(mut self) -> Self {
        self.words.stride = self.words.stride.max(8);
        self.words.wide = true;
        self
    }

    /// From the start of one word to that of the next, in bytes; a multiple of the word's size, and
    /// that by default.
    pub fn stride(mut self, bytes: u64) -> Self {
        self.words.stride = bytes;
        self
    }

    /// The 32-bit word at `offset` of the memory is 1 while the device sleeps, and the driver looks
    /// at it. From then on only [`interval`](Self::interval) makes it look by itself.
    pub fn sleep_flag(mut self, offset: u64) -> Self {
        self.words.flag = Some(offset);
        self.words.interval = None;
        self
    }

    /// A doorbell that wakes the device; the watch takes its rings.
    pub fn doorbell(mut self, bell: &Doorbell) -> Self {
        self.bell = Some(bell.clone());
        self
    }

    /// How long a device that sleeps may miss a ring of a driver that does not wake it. Default: 1 ms;
    /// without end after [`sleep_flag`](Self::sleep_flag).
    pub fn interval(mut self, time: Duration) -> Self {
        self.words.interval = Some(time);
        self
    }

    /// How long it looks before it sleeps, at the most: it finds out by itself how much of that
    /// pays. Default: 50 us. Zero: it never spins.
    pub fn spin(mut self, time: Duration) -> Self {
        self.words.spin = time;
        self
    }

    /// Begins to watch.
    ///
    /// # Errors
    /// `InvalidInput`: a word, or the flag, is not in the memory or not aligned to its size. Else the
    /// system has no descriptor left.
    pub fn build(self) -> std::io::Result<Watch> {
        let WatchBuilder { words, bell } = self;
        words.check().map_err(|why| std::io::Error::new(std::io::ErrorKind::InvalidInput, why))?;
        let bell = bell.map_or_else(Doorbell::new, Ok)?;
        words.set_asleep(false);
        let scan = Mutex::new(Scan::new(&words, words.count));
        let inner = Arc::new(Inner { words, scan, bell });
        let watcher: Arc<dyn Watcher> = inner.clone();
        inner.words.memory.watch(Arc::downgrade(&watcher) as Weak<dyn Watcher>);
        Ok(Watch(inner))
    }
}

impl Watch {
    /// Describes a watch over `count` words of 32 bits from `offset` of the memory.
    pub fn over(memory: &SharedMemory, offset: u64, count: u32) -> WatchBuilder {
        let words = Words {
            memory: memory.clone(),
            offset,
            count,
            stride: 4,
            wide: false,
            flag: None,
            interval: Some(Duration::from_millis(1)),
            spin: Duration::from_micros(50),
        };
        WatchBuilder { words, bell: None }
    }

    /// The next ring that was not seen yet. Never waits.
    pub fn next(&self) -> Option<Ring> {
        self.0.next()
    }

    /// Before an event loop waits: says that the device sleeps. False: something has rung, so it
    /// must not. True: wait until this is readable or the [interval](WatchBuilder::interval) is over, then
    /// call [`wake_up`](Self::wake_up), and look.
    pub fn fall_asleep(&self) -> bool {
        self.0.fall_asleep()
    }

    /// After an event loop has waited.
    pub fn wake_up(&self) {
        self.0.wake_up();
        self.0.bell.take();
    }

    /// How long a wait may be.
    pub fn interval(&self) -> Option<Duration> {
        self.0.words.interval
    }

    /// All words become 0, and that rings nothing: for a reset of the device.
    pub fn reset(&self) {
        self.0.reset();
    }

    pub(super) fn into_inner(self) -> Arc<Inner> {
        self.0
    }
}

/// Readable when a sleeping device is to look.
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

impl Inner {
    pub(super) fn next(&self) -> Option<Ring> {
        self.scan.lock().unwrap_or_else(PoisonError::into_inner).next(&self.words)
    }

    pub(super) fn fall_asleep(&self) -> bool {
        self.scan.lock().unwrap_or_else(PoisonError::into_inner).fall_asleep(&self.words)
    }

    pub(super) fn wake_up(&self) {
        self.words.set_asleep(false);
    }

    pub(super) fn reset(&self) {
        let mut scan = self.scan.lock().unwrap_or_else(PoisonError::into_inner);
        self.words.clear();
        scan.forget(&self.words);
    }
}

impl Watcher for Inner {
    fn written(&self, at: u64, len: u64) {
        if self.words.overlap(at, len) {
            self.bell.ring();
        }
    }
}

impl Words {
    fn width(&self) -> u64 {
        if self.wide { 8 } else { 4 }
    }

    fn check(&self) -> Result<(), OutOfBoundsOrOdd> {
        let (width, size) = (self.width(), self.memory.size());
        let inside = |at: Option<u64>, len: u64| {
            let at = at.filter(|at| at.checked_add(len).is_some_and(|end| end <= size));
            at.ok_or(OutOfBounds { at: at.unwrap_or(u64::MAX), len: len as usize, size })
        };
        let last = u64::from(self.count.max(1) - 1).checked_mul(self.stride);
        inside(last.and_then(|last| last.checked_add(self.offset)), width)?;
        if self.offset % width != 0 || self.stride % width != 0 || self.stride == 0 {
            return Err(OutOfBoundsOrOdd::Odd { width });
        }
        if let Some(flag) = self.flag {
            inside(Some(flag), 4)?;
            if flag % 4 != 0 {
                return Err(OutOfBoundsOrOdd::Odd { width: 4 });
            }
        }
        Ok(())
    }

    /// Where a word is; `check` has seen to it that it does not wrap.
    fn at(&self, index: u32) -> u64 {
        self.offset.wrapping_add(u64::from(index).wrapping_mul(self.stride))
    }

    fn overlap(&self, at: u64, len: u64) -> bool {
        let end = self.at(self.count.saturating_sub(1)).saturating_add(self.width());
        self.count > 0 && at < end && at.saturating_add(len) > self.offset
    }

    fn clear(&self) {
        for index in 0..self.count {
            let _inside = self.memory.write(self.at(index), &[0; 8][..self.width() as usize]);
        }
    }
}

/// Why words can't be watched.
#[derive(Debug, thiserror::Error)]
enum OutOfBoundsOrOdd {
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    #[error("words of {width} bytes begin at multiples of that, and so do their strides")]
    Odd { width: u64 },
}

impl Page for Words {
    fn load(&self, index: u32) -> u64 {
        let at = self.at(index);
        let value = if self.wide {
            self.memory.read_u64(at)
        } else {
            self.memory.read_u32(at).map(u64::from)
        };
        value.unwrap_or_default()
    }

    fn set_asleep(&self, asleep: bool) {
        if let Some(flag) = self.flag {
            let _inside = self.memory.write_u32(flag, asleep.into());
        }
    }
}
