//! What the author of a device writes.

use crate::answer::Defer;
use crate::migration::Migration;
use crate::pci::PowerState;
use crate::quiesce::Quiesce;
use vfu_proto::wire::Errno;

/// A PCI device.
///
/// The server owns it and calls it from one thread at a time, in the order in which the client's
/// commands arrived. It answers for everything that PCI itself demands: configuration space,
/// MSI-X tables, interrupts, DMA mappings. What is left is here.
///
/// Nothing but [`region_read`](Self::region_read) and [`region_write`](Self::region_write) has to
/// be written.
pub trait Device {
    /// The driver reads `data.len()` bytes of a BAR.
    ///
    /// `data` comes filled with `0xff`. The server has checked that the access lies in the region;
    /// it may have any length and alignment.
    ///
    /// # Errors
    /// A [`Fault`]: the driver gets all ones, as from a PCI bus.
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault>;

    /// The bytes of a BAR that the driver reads, if the device has them one behind the other; `None`,
    /// which is the default, or another length than `len`: [`region_read`](Self::region_read) is called.
    ///
    /// Asked of long reads only, of 4 KiB or more: nothing has to be filled before, what is lent here is
    /// copied once at most, and for 16 KiB or more is sent from where it lies.
    fn region_bytes(&mut self, at: Access, len: usize) -> Option<&[u8]> {
        let _ = (at, len);
        None
    }

    /// The driver writes to a BAR.
    ///
    /// # Errors
    /// A [`Fault`]: the write is dropped, as on a PCI bus.
    fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault>;

    /// As [`region_read`](Self::region_read), for a device that may answer later: it takes the
    /// answer from `defer`, returns, and gives it from wherever it likes.
    ///
    /// # Errors
    /// As for `region_read`.
    fn region_read_or_defer(
        &mut self,
        at: Access,
        data: &mut [u8],
        defer: &mut Defer<'_>,
    ) -> Result<(), Fault> {
        let _ = defer;
        self.region_read(at, data)
    }

    /// As [`region_write`](Self::region_write), for a device that may finish it later.
    ///
    /// # Errors
    /// As for `region_write`.
    fn region_write_or_defer(
        &mut self,
        at: Access,
        data: &[u8],
        defer: &mut Defer<'_>,
    ) -> Result<(), Fault> {
        let _ = defer;
        self.region_write(at, data)
    }

    /// Something is about to change under the device: a mapping, or its whole state by a reset. It
    /// lets go of what that would disturb, and may take its time for it:
    /// [`Quiesce::later`] puts the client's command off, and all that come behind it.
    ///
    /// DMA is refused ([`DmaError::Busy`](crate::dma::DmaError::Busy)) from the moment that the
    /// device says it is at rest ([`Quiesce::now`], or later) until [`resume`](Self::resume). A
    /// device that says nothing goes on undisturbed: what the change touches is canceled.
    ///
    /// # Errors
    /// The errno that the client's command fails with.
    fn quiesce(&mut self, quiesce: &mut Quiesce<'_>) -> Result<(), Errno> {
        let _ = quiesce;
        Ok(())
    }

    /// What the device was quiesced for has been done.
    fn resume(&mut self) {}

    /// How the device is saved and loaded, if it can be. Default: it can't.
    fn migration(&mut self) -> Option<&mut dyn Migration> {
        None
    }

    /// A client has connected, and both ends have agreed on a session. It has mapped nothing yet.
    /// The end of it is [`Reset::ConnectionLost`]; between the two there is no other client.
    fn connected(&mut self) {}

    /// The device goes back to its state at power-on, or [lost its client](Reset::ConnectionLost).
    ///
    /// DMA by message that was under way has been given up: it ends with
    /// [`DmaError::Canceled`](crate::dma::DmaError::Canceled). After a reset, but for a lost client, the
    /// function is in D0.
    fn reset(&mut self, kind: Reset) {
        let _ = kind;
    }

    /// The driver has changed the power state of the function (PCI Power Management, 5.4). Only for
    /// one with that capability: [`Pci::pm`](crate::Pci::pm).
    ///
    /// The server does what the states demand. In all but D0, accesses to BARs and to the ROM do not
    /// reach the device (they read ones), DMA and MSI are refused as without Bus Master Enable, and
    /// the pin is held back. DMA that was under way ends as it would. A BAR that the client has
    /// mapped can't be taken away from it.
    ///
    /// A step from D3hot to D0 by which the device loses its state
    /// ([`Pm::no_soft_reset`](crate::pci::Pm::no_soft_reset) is false) is told here, and then by
    /// [`Reset::D3HotToD0`].
    fn power_changed(&mut self, from: PowerState, to: PowerState) {
        let _ = (from, to);
    }

    /// The client has mapped memory; it can be reached from now on. It overlaps nothing of which the device
    /// was not told that it is [gone](Self::dma_unmapped).
    fn dma_mapped(&mut self, range: DmaRange) {
        let _ = range;
    }

    /// Memory is about to go. New DMA to it is refused already, and messages about it have been given
    /// up. The client waits until the device has dropped its [leases](crate::dma::Lease) of it;
    /// everything else goes on meanwhile.
    fn dma_unmapping(&mut self, range: DmaRange) {
        let _ = range;
    }

    /// Memory is gone: no DMA to it is under way any more, and none will start. What the device has
    /// leased still is an exception: if the client maps other memory at the place, it is gone then, and
    /// the lease reaches the old memory until its end.
    fn dma_unmapped(&mut self, range: DmaRange) {
        let _ = range;
    }
}

/// All methods of [`Device`] but `region_bytes` and `migration`, as calls of the methods of something else.
macro_rules! forward_device {
    ($self:ident => $to:expr) => {
        fn region_read(&mut $self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
            $to.region_read(at, data)
        }

        fn region_write(&mut $self, at: Access, data: &[u8]) -> Result<(), Fault> {
            $to.region_write(at, data)
        }

        fn region_read_or_defer(
            &mut $self,
            at: Access,
            data: &mut [u8],
            defer: &mut Defer<'_>,
        ) -> Result<(), Fault> {
            $to.region_read_or_defer(at, data, defer)
        }

        fn region_write_or_defer(
            &mut $self,
            at: Access,
            data: &[u8],
            defer: &mut Defer<'_>,
        ) -> Result<(), Fault> {
            $to.region_write_or_defer(at, data, defer)
        }

        fn quiesce(&mut $self, quiesce: &mut Quiesce<'_>) -> Result<(), Errno> {
            $to.quiesce(quiesce)
        }

        fn resume(&mut $self) {
            $to.resume();
        }

        fn connected(&mut $self) {
            $to.connected();
        }

        fn reset(&mut $self, kind: Reset) {
            $to.reset(kind);
        }

        fn power_changed(&mut $self, from: PowerState, to: PowerState) {
            $to.power_changed(from, to);
        }

        fn dma_mapped(&mut $self, range: DmaRange) {
            $to.dma_mapped(range);
        }

        fn dma_unmapping(&mut $self, range: DmaRange) {
            $to.dma_unmapping(range);
        }

        fn dma_unmapped(&mut $self, range: DmaRange) {
            $to.dma_unmapped(range);
        }
    };
}
pub(crate) use forward_device;

impl<D: Device + ?Sized> Device for Box<D> {
    forward_device!(self => (**self));

    fn region_bytes(&mut self, at: Access, len: usize) -> Option<&[u8]> {
        (**self).region_bytes(at, len)
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        (**self).migration()
    }
}

/// Where the driver reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The region: 0 to 5 are the BARs (VFIO's numbering).
    pub region: u32,
    /// The first byte, from the region's start.
    pub offset: u64,
}

impl Access {
    /// The value of a 32-bit register that the driver wrote.
    ///
    /// # Errors
    /// [`Fault::Width`] unless `data` is 4 bytes.
    pub fn u32(self, data: &[u8]) -> Result<u32, Fault> {
        data.try_into().map(u32::from_le_bytes).map_err(|_| Fault::Width)
    }

    /// The value of a 64-bit register that the driver wrote.
    ///
    /// # Errors
    /// [`Fault::Width`] unless `data` is 8 bytes.
    pub fn u64(self, data: &[u8]) -> Result<u64, Fault> {
        data.try_into().map(u64::from_le_bytes).map_err(|_| Fault::Width)
    }

    /// Gives the driver `value`, the bytes of a register in little-endian order, as far as it asked
    /// for them: a read that is narrower gets the lower bytes, a wider one zeros behind them.
    pub fn give(self, data: &mut [u8], value: &[u8]) {
        data.fill(0);
        let len = data.len().min(value.len());
        data[..len].copy_from_slice(&value[..len]);
    }
}

/// Why an access did nothing. The driver sees what a PCI bus would give it; the reason is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No register is there.
    #[error("no register is there")]
    Unmodelled,
    /// The register can't be accessed with this width or alignment.
    #[error("the register has another width or alignment")]
    Width,
    /// The register does not allow it now.
    #[error("the register does not allow it now")]
    Denied,
}

/// Why a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// DEVICE_RESET: as at power-on. Mappings and eventfds of the client stay.
    Device,
    /// Initiate Function Level Reset, written to the PCI Express capability: the same, but for sticky
    /// bits of configuration space.
    FunctionLevel,
    /// The driver took the function from D3hot to D0, and it loses its state by that: the same as
    /// `FunctionLevel` (PCI Power Management, 5.4.1).
    D3HotToD0,
    /// The client went away. The state may stay for the next one; mappings and eventfds are gone.
    ConnectionLost,
}

/// A range of addresses that the client mapped, as the device sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaRange {
    /// The first address.
    pub address: u64,
    /// How many bytes; `address + size` is at most 2^64.
    pub size: u64,
    /// The device may read it.
    pub readable: bool,
    /// The device may write it.
    pub writable: bool,
    /// It is shared memory or a file, reached without messages.
    pub direct: bool,
}
