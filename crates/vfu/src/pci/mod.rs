//! A pure model of PCI configuration space: bytes written in, effects out.
//!
//! [`Pci`] describes a function (ids, BARs, capabilities), [`Pci::build`] checks the description
//! and returns a [`ConfigSpace`]. That one is read and written as a host bridge would: any offset,
//! any width, never an error. A write answers with [`Effects`]: what the rest of the device must
//! now look at.
//!
//! ```
//! use vfu::pci::{Bar, Pci, Pin};
//!
//! let mut space = Pci::endpoint(0x1234, 0x0001)
//!     .class(0x05_80_00)
//!     .bar(0, Bar::mem32(4096))
//!     .intx(Pin::A)
//!     .msix(4)
//!     .build()?;
//! let effects = space.write(0x04, &[0x06, 0x00]); // Command: memory space, bus master
//! assert!(effects.bus_master_changed && space.bus_master());
//! # Ok::<(), vfu::pci::PciError>(())
//! ```
//!
//! Nothing here knows sockets, threads or file descriptors. Section numbers in this module are
//! those of the PCI Local Bus Specification 3.0 ("PCI"), the PCI Express Base Specification 4.0
//! ("PCIe"), the PCI Bus Power Management Interface Specification 1.2 ("PM"), and Address Translation
//! Services 1.1 ("ATS") and Single Root I/O Virtualization 1.1 ("SR-IOV").
//!
//! Memory: one space holds 6 bytes per byte that has a register behind it (value, value at power-on,
//! four masks), and about 450 besides: 2010 bytes for a usual function, whether it has 256 or 4096
//! bytes of configuration space, since the empty rest is not stored. Extended capabilities add to
//! that up to the end of the last one: 2442 bytes with AER, a serial number and a resizable BAR,
//! 24 KiB with a capability at the very end. The image of a ROM is kept once, however many clones a
//! space has. [`MsixTable`] holds 16 bytes per vector. Reading, writing and resetting allocate nothing.

mod bar;
mod builder;
mod caps;
mod effects;
mod error;
mod extended;
mod field;
mod header;
mod layout;
mod msix_table;
pub mod names;
mod registers;
pub mod regs;
mod rom;
mod snapshot;
mod space;

pub use bar::{Bar, BarInfo, BarKind};
pub use builder::{ConfigSize, Pci, Pin};
pub use caps::aer::ErrorMessage;
pub use caps::ats::Ats;
pub use caps::msi::{Msi, MsiState};
pub use caps::msix::{MsixAt, MsixState};
pub use caps::pasid::Pasid;
pub use caps::pm::{Pm, PowerState};
pub use caps::sriov::Sriov;
pub use effects::Effects;
pub use error::{MsixPart, PciError};
pub use field::{Field, RawCapability};
pub use msix_table::{MsixEntry, MsixTable};
pub use rom::RomInfo;
pub use snapshot::SnapshotError;
pub use space::ConfigSpace;

/// How many BARs a type 0 header has.
pub const BARS: usize = 6;
