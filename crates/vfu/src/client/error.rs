//! Why a request of a client failed.

use vfu_proto::session::{Abort, Closed, Start};
use vfu_proto::wire::{Command, Errno};

use crate::link::{Link, RequestError};
use crate::transport::ConnectError;

/// Why a request of a client failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves there, or the path can't be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The session can't begin: the server's VERSION can't be accepted.
    #[error("VERSION failed: the server {0}")]
    Handshake(&'static str),
    /// The session ended before it had begun.
    #[error("the session ended in VERSION: {0}")]
    Ended(Closed),
    /// The server refused.
    #[error("the server refused {}: {errno}", command.name())]
    Refused {
        /// What was asked.
        command: Command,
        /// Why it was refused.
        errno: Errno,
    },
    /// The server did not answer in time. Its answer will be ignored when it comes.
    #[error("the server did not answer {} in time", .0.name())]
    TimedOut(Command),
    /// The server's answer does not fit the request.
    #[error("the server's answer to {} makes no sense: {why}", command.name())]
    Malformed {
        /// What was asked.
        command: Command,
        /// What is wrong.
        why: &'static str,
    },
    /// The session has ended.
    #[error("the session has ended: {0}")]
    Closed(Closed),
    /// The request itself is not possible.
    #[error("{0}")]
    Invalid(&'static str),
    /// The system refused something that we need.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ClientError {
    pub(super) fn from_request(link: &Link, command: Command, e: RequestError) -> Self {
        match e {
            RequestError::Aborted(Abort::TimedOut) => ClientError::TimedOut(command),
            RequestError::Aborted(Abort::WrongCommand) => {
                ClientError::Malformed { command, why: "it answers another command" }
            }
            RequestError::Aborted(Abort::Canceled | Abort::Closed)
            | RequestError::NotStarted(Start::Closed | Start::Full)
            | RequestError::Gone => ClientError::closed(link),
        }
    }

    /// There is no memory for the bits of dirty pages.
    pub(super) fn no_room_to_log() -> Self {
        let source = std::io::ErrorKind::OutOfMemory.into();
        ClientError::System { what: "can't log dirty pages", source }
    }

    /// The session has ended, and `link` knows why.
    pub(super) fn closed(link: &Link) -> Self {
        ClientError::Closed(link.closed().unwrap_or(Closed::Stopped))
    }
}
