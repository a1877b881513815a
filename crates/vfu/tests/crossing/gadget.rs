//! Devices made of closures, and a log of what they were told.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use vfu::device::{DmaRange, Reset};
use vfu::wire::Errno;
use vfu::{Access, Defer, Device, Fault, Handle, Quiesce, SharedDevice};
use vfu_testkit::DEADLINE;

/// From this offset of BAR 0 on, accesses go to closures; below is memory.
pub(crate) const HOOK: u64 = 0x800;

/// What happened, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Log {
    pub(crate) fn push(&self, what: impl Into<String>) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).push(what.into());
        self.0.1.notify_all();
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|entry| *entry == what).count()
    }

    /// Waits until something has happened so many times.
    pub(crate) fn wait_for(&self, what: &str, times: usize) {
        let lock = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rare = |log: &mut Vec<String>| log.iter().filter(|e| *e == what).count() < times;
        let waited = self.0.1.wait_timeout_while(lock, DEADLINE, rare);
        let (log, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "no {what} in {log:?}");
    }
}

type Answer = Result<(), Fault>;
type ReadHook = Box<dyn FnMut(&Handle, Access, &mut [u8], &mut Defer<'_>) -> Answer + Send>;
type WriteHook = Box<dyn FnMut(&Handle, Access, &[u8], &mut Defer<'_>) -> Answer + Send>;
type QuiesceHook = Box<dyn FnMut(&Handle, &mut Quiesce<'_>) -> Result<(), Errno> + Send>;
type Notice = Box<dyn FnMut(&Handle, &str) + Send>;

/// A device made of closures.
pub(crate) struct Gadget {
    handle: Handle,
    log: Log,
    memory: [u8; 4096],
    read: Option<ReadHook>,
    write: Option<WriteHook>,
    quiesce: Option<QuiesceHook>,
    notice: Option<Notice>,
}

impl Gadget {
    pub(crate) fn new(handle: Handle, log: Log) -> Gadget {
        let (read, write, quiesce, notice) = (None, None, None, None);
        Gadget { handle, log, memory: [0; 4096], read, write, quiesce, notice }
    }

    pub(crate) fn on_read(
        mut self,
        hook: impl FnMut(&Handle, Access, &mut [u8], &mut Defer<'_>) -> Answer + Send + 'static,
    ) -> Self {
        self.read = Some(Box::new(hook));
        self
    }

    pub(crate) fn on_write(
        mut self,
        hook: impl FnMut(&Handle, Access, &[u8], &mut Defer<'_>) -> Answer + Send + 'static,
    ) -> Self {
        self.write = Some(Box::new(hook));
        self
    }

    pub(crate) fn on_quiesce(
        mut self,
        hook: impl FnMut(&Handle, &mut Quiesce<'_>) -> Result<(), Errno> + Send + 'static,
    ) -> Self {
        self.quiesce = Some(Box::new(hook));
        self
    }

    /// Called in each callback, with its name.
    pub(crate) fn on_notice(mut self, hook: impl FnMut(&Handle, &str) + Send + 'static) -> Self {
        self.notice = Some(Box::new(hook));
        self
    }

    fn tell(&mut self, what: &str) {
        if let Some(notice) = &mut self.notice {
            notice(&self.handle, what);
        }
    }

    fn note(&mut self, what: &str, range: DmaRange) {
        self.tell(what);
        self.log.push(format!("{what} {:#x}", range.address));
    }
}

impl Device for Gadget {
    fn region_read(&mut self, _: Access, _: &mut [u8]) -> Answer {
        Err(Fault::Unmodelled)
    }

    fn region_write(&mut self, at: Access, data: &[u8]) -> Answer {
        let at = at.offset as usize;
        self.memory[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn region_read_or_defer(
        &mut self,
        at: Access,
        data: &mut [u8],
        defer: &mut Defer<'_>,
    ) -> Answer {
        match &mut self.read {
            Some(hook) if at.offset >= HOOK => hook(&self.handle, at, data, defer),
            _ if at.region == 0 => {
                data.copy_from_slice(&self.memory[at.offset as usize..][..data.len()]);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn region_write_or_defer(&mut self, at: Access, data: &[u8], defer: &mut Defer<'_>) -> Answer {
        match &mut self.write {
            Some(hook) if at.offset >= HOOK => hook(&self.handle, at, data, defer),
            _ if at.region == 0 => self.region_write(at, data),
            _ => Ok(()),
        }
    }

    fn quiesce(&mut self, quiesce: &mut Quiesce<'_>) -> Result<(), Errno> {
        self.quiesce.as_mut().map_or(Ok(()), |hook| hook(&self.handle, quiesce))
    }

    fn resume(&mut self) {
        self.tell("resume");
        self.log.push("resume");
    }

    fn reset(&mut self, kind: Reset) {
        self.tell("reset");
        self.log.push(format!("reset {kind:?}"));
    }

    fn dma_mapped(&mut self, range: DmaRange) {
        self.note("mapped", range);
    }

    fn dma_unmapping(&mut self, range: DmaRange) {
        self.note("unmapping", range);
    }

    fn dma_unmapped(&mut self, range: DmaRange) {
        self.note("unmapped", range);
    }
}

type SharedRead = Box<dyn Fn(&Handle, Access, &mut [u8]) -> Answer + Send + Sync>;
type SharedWrite = Box<dyn Fn(&Handle, Access, &[u8]) -> Answer + Send + Sync>;

/// A device made of closures that may be called while one of them waits.
pub(crate) struct SharedGadget {
    handle: Handle,
    log: Log,
    memory: Mutex<[u8; 4096]>,
    read: Option<SharedRead>,
    write: Option<SharedWrite>,
}

impl SharedGadget {
    pub(crate) fn new(handle: Handle, log: Log) -> SharedGadget {
        SharedGadget { handle, log, memory: Mutex::new([0; 4096]), read: None, write: None }
    }

    pub(crate) fn on_read(
        mut self,
        hook: impl Fn(&Handle, Access, &mut [u8]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.read = Some(Box::new(hook));
        self
    }

    pub(crate) fn on_write(
        mut self,
        hook: impl Fn(&Handle, Access, &[u8]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.write = Some(Box::new(hook));
        self
    }
}

impl SharedDevice for SharedGadget {
    fn region_read(&self, at: Access, data: &mut [u8]) -> Answer {
        match &self.read {
            Some(hook) if at.offset >= HOOK => hook(&self.handle, at, data),
            _ => {
                let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                data.copy_from_slice(&memory[at.offset as usize..][..data.len()]);
                Ok(())
            }
        }
    }

    fn region_write(&self, at: Access, data: &[u8]) -> Answer {
        match &self.write {
            Some(hook) if at.offset >= HOOK => hook(&self.handle, at, data),
            _ => {
                let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory[at.offset as usize..][..data.len()].copy_from_slice(data);
                Ok(())
            }
        }
    }

    fn reset(&self, kind: Reset) {
        self.log.push(format!("reset {kind:?}"));
    }

    fn dma_unmapped(&self, range: DmaRange) {
        self.log.push(format!("unmapped {:#x}", range.address));
    }
}
