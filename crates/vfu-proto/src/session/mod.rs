//! The engine: what a vfio-user session is, without sockets, threads or a clock.
//!
//! Both ends of a session may send commands at any time, on one stream or on two. The engine
//! keeps the two conversations apart, and it is the same for both [`Role`]s:
//!
//! ```text
//!  bytes, fds ──► Framer ──► Message ──► Session ──► reply:   its asker, by channel and id
//!                                                └─► command: the queue, in arrival order
//! ```
//!
//! * [`Framer`] makes messages from a stream that arrives in any pieces.
//! * [`Session`] sorts them, keeps what each side still owes the other, and knows every limit.
//!
//! Bytes, file descriptors and [`Time`] go in; messages, outcomes and deadlines come out. The
//! caller does the I/O, so that every order of events can be tried in one thread.

mod commands;
mod counters;
mod engine;
mod framer;
mod limits;
mod message;
mod requests;
mod sink;
mod slots;
mod time;

pub use counters::Counters;
pub use engine::{Arrival, Channel, Closed, Role, Session};
pub use framer::{FrameError, Framer, MAX_FDS};
pub use limits::Limits;
pub use message::Message;
pub use requests::{Abort, Start, Ticket};
pub use sink::Sink;
pub use time::Time;
