//! One device, without what it is.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use vfu_proto::session::Limits;
use vfu_proto::wire::{DmaMap, Errno};

use super::region::{Region, View};
use crate::context::{self, Inside};
use crate::dma::dirty::{Grid, Picture};
use crate::dma::{self, Inserted, MemoryPolicy};
use crate::irq::rescue::Distrust;
use crate::irq::{EventFd, Irqs};
use crate::pci::ConfigSpace;
use crate::seldom::Kept;
use crate::shared::{Gate, Shared};
use crate::sync::Mutex;

/// One device, from its making to its end; clients come and go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Station {
    pub(super) shared: Arc<Shared>,
}

impl Station {
    /// A device without a client. It may always send memory requests.
    pub fn new(limits: &Limits) -> Station {
        let config = ConfigSpace::bare();
        let irqs = Irqs::of(&config);
        let (timeout, regions) = (limits.handler_timeout, Arc::default());
        let memory = MemoryPolicy::default();
        Station { shared: Arc::new(Shared::new(config, irqs, false, timeout, memory, regions)) }
    }

    /// Whether to write one more message of a kind that a client can cause as often as it likes; see
    /// [`Handle::seldom`](crate::Handle::seldom).
    pub fn seldom(&self, kind: &'static str) -> Option<Kept> {
        self.shared.seldom.ask(kind)
    }

    /// Kinds of which some messages were counted and not written, and how many: of those for which it
    /// is time, or, at the end, of all.
    pub fn seldom_rest(&self, at_the_end: bool) -> Vec<(&'static str, Kept)> {
        self.shared.seldom.rest(at_the_end)
    }

    /// How long all DMA by message of a handler may take; `None`: for ever.
    pub fn set_handler_timeout(&self, timeout: Option<Duration>) {
        self.shared.set_handler_timeout(timeout);
    }

    /// How memory is reached that clients share from now on, and what becomes of it if they take it away.
    pub fn set_memory_policy(&self, policy: MemoryPolicy) {
        self.shared.table.files.set_policy(policy);
    }

    /// Runs `f` as a handler of an access: it may wait for DMA.
    pub fn handle<T>(&self, f: impl FnOnce() -> T) -> T {
        context::run(&self.shared, Inside::Handler, f)
    }

    /// Runs `f` as a callback from which DMA by message could wait for itself, and is refused.
    pub fn notify<T>(&self, f: impl FnOnce() -> T) -> T {
        context::run(&self.shared, Inside::Callback, f)
    }

    /// Runs `f` while the device is quiesced: DMA that begins meanwhile is refused. Where `f` does the
    /// same, the device rests until the outer one is through.
    pub fn at_rest<T>(&self, f: impl FnOnce() -> T) -> T {
        struct Open<'a>(&'a Shared);
        impl Drop for Open<'_> {
            fn drop(&mut self) {
                self.0.set_gate(Gate::Open);
            }
        }
        let is_outer = !self.shared.quiesce_gate();
        let _open = is_outer.then(|| Open(&self.shared));
        f()
    }

    /// Whether this thread is in [`handle`](Self::handle) or [`notify`](Self::notify).
    pub fn is_inside(&self) -> bool {
        context::inside(&self.shared).is_some()
    }

    /// Enters a mapping, and says whether it is new.
    ///
    /// # Errors
    /// What DMA_MAP answers.
    pub fn map(&self, map: &DmaMap, fd: Option<OwnedFd>, limit: usize) -> Result<bool, Errno> {
        let region = dma::Region::new(map, fd, &self.shared.table.files)?;
        if let Some(pages) = region.logged() {
            self.shared.dirty.admit(pages)?;
        }
        Ok(self.shared.table.insert(region, limit)? == Inserted::New)
    }

    /// Shows the mapping that `address` lies in. It must not call back here.
    #[inline]
    pub fn look<T>(&self, address: u64, f: impl FnOnce(View<'_>) -> T) -> Option<T> {
        self.shared.table.look(address, |region| f(View(region)))
    }

    /// The mapping that `address` lies in.
    pub fn mapping(&self, address: u64) -> Option<Region> {
        self.shared.table.look(address, |region| Region(region.clone()))
    }

    /// All mappings, in the order of their addresses.
    pub fn mappings(&self) -> Vec<Region> {
        self.shared.table.all().into_iter().map(Region).collect()
    }

    /// Takes a mapping out, and gives up the messages about it. What is copied just now keeps its memory
    /// until it is done.
    pub fn unmap(&self, region: &Region) {
        let (address, size) = (region.0.address, region.0.size);
        let _gone_already = self.shared.table.remove(address, size);
        if let Some(live) = self.shared.live() {
            live.link.cancel(Some((address, size)));
        }
    }

    /// Logs from now on which pages the device writes; gives the page size, which is at least 4 KiB.
    ///
    /// # Errors
    /// `EINVAL`: it does so already, with another page size, or the page size is no power of two; `ENOMEM`.
    pub fn start_logging(&self, page_size: u64) -> Result<u64, Errno> {
        let regions = self.shared.table.all();
        self.shared.dirty.start(page_size, regions.iter().filter_map(|region| region.logged()))
    }

    /// Logs no more, and forgets.
    pub fn stop_logging(&self) {
        let regions = self.shared.table.all();
        self.shared.dirty.stop(regions.iter().filter_map(|region| region.logged()));
    }

    /// Whether pages are logged.
    pub fn is_logging(&self) -> bool {
        self.shared.dirty.page_size().is_some()
    }

    /// Adds to `bits` which pages of a mapping's first `length` bytes were written, and forgets that:
    /// one for each `page_size` bytes. There are as many as fit into whole 64-bit words.
    ///
    /// # Errors
    /// `EINVAL`: the page size is no power of two, or `bits` has another length; `ENOMEM`.
    pub fn report(
        &self,
        region: &Region,
        length: u64,
        page_size: u64,
        bits: &mut [u8],
    ) -> Result<(), Errno> {
        let grid = Grid::new(region.0.address, length, page_size).ok_or(Errno::EINVAL)?;
        if grid.bitmap_len() != bits.len() as u64 {
            return Err(Errno::EINVAL);
        }
        if let Some(pages) = region.0.logged() {
            let mut written = Vec::new();
            let mut picture = Picture::append(grid, &mut written)?;
            pages.report(&mut picture);
            picture.finish();
            bits.iter_mut().zip(written).for_each(|(bits, more)| *bits |= more);
        }
        Ok(())
    }

    /// A reset: DMA by message that is under way ends.
    pub fn cancel(&self) {
        self.shared.next_epoch();
        if let Some(live) = self.shared.live() {
            live.link.cancel(None);
        }
    }

    /// Ends the wait of a thread in [`Session::wait`](super::Session::wait).
    pub fn kick(&self) {
        if let Some(live) = self.shared.live() {
            live.link.kick();
        }
    }

    /// Runs `f` when the client has acknowledged every DMA_WRITE that is under way, at once if there
    /// are none: an interrupt does not overtake the data that it announces. A reset in between, and `f`
    /// is dropped.
    pub fn after_writes(&self, f: impl FnOnce() + Send + 'static) {
        let written = self.shared.has_written() == Some(true);
        let Some(live) = self.shared.live().filter(|_| written) else { return f() };
        let (shared, epoch) = (self.shared.clone(), self.shared.epoch());
        let fenced = Arc::new(Fenced { shared, epoch, run: Mutex::new(Some(Box::new(f))) });
        if !live.link.wake_after_writes(|| Waker::from(fenced.clone())) {
            fenced.run();
        }
    }
}

/// What waits for writes.
struct Fenced {
    shared: Arc<Shared>,
    epoch: u64,
    run: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Fenced {
    fn run(&self) {
        let run = self.run.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if self.shared.epoch() == self.epoch {
            run.into_iter().for_each(|run| run());
        }
    }
}

impl Wake for Fenced {
    fn wake(self: Arc<Self>) {
        self.run();
    }
}

/// An eventfd of the client. Writing to it never blocks and raises no signal.
#[derive(Debug)]
pub struct Event(EventFd);

impl Event {
    /// Takes a descriptor of the client, in a session with this `distrust`.
    ///
    /// # Errors
    /// `EINVAL`: it is no eventfd.
    pub fn new(fd: OwnedFd, distrust: &Distrust) -> Result<Event, Errno> {
        EventFd::new(fd, distrust).map(Event)
    }

    /// Adds one.
    ///
    /// # Errors
    /// What the system says; `EDEADLK`: the client has made such a call wait, and there are no more.
    pub fn signal(&mut self) -> Result<(), Errno> {
        self.0.signal().map_err(|e| Errno::from_raw(e.raw_os_error()))
    }
}
