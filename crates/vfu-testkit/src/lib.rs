//! A VMM without a VM: what tests and tools need to drive a vfio-user device from this process.
//!
//! * [`Vmm`] connects, enumerates the device as Linux does, and enables its interrupts. What it
//!   found is a [`Function`], which prints as a tree.
//! * [`SharedRam`] and [`MessageRam`] are memory that the device reaches directly or by messages.
//! * [`Interrupts`] are eventfds with a deadline.
//! * [`RawPeer`] and [`RawListener`] play one end of a session byte by byte, for either role.
//! * [`LyingServer`] answers a client as it should, but for what a test has it lie about.
//! * [`TestDevice`] with [`serve_in_process`] is the other end, and logs every call.
//!
//! Deadlines here only bound failures: nothing waits for one in a test that passes.
//!
//! ```
//! use vfu_testkit::{TestServer, Vmm};
//!
//! let server = TestServer::start();
//! let vmm = Vmm::connect(server.path())?;
//! let function = vmm.enumerate()?;
//! println!("{function}");
//! vmm.write32(0, 0x10, 0x1234_5678)?;
//! assert_eq!(vmm.read32(0, 0x10)?, 0x1234_5678);
//! # Ok::<(), vfu_testkit::KitError>(())
//! ```
#![forbid(unsafe_code)]

mod capability;
mod deadline;
mod device;
mod enumerate;
mod error;
mod fds;
mod function;
mod interrupts;
mod log;
mod lying;
mod message_ram;
mod ram;
mod raw;
mod raw_listener;
mod serve;
mod size;
mod thread;
mod vmm;

pub use capability::{Capability, Detail, ExtendedCapability};
pub use deadline::{DEADLINE, within};
pub use device::TestDevice;
pub use error::KitError;
pub use fds::fd_count;
pub use function::{Function, FunctionBar};
pub use interrupts::Interrupts;
pub use log::{Call, CallLog};
pub use lying::{HONEST_JSON, LyingServer, truth};
pub use message_ram::MessageRam;
pub use ram::SharedRam;
pub use raw::{QEMU_JSON, RawMessage, RawPeer, command, message, posted};
pub use raw_listener::RawListener;
pub use serve::{Served, TestServer, serve_in_process};
pub use thread::{this_thread, thread_state};
pub use vmm::Vmm;
