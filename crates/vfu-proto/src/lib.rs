//! The vfio-user protocol without sockets, threads or clocks.
//!
//! * [`wire`]: every message as a typed view over bytes.
//! * [`session`]: the engine that keeps the two conversations of a session apart, for both roles.
#![forbid(unsafe_code)]

pub mod session;
pub mod wire;
