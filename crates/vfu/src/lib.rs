//! PCI devices as ordinary programs, over the vfio-user protocol.

pub mod client;
pub mod device;
pub mod dma;
mod handle;
pub mod irq;
mod link;
pub mod pci;
pub mod server;
mod shared;
mod transport;

pub use client::Client;
pub use device::{Access, Device, DmaRange, Fault, Reset};
pub use dma::{Dma, DmaError};
pub use handle::Handle;
pub use irq::{Intx, IrqError, IrqIndex, Vector};
pub use pci::{Bar, Pci, Pin};
pub use server::Server;
pub use transport::{ListenError, Listener};
pub use vfu_proto::session::Limits;
pub use vfu_proto::wire;
