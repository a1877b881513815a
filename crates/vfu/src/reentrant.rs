//! Devices whose handlers may be called while one of them waits.

use std::fmt;
use std::sync::Arc;

use vfu_proto::wire::Errno;

use crate::answer::Defer;
use crate::device::{Access, Device, DmaRange, Fault, Reset, forward_device};
use crate::migration::Migration;
use crate::pci::PowerState;
use crate::quiesce::Quiesce;

/// A device that is called by `&self`: while a handler waits for DMA by message, the commands that
/// arrive are served, by calling handlers of the same device again.
///
/// That is what a device needs that does DMA inside a handler of a *posted* write while its driver
/// goes on working: QEMU can answer a DMA message only while no request of its own is unanswered.
/// In a handler of an access that the driver waits for, even this does not help with QEMU.
///
/// The methods are those of [`Device`]; see there.
pub trait SharedDevice: Send + Sync {
    /// See [`Device::region_read`].
    ///
    /// # Errors
    /// As there.
    fn region_read(&self, at: Access, data: &mut [u8]) -> Result<(), Fault>;

    /// See [`Device::region_write`].
    ///
    /// # Errors
    /// As there.
    fn region_write(&self, at: Access, data: &[u8]) -> Result<(), Fault>;

    /// See [`Device::region_read_or_defer`].
    ///
    /// # Errors
    /// As there.
    fn region_read_or_defer(
        &self,
        at: Access,
        data: &mut [u8],
        defer: &mut Defer<'_>,
    ) -> Result<(), Fault> {
        let _ = defer;
        self.region_read(at, data)
    }

    /// See [`Device::region_write_or_defer`].
    ///
    /// # Errors
    /// As there.
    fn region_write_or_defer(
        &self,
        at: Access,
        data: &[u8],
        defer: &mut Defer<'_>,
    ) -> Result<(), Fault> {
        let _ = defer;
        self.region_write(at, data)
    }

    /// See [`Device::quiesce`].
    ///
    /// # Errors
    /// As there.
    fn quiesce(&self, quiesce: &mut Quiesce<'_>) -> Result<(), Errno> {
        let _ = quiesce;
        Ok(())
    }

    /// See [`Device::resume`].
    fn resume(&self) {}

    /// What saves and loads the device, if it can be moved: something that shares its state. It may
    /// be asked for while a handler waits, and more than once. Default: it can't.
    ///
    /// A handler that waits for DMA when the device is stopped finds it canceled after the device has
    /// been saved: what it was about to do has to be a part of the state.
    fn migration(&self) -> Option<Box<dyn Migration + Send + Sync>> {
        None
    }

    /// See [`Device::connected`].
    fn connected(&self) {}

    /// See [`Device::reset`].
    fn reset(&self, kind: Reset) {
        let _ = kind;
    }

    /// See [`Device::power_changed`].
    fn power_changed(&self, from: PowerState, to: PowerState) {
        let _ = (from, to);
    }

    /// See [`Device::dma_mapped`].
    fn dma_mapped(&self, range: DmaRange) {
        let _ = range;
    }

    /// See [`Device::dma_unmapping`].
    fn dma_unmapping(&self, range: DmaRange) {
        let _ = range;
    }

    /// See [`Device::dma_unmapped`].
    fn dma_unmapped(&self, range: DmaRange) {
        let _ = range;
    }
}

/// A [`SharedDevice`] where a [`Device`] is wanted.
#[derive(Debug)]
pub struct Reentrant<D>(Arc<D>, Mover);

/// What the device has last given to be moved by.
#[derive(Default)]
struct Mover(Option<Box<dyn Migration + Send + Sync>>);

impl fmt::Debug for Mover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mover")
    }
}

impl<D> Clone for Reentrant<D> {
    fn clone(&self) -> Self {
        Reentrant::of(self.0.clone())
    }
}

impl<D> Reentrant<D> {
    pub(crate) fn new(device: D) -> Self {
        Reentrant::of(Arc::new(device))
    }

    pub(crate) fn of(device: Arc<D>) -> Self {
        Reentrant(device, Mover::default())
    }

    /// The device itself.
    pub fn get(&self) -> &Arc<D> {
        &self.0
    }
}

impl<D: SharedDevice> Device for Reentrant<D> {
    forward_device!(self => self.0);

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        self.1.0 = self.0.migration();
        self.1.0.as_deref_mut().map(|migration| migration as &mut dyn Migration)
    }
}
