//! The floor under [`Server`](crate::Server), for an interface that gives the commands a meaning of its
//! own: the C library's. Devices in Rust do not need it. It changes when the C interface wants.
//!
//! ```text
//!   Station   one device: who backs which address, what runs for it now
//!    └ Session   one client, from VERSION to its end
//!       └ Command   what it asks; answered through the session, once
//! ```
//!
//! Here are framing, ids, crossing traffic, DMA and eventfds, as `Server` has them. What a register,
//! a region or an interrupt is, and in which state a device is, is the caller's.

mod dma;
mod region;
mod session;
mod station;

pub use crate::irq::rescue::Distrust;
pub use crate::link::Claim;
pub use dma::{Direct, Done, Piece};
pub use region::{Memory, Region, View};
pub use session::{Command, Serve, Session, Terms, Wait};
pub use station::{Event, Station};
pub use vfu_proto::session::Closed;
