//! The way to the server, and what to say when there is none.

use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use vfu::client::{Client, ClientError};
use vfu::{ConnectError, Limits, wire};

use crate::exit::Exit;

/// How often to look whether the server listens by now.
const LOOK: Duration = Duration::from_millis(10);

/// `None`: for ever. A type of its own, since an `Option` is an optional argument to clap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(pub(crate) Option<Duration>);

/// A time limit on the command line.
pub(crate) fn parse_timeout(text: &str) -> Result<Timeout, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(Timeout(None)),
        Ok(seconds) if (0.001..=86400.0).contains(&seconds) => {
            Ok(Timeout(Some(Duration::from_secs_f64(seconds))))
        }
        _ => Err("a number of seconds from 0.001 to 86400, or 0".into()),
    }
}

/// A time on the command line.
pub(crate) fn parse_wait(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds from 0 to 86400".into()),
    }
}

/// Begins a session with the server at `path`, which listens within `wait`. After that no step takes
/// longer than `timeout`; `None` waits for ever.
pub(crate) fn open(
    path: &Path,
    wait: Duration,
    timeout: Option<Duration>,
) -> anyhow::Result<Client> {
    let limits = Limits {
        reply_timeout: timeout,
        handshake_timeout: timeout,
        message_timeout: timeout,
        send_timeout: timeout,
        ..Limits::default()
    };
    let until = Instant::now() + wait;
    loop {
        match Client::builder().limits(limits.clone()).connect(path) {
            Err(ClientError::Connect(
                ConnectError::NotFound(_) | ConnectError::NobodyListens(_),
            )) if Instant::now() < until => {
                std::thread::sleep(LOOK);
            }
            client => return client.map_err(|e| failed(path, e)),
        }
    }
}

/// The error of a session, with what can be done about it.
pub(crate) fn failed(path: &Path, e: ClientError) -> anyhow::Error {
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
