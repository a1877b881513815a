//! PCI devices as ordinary programs, over the vfio-user protocol.
//!
//! A device implements [`Device`] and gets a [`Handle`]: the client's memory ([`Dma`]) and its
//! interrupts ([`Vector`], [`Intx`]). A [`Server`] puts it at a socket, with the configuration space
//! that [`Pci`] describes. The other end of the socket is a VMM such as QEMU, or a [`Client`].
//!
//! ```no_run
//! use vfu::{Access, Bar, Device, Fault, Pci, Server};
//!
//! /// One register of 32 bits.
//! struct Scratch(u32);
//!
//! impl Device for Scratch {
//!     fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
//!         at.give(data, &self.0.to_le_bytes());
//!         Ok(())
//!     }
//!
//!     fn region_write(&mut self, at: Access, data: &[u8]) -> Result<(), Fault> {
//!         self.0 = at.u32(data)?;
//!         Ok(())
//!     }
//! }
//!
//! Server::builder(Pci::endpoint(0x1234, 0x0002).bar(0, Bar::mem32(4096)))
//!     .listen("/run/scratch.sock")?
//!     .run(|_handle| Scratch(0))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Threads
//!
//! The device's handlers run on one thread at a time: the one in [`Server::run`], or in
//! [`Server::process`]. [`Dma`], [`Vector`], [`Intx`] and [`Client`] may be used from any thread and
//! cloned at will. There are no hidden threads: whoever waits for something reads the socket for
//! all meanwhile. There are two exceptions: a client that serves memory by messages, or has made many requests
//! beside a twin socket; and one thread of the process, while peers have given eventfds, that ends writes to
//! them which a peer has made wait.
//!
//! # Trust
//!
//! Nothing that the peer sends makes the library panic, wait for ever or allocate without bound: see
//! [`Limits`]. Memory that was shared by file descriptor is shared for good.

mod answer;
pub mod client;
mod context;
pub mod device;
pub mod dma;
pub mod doorbell;
mod handle;
pub mod irq;
mod link;
pub mod memory;
pub mod migration;
pub mod pci;
mod poller;
mod quiesce;
pub mod raw;
mod reentrant;
pub mod regmap;
mod seldom;
pub mod server;
mod shared;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
mod sync;
mod transport;

pub use answer::{Defer, Later};
pub use client::Client;
pub use device::{Access, Device, DmaRange, Fault, Reset};
pub use dma::{Dma, DmaError, MemoryPolicy};
pub use doorbell::{Doorbell, IoEventFd};
pub use handle::Handle;
pub use irq::{Coalescing, DeviceError, Intx, IrqError, IrqIndex, Notice, Vector};
pub use link::Spin;
pub use memory::SharedMemory;
pub use pci::{Bar, Pci, Pin};
pub use quiesce::{Quiesce, Quiescing};
pub use reentrant::{Reentrant, SharedDevice};
pub use seldom::Kept;
pub use server::Server;
pub use transport::{ConnectError, ListenError, Listener};
pub use vfu_proto::session::Limits;
pub use vfu_proto::wire;

/// The README's example compiles.
#[doc = include_str!("../../../README.md")]
#[cfg(doctest)]
struct Readme;
