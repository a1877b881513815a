//! The way to the server, and what to say when there is none.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use vfu::client::{Client, ClientError};
use vfu::{ConnectError, Limits, wire};

use crate::exit::Exit;

/// Begins a session with the server at `path`. No step takes longer than `timeout`; `None` waits for ever.
pub(super) fn open(path: &Path, timeout: Option<Duration>) -> anyhow::Result<Client> {
    let limits = Limits {
        reply_timeout: timeout,
        handshake_timeout: timeout,
        message_timeout: timeout,
        send_timeout: timeout,
        ..Limits::default()
    };
    Client::builder().limits(limits).connect(path).map_err(|e| failed(path, e))
}

/// The error of a session, with what can be done about it.
pub(super) fn failed(path: &Path, e: ClientError) -> anyhow::Error {
    match e {
        // It names the path itself.
        ClientError::Connect(e @ (ConnectError::Denied(_) | ConnectError::TooLong { .. })) => {
            Exit::Socket.with(e)
        }
        ClientError::Connect(e) => Exit::Peer.with(e),
        ClientError::TimedOut(wire::Command::Version) => said(
            path,
            Exit::Peer,
            format!("{e}; it may be serving another client, or it does not speak vfio-user"),
        ),
        ClientError::TimedOut(_) => {
            said(path, Exit::Peer, format!("{e}; a longer --timeout may help"))
        }
        ClientError::System { .. } => said(path, Exit::Failure, e),
        _ => said(path, Exit::Peer, e),
    }
}

fn said(path: &Path, exit: Exit, why: impl Display) -> anyhow::Error {
    exit.with(anyhow!("{}: {why}", path.display()))
}
