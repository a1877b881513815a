//! Connecting to a server, and what to say when there is none.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{SocketAddrUnix, connect};

use super::listener::stream_socket;

/// Why a server can't be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no such file.
    #[error("{0}: no such socket; is the server started, and the path right?")]
    NotFound(PathBuf),
    /// The file of a server that is no more.
    #[error("{0}: nobody listens there: the server that made this socket has ended")]
    NobodyListens(PathBuf),
    /// A file of another kind.
    #[error("{0}: not a UNIX stream socket")]
    NotASocket(PathBuf),
    /// A client needs to write to the socket.
    #[error("{0}: permission denied; a client needs to write to the socket")]
    Denied(PathBuf),
    /// The server serves somebody else, and enough clients wait already.
    #[error("{0}: the server does not take clients; its queue of waiting ones is full")]
    QueueFull(PathBuf),
    /// UNIX socket paths are short.
    #[error("{path}: too long for a UNIX socket path: {len} bytes, at most 107 are allowed")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// Anything else.
    #[error("{path}: can't connect")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Connects to the server that listens at `path`.
///
/// While the server's queue of clients is full the system would have us wait for ever, unless there
/// is a `timeout`.
pub(crate) fn connect_to(path: &Path, timeout: Option<Duration>) -> Result<OwnedFd, ConnectError> {
    reach(path, timeout).map_err(|e| {
        let is_socket = || std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
        let path = PathBuf::from(path);
        match e {
            Errno::NOENT => ConnectError::NotFound(path),
            Errno::CONNREFUSED if is_socket() => ConnectError::NobodyListens(path),
            Errno::CONNREFUSED | Errno::PROTOTYPE => ConnectError::NotASocket(path),
            Errno::ACCESS => ConnectError::Denied(path),
            Errno::AGAIN => ConnectError::QueueFull(path),
            Errno::NAMETOOLONG => ConnectError::TooLong { len: path.as_os_str().len(), path },
            e => ConnectError::Io { path, source: e.into() },
        }
    })
}

fn reach(path: &Path, timeout: Option<Duration>) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let socket = stream_socket()?;
    set_socket_timeout(&socket, Timeout::Send, timeout)?;
    loop {
        match connect(&socket, &address) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
            Ok(()) => return Ok(socket),
        }
    }
}
