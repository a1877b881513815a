//! Threads that work on a device's registers while it moves, and miss nothing.

use std::convert::Infallible;
use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use serde::Serialize;
use vfu::client::{ClientError, Memory, Migrate, MigrateError, Moved, READ_WRITE};
use vfu::{Client, IrqIndex};
use vfu_devices::Model;
use vfu_devices::dmatest::{command, register};
use vfu_testkit::{DEADLINE, Interrupts, SharedRam, Vmm};

use super::report::milliseconds;
use crate::exit::Exit;

/// Rounds of each thread before the move, and after it.
const ROUNDS: u64 = 100;
const BAR: u32 = 0;
/// Memory for the copies of dmatest, shared with both servers.
const RAM: u64 = 0x10_0000;
const RAM_SIZE: u64 = 0x1_0000;
const COPY: u64 = 64;
/// Registers of edu.
const RAISED: u64 = 0x24;
const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;

/// What the threads have done.
#[derive(Debug, Serialize)]
pub(super) struct Hammered {
    device: &'static str,
    threads: u32,
    accesses_before: u64,
    accesses_after: u64,
    /// Interrupts of edu, copies of dmatest: as many as were asked for, no more and no less.
    events: u64,
    longest_access_seconds: f64,
}

impl fmt::Display for Hammered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hammered { threads, accesses_before, accesses_after, events, .. } = self;
        let what = if self.device == Model::Edu.name() { "interrupts" } else { "copies" };
        let longest = milliseconds(self.longest_access_seconds);
        write!(
            f,
            "{threads} threads: {accesses_before} accesses before and {accesses_after} after, none \
             lost; {events} {what}, each once; the longest access took {longest}"
        )
    }
}

/// A guest whose processors are threads.
pub(super) struct Hammer<'a> {
    model: Model,
    threads: u32,
    /// Where the device is: whoever accesses it reads, whoever moves it writes.
    place: RwLock<&'a Client>,
    to: &'a Client,
    /// At the source, and at the destination.
    interrupts: [Interrupts; 2],
    _ram: SharedRam,
    shared: Shared,
}

/// What has become of the work of a thread.
#[derive(Default)]
struct Work {
    rounds: u64,
    failed: Option<anyhow::Error>,
}

#[derive(Default)]
struct Shared {
    accesses: AtomicU64,
    /// How often something that is counted was asked for.
    events: AtomicU64,
    longest_nanos: AtomicU64,
    end: AtomicBool,
    work: Mutex<Vec<Work>>,
    changed: Condvar,
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Vec<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until each thread has done `more` rounds.
    fn wait_for(&self, more: u64) -> anyhow::Result<()> {
        let mut work = self.work();
        let goals: Vec<u64> = work.iter().map(|work| work.rounds + more).collect();
        loop {
            if let Some(error) = work.iter_mut().find_map(|work| work.failed.take()) {
                return Err(error);
            }
            if work.iter().zip(&goals).all(|(work, goal)| work.rounds >= *goal) {
                return Ok(());
            }
            work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<'a> Hammer<'a> {
    /// Sets both ends up as a VMM would.
    pub(super) fn new(
        ids: (u16, u16),
        from: &'a Client,
        to: &'a Client,
        threads: u32,
    ) -> anyhow::Result<Hammer<'a>> {
        let can = [Model::Edu, Model::DmaTest].into_iter().find(|model| model.ids() == ids);
        let model = can.ok_or_else(|| {
            let (vendor, device) = ids;
            let why = format!("--hammer drives edu and dmatest; this is {vendor:04x}:{device:04x}");
            Exit::Usage.with(anyhow!(why))
        })?;
        let ram = SharedRam::new(RAM, RAM_SIZE)?;
        for (client, what) in [(from, "the source"), (to, "the destination")] {
            let memory = Memory::File(ram.as_fd(), 0);
            let mapped = client.dma_map(RAM, RAM_SIZE, READ_WRITE, memory);
            mapped.with_context(|| format!("sharing memory with {what}"))?;
        }
        let interrupts = set_up(model, from, to).context("setting both ends up")?;
        let shared = Shared::default();
        shared.work().resize_with(threads as usize, Work::default);
        let place = RwLock::new(from);
        Ok(Hammer { model, threads, place, to, interrupts, _ram: ram, shared })
    }

    /// Moves the device while the threads work on it.
    pub(super) fn during(
        &self,
        migrate: Migrate<'_>,
    ) -> anyhow::Result<Result<(Moved, Hammered), MigrateError>> {
        let moved = thread::scope(|scope| {
            let _then_all_end = End(&self.shared);
            for thread in 0..self.threads {
                scope.spawn(move || self.work(thread));
            }
            self.shared.wait_for(ROUNDS)?;
            let mut paused = None;
            let moved = migrate.before_stop(|| {
                paused = Some(self.place.write().unwrap_or_else(PoisonError::into_inner));
                Ok::<_, Infallible>(())
            });
            let moved = match moved.run() {
                Ok(moved) => moved,
                Err(error) => return Ok(Err(error)),
            };
            let before = self.shared.accesses.load(Ordering::SeqCst);
            if let Some(mut place) = paused.take() {
                *place = self.to;
            }
            self.shared.wait_for(ROUNDS)?;
            anyhow::Ok(Ok((moved, before)))
        })?;
        let (moved, before) = match moved {
            Ok(moved) => moved,
            Err(error) => return Ok(Err(error)),
        };
        self.shared.wait_for(0)?; // one may have failed at its end
        let events = self.count()?;
        let longest = self.shared.longest_nanos.load(Ordering::SeqCst);
        let hammered = Hammered {
            device: self.model.name(),
            threads: self.threads,
            accesses_before: before,
            accesses_after: self.shared.accesses.load(Ordering::SeqCst) - before,
            events,
            longest_access_seconds: longest as f64 / 1e9,
        };
        Ok(Ok((moved, hammered)))
    }

    fn work(&self, thread: u32) {
        let mut failed = false;
        for round in 1.. {
            if failed || self.shared.end.load(Ordering::SeqCst) {
                return;
            }
            let done = match self.model {
                Model::Edu => self.edu(thread),
                _ => self.dmatest(thread, round),
            };
            failed = done.is_err();
            if let Some(work) = self.shared.work().get_mut(thread as usize) {
                *work = Work { rounds: round, failed: done.err() };
            }
            self.shared.changed.notify_all();
        }
    }

    /// One access, wherever the device is. It may have moved between any two.
    fn access(
        &self,
        access: impl FnOnce(&Client) -> Result<(), ClientError>,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        let place = self.place.read().unwrap_or_else(PoisonError::into_inner);
        access(&place)?;
        self.shared.accesses.fetch_add(1, Ordering::SeqCst);
        drop(place);
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.shared.longest_nanos.fetch_max(nanos, Ordering::SeqCst);
        Ok(())
    }

    fn write(&self, offset: u64, value: u64, width: usize) -> anyhow::Result<()> {
        self.access(|at| at.region_write(BAR, offset, &value.to_le_bytes()[..width]))
    }

    fn read(&self, offset: u64, width: usize) -> anyhow::Result<u64> {
        let mut bytes = [0; 8];
        self.access(|at| at.region_read(BAR, offset, &mut bytes[..width]))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Raises an interrupt, sees its bit, takes it away, and sees that too.
    fn edu(&self, thread: u32) -> anyhow::Result<()> {
        let bit = 1 << thread;
        self.write(RAISE, bit, 4)?;
        self.shared.events.fetch_add(1, Ordering::SeqCst);
        ensure!(self.read(RAISED, 4)? & bit != 0, "thread {thread}: a write to RAISE was lost");
        self.write(ACKNOWLEDGE, bit, 4)?;
        let raised = self.read(RAISED, 4)?;
        ensure!(raised & bit == 0, "thread {thread}: a write to ACKNOWLEDGE was lost");
        Ok(())
    }

    /// Writes to a register of its own, has something copied, and reads the register.
    fn dmatest(&self, thread: u32, round: u64) -> anyhow::Result<()> {
        let mine = register::SCRATCH + 8 * u64::from(thread);
        let value = round << 8 | u64::from(thread);
        self.write(mine, value, 8)?;
        let place = if round % 4 == 0 { command::ON_THREAD } else { command::IN_HANDLER };
        self.write(register::COMMAND, place.into(), 4)?;
        self.shared.events.fetch_add(1, Ordering::SeqCst);
        let read = self.read(mine, 8)?;
        ensure!(read == value, "thread {thread}: {value:#x} was written, and {read:#x} read");
        Ok(())
    }

    /// Whether all has happened that was asked for, and nothing twice.
    fn count(&self) -> anyhow::Result<u64> {
        let wanted = self.shared.events.load(Ordering::SeqCst);
        let [here, there] = &self.interrupts;
        if self.model == Model::Edu {
            let seen = here.count_now(0)? + there.count_now(0)?;
            ensure!(seen == wanted, "{wanted} interrupts were asked for, and {seen} came");
            return Ok(wanted);
        }
        // Those on the device's thread may still be under way.
        let (wanted_low, began) = (wanted & u64::from(u32::MAX), Instant::now());
        let mut seen = self.read(register::COUNT, 4)?;
        while seen < wanted_low && began.elapsed() < DEADLINE {
            thread::yield_now();
            seen = self.read(register::COUNT, 4)?;
        }
        ensure!(seen == wanted_low, "{wanted} copies were asked for, and {seen} were made");
        Ok(wanted)
    }
}

/// Prepares the device at the source, and at the destination what the client has to arrange anew.
fn set_up(model: Model, from: &Client, to: &Client) -> anyhow::Result<[Interrupts; 2]> {
    let vmm = Vmm::over(from.clone());
    let there = Interrupts::new(1)?;
    if model == Model::Edu {
        let function = vmm.enumerate()?;
        let here = vmm.enable_msi(&function, 1)?;
        to.assign_irqs(IrqIndex::Msi, 0, &there.fds())?;
        vmm.write32(BAR, ACKNOWLEDGE, u32::MAX)?;
        return Ok([here, there]);
    }
    vmm.client().reset()?; // copies count from 0
    vmm.enumerate()?;
    vmm.write64(BAR, register::SOURCE, RAM)?;
    vmm.write64(BAR, register::DESTINATION, RAM + COPY)?;
    vmm.write32(BAR, register::LENGTH, COPY as u32)?;
    Ok([Interrupts::new(1)?, there])
}

/// Ends the threads, whatever happens.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end.store(true, Ordering::SeqCst);
    }
}
