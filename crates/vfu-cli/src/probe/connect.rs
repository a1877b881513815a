//! The way to the server, and what to say when there is none.

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use vfu::client::{Client, ClientError};
use vfu::{Limits, wire};

use crate::exit::Exit;

/// Begins a session with the server at `path`. No step takes longer than `timeout`; `None` waits for ever.
pub(super) fn open(path: &Path, timeout: Option<Duration>) -> anyhow::Result<Client> {
    let socket = reach(path, timeout).map_err(|e| no_server(path, e))?;
    let limits = Limits {
        reply_timeout: timeout,
        handshake_timeout: timeout,
        message_timeout: timeout,
        send_timeout: timeout,
        ..Limits::default()
    };
    let client = Client::builder().limits(limits).connect_fd(socket);
    client.map_err(|e| failed(path, &e))
}

/// A connected socket. While the server's queue of clients is full the system would have us wait
/// for ever, unless there is a limit for sending.
fn reach(path: &Path, timeout: Option<Duration>) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, timeout)?;
    loop {
        match connect(&socket, &address) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
            Ok(()) => return Ok(socket),
        }
    }
}

fn no_server(path: &Path, e: Errno) -> anyhow::Error {
    let exit = match e {
        Errno::ACCESS | Errno::NAMETOOLONG => Exit::Socket,
        _ => Exit::Peer,
    };
    let why = match e {
        Errno::NOENT => "no such socket; is the server started, and the path right?".into(),
        Errno::CONNREFUSED if is_socket(path) => {
            "nobody listens there: the server that made this socket has ended".into()
        }
        Errno::CONNREFUSED => "not a socket".into(),
        Errno::ACCESS => "permission denied; a client needs to write to the socket".into(),
        Errno::NAMETOOLONG => "too long for a UNIX socket path: at most 107 bytes".into(),
        Errno::PROTOTYPE => "not a stream socket, so not vfio-user".into(),
        Errno::AGAIN => {
            "the server does not take clients; its queue of waiting ones is full".into()
        }
        e => std::io::Error::from(e).to_string(),
    };
    said(path, exit, why)
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

/// The error of a session, with what can be done about it.
pub(super) fn failed(path: &Path, e: &ClientError) -> anyhow::Error {
    match e {
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
