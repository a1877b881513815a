//! The only place that calls `sendmsg` and `recvmsg`.

mod listener;
mod socket;

pub use listener::{ListenError, Listener};
pub(crate) use listener::{connect_to, is_listening};
pub(crate) use socket::{Received, Socket};
