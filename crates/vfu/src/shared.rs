//! What a device's handles, its handlers and the server have in common.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::dma::Table;
use crate::irq::Irqs;
use crate::link::Link;
use crate::pci::ConfigSpace;

/// The largest DMA_READ on a single socket, in bytes. QEMU loses larger replies.
const READ_PIECE: usize = 64 << 10;
/// Bytes of read replies that may be under way on a single socket, for the same reason.
const READ_WINDOW: usize = 128 << 10;
/// Bytes under way otherwise.
const WINDOW: usize = 1 << 20;

/// One device, from its making to its end; clients come and go.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) table: Table,
    pub(crate) irqs: Irqs,
    config: Mutex<ConfigSpace>,
    /// Bus Master Enable gates what the device sends.
    gate: bool,
    bus_master: AtomicBool,
    live: RwLock<Option<Arc<Live>>>,
}

/// A session that VERSION has agreed on.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) link: Arc<Link>,
    /// The most bytes of data that a message to or from the client may carry.
    pub(crate) max_transfer: usize,
}

impl Live {
    pub(crate) fn read_piece(&self) -> usize {
        if self.link.has_twin() { self.max_transfer } else { self.max_transfer.min(READ_PIECE) }
    }

    pub(crate) fn read_window(&self) -> usize {
        if self.link.has_twin() { WINDOW } else { READ_WINDOW }
    }

    pub(crate) fn write_piece(&self) -> usize {
        self.max_transfer
    }

    pub(crate) fn write_window(&self) -> usize {
        WINDOW
    }
}

impl Shared {
    pub(crate) fn new(config: ConfigSpace, irqs: Irqs, gate: bool) -> Self {
        Shared {
            table: Table::default(),
            irqs,
            bus_master: AtomicBool::new(config.bus_master()),
            config: Mutex::new(config),
            gate,
            live: RwLock::new(None),
        }
    }

    pub(crate) fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the device may send memory requests and messages.
    pub(crate) fn may_master(&self) -> bool {
        !self.gate || self.bus_master.load(Ordering::Acquire)
    }

    pub(crate) fn set_bus_master(&self, on: bool) {
        self.bus_master.store(on, Ordering::Release);
    }

    /// The session, if a client is there.
    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_live(&self, live: Option<Arc<Live>>) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }
}
