//! The only place that calls `sendmsg` and `recvmsg`.

mod connector;
mod listener;
mod socket;

pub use connector::ConnectError;
pub(crate) use connector::connect_to;
pub(crate) use listener::{Accepted, RETRY, is_listening};
pub use listener::{ListenError, Listener};
pub(crate) use socket::{Received, Signals, Socket};
