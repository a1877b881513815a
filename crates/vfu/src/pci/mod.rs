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
//! ("PCIe") and the PCI Bus Power Management Interface Specification 1.2 ("PM").
//!
//! Memory: one space holds 4 bytes per byte that has a register behind it (value, reset value and
//! two masks), so 1 KiB for a 256-byte space. A 4096-byte space costs the same plus its extended
//! capabilities, since the empty rest of it is not stored. [`MsixTable`] holds 16 bytes per vector.

mod bar;
mod builder;
mod caps;
mod effects;
mod error;
mod header;
mod msix_table;
pub mod names;
mod registers;
pub mod regs;
mod snapshot;
mod space;

pub use bar::{Bar, BarInfo, BarKind};
pub use builder::{ConfigSize, Pci, Pin};
pub use caps::msi::{Msi, MsiState};
pub use caps::msix::{MsixAt, MsixState};
pub use caps::pm::PowerState;
pub use effects::Effects;
pub use error::{MsixPart, PciError};
pub use msix_table::{MsixEntry, MsixTable};
pub use snapshot::SnapshotError;
pub use space::ConfigSpace;

/// How many BARs a type 0 header has.
pub const BARS: usize = 6;
