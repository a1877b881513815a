//! A device's way out.

use std::sync::Arc;

use vfu_proto::session::Counters;

use crate::dma::Dma;
use crate::doorbell::Doorbell;
use crate::irq::{Intx, Vector};
use crate::memory::SharedMemory;
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

    /// Whether a client is connected.
    pub fn is_connected(&self) -> bool {
        self.shared.live().is_some()
    }
}
