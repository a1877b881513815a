//! Commands that end later: those that wait for leases to end, or for the device to come to rest.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Wake, Waker};

use vfu_proto::wire::{DmaMap, DmaUnmapRequest, Errno, HEADER_SIZE, Header, UnmapWhat};

use super::dirty::Unmapped;
use super::executor::{Call, Executor};
use super::migrate::Stopping;
use crate::context::{self, Inside};
use crate::device::{Device, DmaRange};
use crate::dma::{Backing, Inserted, Region};
use crate::link::{Link, Message};
use crate::quiesce::{Pending, Quiesce};
use crate::shared::Gate;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// What has been put off.
#[derive(Debug, Default)]
pub(super) struct Parked {
    state: Mutex<State>,
    /// A command waits for the device to come to rest.
    resting: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    unmaps: Vec<Unmap>,
    rest: Option<(Message, Arc<Pending>)>,
    stopping: Option<Stopping>,
}

/// A DMA_UNMAP that waits for leases.
#[derive(Debug)]
struct Unmap {
    header: Header,
    reply: Unmapped,
    leased: Vec<Leased>,
}

/// A mapping that has left the table, and is still leased.
#[derive(Debug)]
struct Leased {
    region: Arc<Region>,
    /// The device has been told that it is gone, for another one has come to its place.
    told: bool,
}

/// Whether mappings have gone.
pub(super) enum Retired {
    Wholly(Unmapped),
    WhenUnused,
}

/// Has the executor look at what it has put off.
struct Kick(Weak<Link>);

impl Wake for Kick {
    fn wake(self: Arc<Self>) {
        if let Some(link) = self.0.upgrade() {
            link.kick();
        }
    }
}

impl Parked {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no command may be executed before the device has come to rest.
    #[inline]
    pub(super) fn holds_all(&self) -> bool {
        self.resting.load(Ordering::SeqCst)
    }

    /// A command waits for writes to be acknowledged, and all behind it wait, too.
    pub(super) fn hold_for_writes(&self, stopping: Stopping) {
        self.lock().stopping = Some(stopping);
        self.resting.store(true, Ordering::SeqCst);
    }

    /// The command that waited for writes, if they have ended.
    pub(super) fn take_stopping(&self, ended: impl FnOnce(&Stopping) -> bool) -> Option<Stopping> {
        let mut state = self.lock();
        state.stopping.as_ref().filter(|stopping| ended(stopping))?;
        self.resting.store(false, Ordering::SeqCst);
        state.stopping.take()
    }

    /// The session has ended: nobody waits for any of it.
    pub(super) fn clear(&self) {
        *self.lock() = State::default();
        self.resting.store(false, Ordering::SeqCst);
    }
}

impl Executor {
    /// Brings the device to rest for a command that changes something under it, and executes that. If
    /// the device takes its time the command waits.
    pub(super) fn execute_at_rest<D: Device + ?Sized>(
        &self,
        device: &mut D,
        link: &Arc<Link>,
        command: Message,
    ) {
        let mut quiesce = Quiesce::new(link);
        let result = context::run(&self.shared, Inside::Handler, || device.quiesce(&mut quiesce));
        let gate = if quiesce.is_at_rest() { Gate::Quiesced } else { Gate::Open };
        if let Some(pending) = quiesce.into_pending() {
            self.parked.lock().rest = Some((command, pending));
            self.parked.resting.store(true, Ordering::SeqCst);
            // It may have come to rest by now.
            return self.settle_rest(device, link);
        }
        self.rested(device, link, command, result, gate);
    }

    /// Executes the command that waited for the device, if that has come to rest.
    fn settle_rest<D: Device + ?Sized>(&self, device: &mut D, link: &Arc<Link>) {
        let mut parked = self.parked.lock();
        let Some(result) = parked.rest.as_ref().and_then(|(_, pending)| pending.result()) else {
            return;
        };
        let Some((command, _)) = parked.rest.take() else { return };
        drop(parked);
        self.parked.resting.store(false, Ordering::SeqCst);
        self.rested(device, link, command, result, Gate::Quiesced);
    }

    fn rested<D: Device + ?Sized>(
        &self,
        device: &mut D,
        link: &Arc<Link>,
        command: Message,
        result: Result<(), Errno>,
        gate: Gate,
    ) {
        let done = match result {
            Ok(()) => {
                self.shared.set_gate(gate);
                let done = self.execute_now(device, link, command);
                self.shared.set_gate(Gate::Open);
                context::run(&self.shared, Inside::Callback, || device.resume());
                done
            }
            Err(errno) => {
                let _closed = Call { link, header: *command.header() }.refuse(errno);
                command
            }
        };
        link.recycle(Some(done));
    }

    /// Does what was put off and can be done now.
    pub(super) fn settle<D: Device + ?Sized>(&self, device: &mut D, link: &Arc<Link>) {
        self.settle_rest(device, link);
        self.settle_stopping(device, link);
        let waker = Waker::from(Arc::new(Kick(Arc::downgrade(link))));
        let mut unmaps = std::mem::take(&mut self.parked.lock().unmaps);
        unmaps.retain_mut(|unmap| {
            unmap.leased.retain(|Leased { region, told }| {
                let unused = region.is_unused_or_wakes(&waker);
                if unused && !told {
                    self.unmapped(device, region);
                }
                !unused
            });
            if unmap.leased.is_empty() {
                let mut out = vec![0; HEADER_SIZE];
                unmap.reply.emit(&mut out);
                let _closed = Call { link, header: unmap.header }.reply(&mut out, &[]);
            }
            !unmap.leased.is_empty()
        });
        self.parked.lock().unmaps.append(&mut unmaps);
    }

    pub(super) fn dma_map<D: Device + ?Sized>(
        &self,
        device: &mut D,
        map: &DmaMap,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Errno> {
        let region = Region::new(map, fds.into_iter().next(), &self.shared.table.files)?;
        let range = range_of(&region);
        if let Some(pages) = region.logged() {
            self.shared.dirty.admit(pages)?;
        }
        if self.shared.table.insert(region, self.max_dma_maps)? == Inserted::New {
            self.make_way(device, range);
            context::run(&self.shared, Inside::Callback, || device.dma_mapped(range));
        }
        Ok(())
    }

    /// Tells of mappings that have left the table that they are gone, if `new` is where they were. They are
    /// leased still, and their client waits. The new one does not wait for that: commands behind it may
    /// rely on it, and be what ends the lease.
    fn make_way<D: Device + ?Sized>(&self, device: &mut D, new: DmaRange) {
        let last = new.address + (new.size - 1);
        let overlaps = |old: &Region| old.address <= last && new.address <= old.last();
        let mut gone = Vec::new();
        for leased in self.parked.lock().unmaps.iter_mut().flat_map(|unmap| &mut unmap.leased) {
            if !leased.told && overlaps(&leased.region) {
                leased.told = true;
                gone.push(leased.region.clone());
            }
        }
        gone.iter().for_each(|region| self.unmapped(device, region));
    }

    pub(super) fn dma_unmap<D: Device + ?Sized>(
        &self,
        device: &mut D,
        call: Call<'_>,
        request: &DmaUnmapRequest,
    ) -> Result<Retired, Errno> {
        let (mut regions, reply) = match request.what {
            UnmapWhat::Range { address, size } => {
                // What touches no mapping at all is nothing to do, as the kernel's VFIO sees it.
                let region = self.shared.table.remove(address, size)?;
                let reply = request.reply(if region.is_some() { size } else { 0 });
                (Vec::from_iter(region), Unmapped::new(reply))
            }
            UnmapWhat::RangeWithDirty { address, size, pgsize, .. } => {
                let reply = |size| request.reply(size);
                let (region, reply) = self.unmap_with_dirty((address, size), pgsize, reply)?;
                (Vec::from_iter(region), reply)
            }
            UnmapWhat::All => (self.shared.table.remove_all(), Unmapped::new(request.reply(0))),
        };
        self.retire(device, call.link, &mut regions);
        if regions.is_empty() {
            return Ok(Retired::Wholly(reply));
        }
        call.link.attended();
        let leased = regions.into_iter().map(|region| Leased { region, told: false }).collect();
        self.parked.lock().unmaps.push(Unmap { header: call.header, reply, leased });
        // A lease may have ended before it was there to be found.
        call.link.kick();
        Ok(Retired::WhenUnused)
    }

    /// Mappings have left the table. Ends what still uses them, and leaves in `regions` those that
    /// are leased. Never waits for the client, nor for the device.
    fn retire<D: Device + ?Sized>(
        &self,
        device: &mut D,
        link: &Arc<Link>,
        regions: &mut Vec<Arc<Region>>,
    ) {
        let waker = Waker::from(Arc::new(Kick(Arc::downgrade(link))));
        regions.retain(|region| {
            if matches!(region.backing, Backing::Message) {
                link.cancel(Some((region.address, region.size)));
            }
            let range = range_of(region);
            context::run(&self.shared, Inside::Callback, || device.dma_unmapping(range));
            let unused = region.is_unused_or_wakes(&waker);
            if unused {
                self.unmapped(device, region);
            }
            !unused
        });
    }

    fn unmapped<D: Device + ?Sized>(&self, device: &mut D, region: &Region) {
        let range = range_of(region);
        context::run(&self.shared, Inside::Callback, || device.dma_unmapped(range));
    }

    /// The client has gone, and with it all that it mapped. Leases that are still held keep their
    /// memory until they end.
    pub(super) fn unmap_all<D: Device + ?Sized>(&self, device: &mut D, link: &Arc<Link>) {
        let parked = std::mem::take(&mut self.parked.lock().unmaps);
        let mut regions = self.shared.table.remove_all();
        self.retire(device, link, &mut regions);
        let leased = parked.into_iter().flat_map(|unmap| unmap.leased);
        regions.extend(leased.filter(|leased| !leased.told).map(|leased| leased.region));
        for region in regions {
            self.unmapped(device, &region);
        }
        self.parked.clear();
    }
}

fn range_of(region: &Region) -> DmaRange {
    DmaRange {
        address: region.address,
        size: region.size,
        readable: region.readable,
        writable: region.writable,
        direct: !matches!(region.backing, Backing::Message),
    }
}
