//! A device's way out.

use std::sync::Arc;

use vfu_proto::session::Counters;

use crate::dma::Dma;
use crate::doorbell::Doorbell;
use crate::irq::{DeviceError, Intx, IrqIndex, Notice, Vector};
use crate::memory::SharedMemory;
use crate::pci::ErrorMessage;
use crate::seldom::Kept;
use crate::shared::Shared;

/// What a device has of the house: the client's memory, and its interrupts.
///
/// Cheap to clone, usable from any thread. It stays good while clients come and go.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Handle { shared }
    }

    /// The client's memory.
    pub fn dma(&self) -> Dma {
        Dma::new(self.shared.clone())
    }

    /// A message signalled interrupt; `vector` counts from 0.
    pub fn vector(&self, vector: u32) -> Vector {
        Vector::new(self.shared.clone(), vector)
    }

    /// The interrupt pin.
    pub fn intx(&self) -> Intx {
        Intx::new(self.shared.clone())
    }

    /// MSI-X or MSI, whichever the driver uses, and how many vectors of it: for MSI those that it has
    /// granted, which may be fewer than the device has. `None`: it uses neither, and the device has to
    /// use its pin.
    pub fn messages(&self) -> Option<(IrqIndex, u32)> {
        self.shared.irqs.messages()
    }

    /// Tells the client that the device has failed beyond repair.
    pub fn err(&self) -> Notice {
        Notice::new(self.shared.clone(), IrqIndex::Err)
    }

    /// Asks the client to let the device go.
    pub fn req(&self) -> Notice {
        Notice::new(self.shared.clone(), IrqIndex::Req)
    }

    /// Reports an error by Advanced Error Reporting: it is logged in that capability, Device Status
    /// and Status; and [`err`](Self::err) is raised if it is uncorrectable and nothing masks it (its
    /// bit in Uncorrectable Error Mask, Device Control, SERR# Enable).
    ///
    /// Gives the message that went out; `None` if it is masked. Without
    /// [AER](crate::Pci::aer) nothing happens.
    pub fn report_error(&self, error: DeviceError) -> Option<ErrorMessage> {
        error.report(&self.shared)
    }

    /// The memory of a region that the client may map
    /// ([`Builder::mmap`](crate::server::Builder::mmap)); `None` if it has none of the library's.
    pub fn memory(&self, region: u32) -> Option<SharedMemory> {
        self.shared.regions.memory(region).cloned()
    }

    /// The doorbell at a place ([`Builder::ioeventfd`](crate::server::Builder::ioeventfd)), the
    /// first of several there.
    pub fn doorbell(&self, region: u32, offset: u64) -> Option<Doorbell> {
        self.shared.regions.doorbell(region, offset).cloned()
    }

    /// What happened in the session with the client that is connected now.
    pub fn counters(&self) -> Option<Counters> {
        self.shared.live().map(|live| live.link.counters())
    }

    /// Whether the client has stopped the device, to move it, or is about to. DMA that has failed with
    /// [`DmaError::Busy`](crate::DmaError::Busy) or [`DmaError::Canceled`](crate::DmaError::Canceled)
    /// then is to be tried again when the device goes on: see
    /// [`Migration::stop`](crate::migration::Migration::stop).
    pub fn is_stopped(&self) -> bool {
        self.shared.is_stopped()
    }

    /// Whether to write one more warning of a kind. For those that a client or its driver can cause as
    /// often as it likes: a few of a kind are written each 10 s, and the rest counted, for all clients
    /// of this device together. The kind is the message, and what was counted is to be added to it:
    ///
    /// ```
    /// # fn failed(handle: vfu::Handle, error: vfu::DmaError) {
    /// const FAILED: &str = "a copy has failed";
    /// if let Some(kept) = handle.seldom(FAILED) {
    ///     tracing::warn!(%error, "{FAILED}{kept}");
    /// }
    /// # }
    /// ```
    ///
    /// What was counted and not yet added is written when a client leaves, or the server ends.
    pub fn seldom(&self, kind: &'static str) -> Option<Kept> {
        self.shared.seldom.ask(kind)
    }

    /// Whether a client is connected.
    pub fn is_connected(&self) -> bool {
        self.shared.live().is_some()
    }
}
