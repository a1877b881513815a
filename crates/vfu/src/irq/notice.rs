//! What a device has to say to the VMM, and not to its driver.

use std::sync::Arc;

use super::fence::{self, Raise};
use super::{IrqError, IrqIndex};
use crate::pci::ErrorMessage;
use crate::shared::Shared;

/// ERR or REQ: tells the client, not the driver.
///
/// ERR says that the device has failed beyond repair. QEMU stops the virtual machine. REQ asks the
/// client to let the device go; QEMU does not listen to it over vfio-user.
///
/// Cheap to clone, usable from any thread, safe to keep.
#[derive(Clone, Debug)]
pub struct Notice {
    shared: Arc<Shared>,
    index: IrqIndex,
}

impl Notice {
    pub(crate) fn new(shared: Arc<Shared>, index: IrqIndex) -> Self {
        Notice { shared, index }
    }

    /// Tells the client. Never blocks, and never overtakes DMA_WRITEs of the device. While the device
    /// is stopped in order to be moved, it waits.
    ///
    /// # Errors
    /// [`IrqError::NotEnabled`] if the client does not listen.
    pub fn trigger(&self) -> Result<(), IrqError> {
        let raise = Raise::Notice(self.index);
        if fence::after(&self.shared, raise) {
            return Ok(());
        }
        fence::now(&self.shared, raise)
    }
}

/// An error that a device reports by [`Handle::report_error`](crate::Handle::report_error), as
/// Advanced Error Reporting knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceError {
    /// Put right already: a bit number of Correctable Error Status (PCIe 7.8.4.5).
    Correctable(u8),
    /// Data or a function is lost.
    Uncorrectable {
        /// A bit number of Uncorrectable Error Status (PCIe 7.8.4.2).
        error: u8,
        /// The header of the TLP that it is about, for the Header Log; zeros if there is none.
        header: [u32; 4],
    },
}

impl DeviceError {
    /// The device has gone wrong inside. Drivers and firmware have to unmask it.
    pub const INTERNAL: DeviceError = DeviceError::Uncorrectable { error: 22, header: [0; 4] };
    /// A request of the device was never answered.
    pub const COMPLETION_TIMEOUT: DeviceError =
        DeviceError::Uncorrectable { error: 14, header: [0; 4] };
    /// The device can't do what a request asks of it.
    pub const COMPLETER_ABORT: DeviceError =
        DeviceError::Uncorrectable { error: 15, header: [0; 4] };
}

impl DeviceError {
    /// Logs it in configuration space, and raises ERR if a message of it goes out.
    pub(crate) fn report(self, shared: &Arc<Shared>) -> Option<ErrorMessage> {
        let message = match self {
            DeviceError::Correctable(error) => shared.config().raise_correctable(error),
            DeviceError::Uncorrectable { error, header } => {
                shared.config().raise_uncorrectable(error, header)
            }
        };
        if matches!(message, Some(ErrorMessage::NonFatal | ErrorMessage::Fatal)) {
            let _nobody_listens = Notice::new(shared.clone(), IrqIndex::Err).trigger();
        }
        message
    }
}
