//! Interrupts: what a device raises, and what the client does with it.
//!
//! A device has [`Vector`]s (MSI-X or MSI, as the driver chooses), a pin ([`Intx`]), and two
//! [`Notice`]s for the VMM. Masks are the library's: a device raises an interrupt whenever it has
//! a reason, and the interrupt waits for as long as it has to.
//!
//! # What holds a message back
//!
//! A message that is held back is pending: kept once, shown in the Pending Bit Array of MSI-X or the
//! Pending Bits of MSI, and signalled as soon as nothing holds it back. It is held back by
//!
//! * the Mask Bit of its MSI-X Table entry, and the Function Mask of MSI-X;
//! * its Mask Bit in the MSI capability, if that has them;
//! * a mask that the client set by `DEVICE_SET_IRQS`;
//! * the lack of an eventfd, while its type is in use;
//! * Bus Master Enable, if that was cleared while it was pending. (Raised without it, it is an error.)
//! * a device that is stopped in order to be moved.
//!
//! A type is in use while MSI Enable or MSI-X Enable is set; for a client that never sets them, while
//! there is an eventfd. What is pending is forgotten when the type is disabled, at a reset, and when
//! the client goes.
//!
//! **Clients that keep the table to themselves.** QEMU and Cloud Hypervisor emulate the MSI-X Table:
//! the guest's accesses do not come here, and the table stays as after a reset, in which all vectors
//! are masked. Mask Bits in the table therefore count from the client's first write to the table on,
//! until a reset or the end of the session. QEMU shows a vector that the guest has never unmasked by
//! giving it no eventfd, and asks the device for the Pending Bit Array, which is right for such
//! vectors. One that has an eventfd it masks without a word: then the interrupt comes when the guest
//! unmasks it, but the Pending Bit Array can't show it.

mod eventfd;
mod fence;
mod gates;
mod intx;
mod moving;
mod msix;
mod notice;
mod pace;
pub(crate) mod rescue;
mod set;
mod table;
mod vector;

pub use intx::Intx;
pub use notice::{DeviceError, Notice};
pub use pace::Coalescing;
pub use vector::Vector;

pub(crate) use eventfd::EventFd;
pub(crate) use fence::abandon;
pub(crate) use gates::Gates;
pub(crate) use table::Irqs;

/// The interrupt types of a PCI device; the numbers are VFIO's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum IrqIndex {
    /// The interrupt pin, level triggered.
    Intx = 0,
    /// Message signalled interrupts.
    Msi = 1,
    /// MSI-X.
    Msix = 2,
    /// The device reports an error that it can't recover from.
    Err = 3,
    /// The device asks the client to let it go.
    Req = 4,
}

impl IrqIndex {
    /// All of them, in VFIO's order.
    pub const ALL: [IrqIndex; 5] =
        [IrqIndex::Intx, IrqIndex::Msi, IrqIndex::Msix, IrqIndex::Err, IrqIndex::Req];

    /// The type with this number.
    pub fn from_u32(index: u32) -> Option<IrqIndex> {
        IrqIndex::ALL.get(usize::try_from(index).ok()?).copied()
    }
}

/// Why an interrupt was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IrqError {
    /// The device has no such vector.
    #[error("the device has no vector {vector}; it has {count}")]
    NoSuchVector {
        /// The vector that was asked for.
        vector: u32,
        /// How many there are.
        count: u32,
    },
    /// The driver has not enabled this kind of interrupt; for ERR and REQ: the client does not listen.
    #[error("nobody has enabled this interrupt")]
    NotEnabled,
    /// The driver has not set Bus Master Enable, without which no message leaves the device; nor does
    /// one unless the function is in D0.
    #[error(
        "the driver has not enabled bus mastering (Command register, bit 2), or has put the device \
         to sleep"
    )]
    BusMasterDisabled,
    /// The client's event file descriptor does not take it.
    #[error("the client's eventfd failed")]
    Eventfd,
}
