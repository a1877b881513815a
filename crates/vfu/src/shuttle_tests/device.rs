//! A device with every way to use DMA: a register for each.

use std::sync::Arc;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread::{self, JoinHandle};
use vfu_proto::wire::Errno;

use super::peer::MEMORY;
use crate::dma::{Direction, DmaError};
use crate::migration::{LoadError, Migration};
use crate::{Access, Defer, Device, Fault, Handle, Quiesce};

/// What the registers do, by a write; the value is for the tests to tell workers apart.
pub(super) const WORKER: u64 = 0x00;
pub(super) const CALLBACK: u64 = 0x08;
pub(super) const IN_HANDLER: u64 = 0x10;
/// A read that a thread answers later, with the offset.
pub(super) const DEFERRED: u64 = 0x18;
/// A read that gives the offset.
pub(super) const PLAIN: u64 = 0x20;
/// A thread holds a lease until the mapping is taken back, and a little longer.
pub(super) const LEASE: u64 = 0x28;
/// The next unmap or reset finds the device busy; a thread brings it to rest.
pub(super) const BUSY: u64 = 0x30;

/// A thread that reads again when the device goes on, if it was stopped meanwhile.
pub(super) const STUBBORN: u64 = 0x38;

pub(super) type Outcome = (u64, Result<[u8; 8], DmaError>);

/// What the device has done.
#[derive(Default)]
pub(super) struct Log {
    dma: Mutex<Vec<Outcome>>,
    ended: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pause: Mutex<Pause>,
    changed: Condvar,
}

/// What stubborn threads and those that stop the device tell each other.
#[derive(Default)]
struct Pause {
    /// Threads in DMA.
    busy: u32,
    /// Starts so far.
    starts: u32,
}

impl Log {
    /// Waits for the device's threads.
    pub(super) fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    fn spawn(&self, f: impl FnOnce() + Send + 'static) {
        self.threads.lock().unwrap().push(thread::spawn(f));
    }

    /// Changes the pause, and tells of it.
    fn pause<T>(&self, change: impl FnOnce(&mut Pause) -> T) -> T {
        let value = change(&mut self.pause.lock().unwrap());
        self.changed.notify_all();
        value
    }

    fn wait_until(&self, done: impl Fn(&Pause) -> bool) {
        let mut pause = self.pause.lock().unwrap();
        while !done(&pause) {
            pause = self.changed.wait(pause).unwrap();
        }
    }

    fn add(&self, value: u64, outcome: Result<[u8; 8], DmaError>) {
        self.dma.lock().unwrap().push((value, outcome));
        self.ended.notify_all();
    }

    /// Waits until the DMA with these values has ended.
    pub(super) fn wait_for(&self, values: &[u64]) {
        let mut dma = self.dma.lock().unwrap();
        while !values.iter().all(|value| dma.iter().any(|(v, _)| v == value)) {
            dma = self.ended.wait(dma).unwrap();
        }
    }

    /// How the DMA with this value ended.
    pub(super) fn outcome(&self, value: u64) -> Option<Result<[u8; 8], DmaError>> {
        let dma = self.dma.lock().unwrap();
        dma.iter().find(|(v, _)| *v == value).map(|(_, outcome)| outcome.clone())
    }
}

/// What DMA at `value` reads from a peer that gives each byte its address.
pub(super) fn pattern(value: u64) -> [u8; 8] {
    std::array::from_fn(|i| (MEMORY.0 + value + i as u64) as u8)
}

pub(super) struct Tester {
    pub(super) handle: Handle,
    pub(super) log: Arc<Log>,
    pub(super) busy: bool,
}

fn read(handle: &Handle, log: &Log, value: u64) {
    let mut bytes = [0; 8];
    let result = handle.dma().read(MEMORY.0 + value, &mut bytes);
    log.add(value, result.map(|()| bytes));
}

/// Never gives up for a stop.
fn stubborn(handle: &Handle, log: &Log, value: u64) {
    loop {
        let mut bytes = [0; 8];
        let starts = log.pause(|pause| {
            pause.busy += 1;
            pause.starts
        });
        let result = handle.dma().read(MEMORY.0 + value, &mut bytes);
        let stopped = handle.is_stopped();
        log.pause(|pause| pause.busy -= 1);
        match result {
            Err(DmaError::Busy | DmaError::Canceled) if stopped => {
                log.wait_until(|pause| pause.starts != starts);
            }
            // It goes on by now.
            Err(DmaError::Busy | DmaError::Canceled) => {}
            result => return log.add(value, result.map(|()| bytes)),
        }
    }
}

impl Migration for Tester {
    fn stop(&mut self) -> Result<(), Errno> {
        self.log.wait_until(|pause| pause.busy == 0);
        Ok(())
    }

    fn start(&mut self) -> Result<(), Errno> {
        self.log.pause(|pause| pause.starts += 1);
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }

    fn load(&mut self, _: u32, _: &[u8]) -> Result<(), LoadError> {
        Ok(())
    }
}

impl Device for Tester {
    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }

    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        at.give(data, &at.offset.to_le_bytes());
        Ok(())
    }

    fn region_read_or_defer(
        &mut self,
        at: Access,
        data: &mut [u8],
        defer: &mut Defer<'_>,
    ) -> Result<(), Fault> {
        if at.offset != DEFERRED {
            return self.region_read(at, data);
        }
        let later = defer.later().ok_or(Fault::Denied)?;
        self.log.spawn(move || later.give(&DEFERRED.to_le_bytes()));
        Ok(())
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
        let value = at.u64(data)?;
        let (handle, log) = (self.handle.clone(), self.log.clone());
        match at.offset {
            WORKER => self.log.spawn(move || read(&handle, &log, value)),
            CALLBACK => self.log.spawn(move || {
                handle.dma().read_then(MEMORY.0 + value, 8, move |result| {
                    let result = result.map(|bytes| bytes.try_into().unwrap());
                    log.add(value, result);
                });
            }),
            IN_HANDLER => read(&handle, &log, value),
            LEASE => {
                let lease = handle.dma().lease(value, 8, Direction::Read);
                let lease = lease.map_err(|_| Fault::Denied)?;
                self.log.spawn(move || {
                    while !lease.is_ending() {
                        thread::yield_now();
                    }
                });
            }
            STUBBORN => self.log.spawn(move || stubborn(&handle, &log, value)),
            BUSY => self.busy = true,
            _ => return Err(Fault::Unmodelled),
        }
        Ok(())
    }

    fn quiesce(&mut self, quiesce: &mut Quiesce<'_>) -> Result<(), Errno> {
        if std::mem::take(&mut self.busy) {
            let token = quiesce.later();
            self.log.spawn(move || token.done());
        }
        Ok(())
    }
}
