//! What a device's handles, its handlers and the server have in common.

use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::context::{self, Inside};
use crate::dma::dirty::Log;
use crate::dma::{DmaError, MemoryPolicy, Table};
use crate::irq::{Gates, Irqs};
use crate::link::{Asker, Link, Reenter};
use crate::pci::{ConfigSpace, PowerState};
use crate::seldom::Seldom;
use crate::server::Regions;
use crate::server::handshake::Agreed;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock};

/// The largest DMA_READ of a client that has not said otherwise, in bytes. QEMU loses larger replies.
const READ_PIECE: usize = 64 << 10;
/// Bytes of its read replies that may be under way, for the same reason.
const READ_WINDOW: usize = 128 << 10;
/// Bytes under way otherwise.
const WINDOW: usize = 1 << 20;

/// One device, from its making to its end; clients come and go.
pub(crate) struct Shared {
    pub(crate) table: Table,
    /// Dirty page logging of the session.
    pub(crate) dirty: Log,
    pub(crate) irqs: Irqs,
    config: Mutex<ConfigSpace>,
    /// Bus Master Enable gates what the device sends.
    needs_bus_master: bool,
    bus_master: AtomicBool,
    /// The function is in a power state other than D0.
    asleep: AtomicBool,
    /// Resets so far: what began before one does not go on after it.
    epoch: AtomicU64,
    /// Whether the device may start DMA at all; a [`Gate`].
    gate: AtomicU8,
    /// The client has stopped the device, to move it.
    stopped: AtomicBool,
    reentry: OnceLock<Arc<dyn Reenter>>,
    handler_timeout: RwLock<Option<Duration>>,
    live: RwLock<Option<Arc<Live>>>,
    /// Whether there is one, to be seen without the lock.
    connected: AtomicBool,
    /// The device has sent a DMA_WRITE to the client.
    written: AtomicBool,
    pub(crate) regions: Arc<Regions>,
    /// Warnings of what clients do.
    pub(crate) seldom: Seldom,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("live", &self.live).finish_non_exhaustive()
    }
}

/// Whether the device may start DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Gate {
    Open,
    /// A reset is being executed: what the device wants now is of its life before.
    Resetting,
    /// The device is quiesced.
    Quiesced,
}

/// A session that VERSION has agreed on.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) link: Arc<Link>,
    /// The most bytes of data that a message to or from the client may carry.
    pub(crate) max_transfer: usize,
    /// Descriptors that the client takes with one message.
    pub(crate) max_fds: usize,
    /// REGION_WRITE_MULTI was agreed on.
    pub(crate) write_multiple: bool,
    /// No reply of the client's is lost, however large.
    whole_replies: bool,
}

impl Live {
    pub(crate) fn new(link: &Arc<Link>, agreed: &Agreed) -> Live {
        let Agreed { max_transfer, max_fds, write_multiple, whole_replies } = *agreed;
        Live { link: link.clone(), max_transfer, max_fds, write_multiple, whole_replies }
    }

    pub(crate) fn read_piece(&self) -> usize {
        if self.whole_replies { self.max_transfer } else { self.max_transfer.min(READ_PIECE) }
    }

    pub(crate) fn read_window(&self) -> usize {
        if self.whole_replies { WINDOW } else { READ_WINDOW }
    }

    pub(crate) fn write_piece(&self) -> usize {
        self.max_transfer
    }

    pub(crate) fn write_window(&self) -> usize {
        WINDOW
    }
}

impl Shared {
    pub(crate) fn new(
        config: ConfigSpace,
        irqs: Irqs,
        needs_bus_master: bool,
        handler_timeout: Option<Duration>,
        memory: MemoryPolicy,
        regions: Arc<Regions>,
    ) -> Self {
        let shared = Shared {
            table: Table::new(memory),
            dirty: Log::default(),
            irqs,
            bus_master: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            config: Mutex::new(config),
            needs_bus_master,
            epoch: AtomicU64::new(0),
            gate: AtomicU8::new(Gate::Open as u8),
            stopped: AtomicBool::new(false),
            reentry: OnceLock::new(),
            handler_timeout: RwLock::new(handler_timeout),
            live: RwLock::new(None),
            connected: AtomicBool::new(false),
            written: AtomicBool::new(false),
            regions,
            seldom: Seldom::new(),
        };
        shared.follow();
        shared
    }

    pub(crate) fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Configuration space and interrupts as at power-on.
    pub(crate) fn power_on(&self) {
        // The pin first: a raise that comes late then finds that the device wants none.
        self.irqs.reset();
        self.config().reset();
    }

    /// Whether the device may send memory requests and messages.
    #[inline]
    pub(crate) fn may_master(&self) -> bool {
        !self.needs_bus_master || self.bus_master.load(Ordering::Acquire)
    }

    /// Until configuration space is [followed](Self::follow) again.
    pub(crate) fn stop_mastering(&self) {
        self.bus_master.store(false, Ordering::Release);
    }

    /// Whether the function answers for its configuration space only (PM 5.4).
    #[inline]
    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Acquire)
    }

    /// Whether the device may start DMA now; gives the epoch in which it does.
    pub(crate) fn may_dma(&self) -> Result<u64, DmaError> {
        let epoch = self.epoch();
        if context::inside(self) == Some(Inside::Callback) {
            return Err(DmaError::Busy);
        }
        match self.gate.load(Ordering::SeqCst) {
            g if g == Gate::Resetting as u8 => return Err(DmaError::Canceled),
            g if g == Gate::Quiesced as u8 => return Err(DmaError::Busy),
            _ if self.is_stopped() => return Err(DmaError::Busy),
            _ => {}
        }
        if self.may_master() { Ok(epoch) } else { Err(DmaError::BusMasterDisabled) }
    }

    /// The client stops the device, or lets it go on.
    pub(crate) fn set_stopped(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::SeqCst);
    }

    #[inline]
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Does what configuration space says: whether the function is awake, may master the bus, and which
    /// of its interrupts get out. The lock of configuration space must not be held: that of interrupts
    /// comes before it.
    pub(crate) fn follow(&self) {
        self.irqs.configure(|| {
            let config = self.config();
            let awake = config.power_state() == PowerState::D0;
            self.asleep.store(!awake, Ordering::Release);
            self.bus_master.store(awake && config.bus_master(), Ordering::Release);
            Gates {
                master: self.may_master(),
                pin_disabled: !awake || config.intx_disabled(),
                msi: config.msi(),
                msix: config.msix(),
            }
        });
    }

    /// Configuration space for somebody who reads it: with the Pending Bits of MSI as they are now.
    pub(crate) fn config_now(&self) -> MutexGuard<'_, ConfigSpace> {
        let pending = self.irqs.msi_pending();
        let mut config = self.config();
        if let Some(msi) = config.msi().filter(|msi| msi.pending != pending) {
            for vector in 0..msi.vectors_supported {
                config.set_msi_pending(vector, pending >> vector & 1 != 0);
            }
        }
        config
    }

    /// What a DMA that failed with `e` failed of: without a client all else is a consequence.
    pub(crate) fn explain(&self, e: DmaError) -> DmaError {
        let may_follow = matches!(
            e,
            DmaError::NotMapped { .. } | DmaError::BusMasterDisabled | DmaError::Canceled
        );
        if may_follow && self.live().is_none() { DmaError::NotConnected } else { e }
    }

    pub(crate) fn set_gate(&self, gate: Gate) {
        self.gate.store(gate as u8, Ordering::SeqCst);
    }

    /// Quiesces the device; says whether it was so already.
    pub(crate) fn quiesce_gate(&self) -> bool {
        self.gate.swap(Gate::Quiesced as u8, Ordering::SeqCst) == Gate::Quiesced as u8
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// A reset: nothing that has begun goes on.
    pub(crate) fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// How long all DMA of a handler may take.
    pub(crate) fn set_handler_timeout(&self, timeout: Option<Duration>) {
        *self.handler_timeout.write().unwrap_or_else(PoisonError::into_inner) = timeout;
    }

    /// Lets handlers be called while one waits.
    pub(crate) fn set_reentry(&self, reentry: Arc<dyn Reenter>) {
        let _already_set = self.reentry.set(reentry);
    }

    /// What this thread has to do while it waits for DMA.
    pub(crate) fn asker(&self) -> Asker<'_> {
        match context::inside(self) {
            Some(Inside::Handler) => {
                let timeout = *self.handler_timeout.read().unwrap_or_else(PoisonError::into_inner);
                Asker::handler(timeout, self.reentry.get().map(|r| &**r))
            }
            Some(Inside::Callback) | None => Asker::elsewhere(),
        }
    }

    /// The session, if a client is there.
    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the device has sent a DMA_WRITE in this session; `None` without one.
    #[inline]
    pub(crate) fn has_written(&self) -> Option<bool> {
        let connected = self.connected.load(Ordering::SeqCst);
        connected.then(|| self.written.load(Ordering::SeqCst))
    }

    /// The device is about to send a DMA_WRITE.
    pub(crate) fn writes(&self) {
        self.written.store(true, Ordering::SeqCst);
    }

    /// A client can't be accepted yet.
    pub(crate) fn tell_of_shortage(&self) {
        const SHORT: &str = "no descriptor or memory for a client; it waits";
        if let Some(kept) = self.seldom.ask(SHORT) {
            warn!("{SHORT}{kept}");
        }
    }

    pub(crate) fn set_live(&self, live: Option<Arc<Live>>) {
        let mut place = self.live.write().unwrap_or_else(PoisonError::into_inner);
        self.written.store(false, Ordering::SeqCst);
        self.connected.store(live.is_some(), Ordering::SeqCst);
        *place = live;
    }
}
