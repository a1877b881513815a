//! Two engines, the sockets between them, a driver with memory and a device, in one thread.
//!
//! ```text
//!   client program          device program          drawn at random, from one seed
//!        |                        |
//!   Side: Session, Framers   Side: Session, Framers     what is tested
//!        |   Book                 |   Book              what has to come out
//!        +------- Stream ---------+                     cuts, delays, losses
//! ```

mod book;
mod client;
mod config;
mod device;
mod faults;
mod net;
mod rng;
mod run;
mod seen;
mod side;
mod world;

pub(crate) use run::{Flavour, campaign, replay};
pub(crate) use seen::Seen;
