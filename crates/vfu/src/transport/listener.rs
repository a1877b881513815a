//! A listening UNIX socket at a path, or one that was handed over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with, sockopt,
};

/// Why a socket can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process serves there.
    #[error("{0}: in use: a server is listening there; stop it or choose another path")]
    InUse(PathBuf),
    /// Something that is not a socket stands there. It is left alone.
    #[error("{0}: exists and is not a socket; remove it or choose another path")]
    NotASocket(PathBuf),
    /// UNIX socket paths are short.
    #[error("{path}: too long for a UNIX socket path: {len} bytes, at most 107 are allowed")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// The folder is missing, may not be written to, or the like.
    #[error("{path}: can't listen there: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A descriptor that was handed over is not a UNIX stream socket.
    #[error("the given file descriptor is not a UNIX stream socket: {0}")]
    BadFd(io::Error),
}

/// What came of looking for a client.
#[derive(Debug)]
pub(crate) enum Accepted {
    Client(OwnedFd),
    Nobody,
    /// The process, or the system, is out of descriptors or of memory. The client waits, and so the
    /// socket goes on to say that somebody is there: try again after [`RETRY`].
    Short,
}

/// How long to wait for descriptors before the next attempt.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

/// A listening socket. The file of one that we made goes away with it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    /// The file that we made, and which one it is.
    file: Option<(PathBuf, FileId)>,
}

/// Device and inode number.
type FileId = (u64, u64);

impl Listener {
    /// Listens at `path`. A socket file that no server listens on any more is replaced.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(path: impl AsRef<Path>) -> Result<Listener, ListenError> {
        let path = path.as_ref();
        let io = |e: Errno| ListenError::Io { path: path.into(), source: e.into() };
        let address = address(path)?;
        let socket = stream_socket().map_err(io)?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(path, &address)?;
                bind(&socket, &address).map_err(io)?;
            }
            other => other.map_err(io)?,
        }
        let file = file_id(path).map(|id| (path.to_path_buf(), id));
        let listener = Listener { socket, file };
        listen(&listener.socket, 16).map_err(io)?;
        listener.never_block().map_err(io)?;
        Ok(listener)
    }

    /// Takes over a socket that listens already, and makes it non-blocking. Nothing is removed when
    /// it goes away.
    ///
    /// # Errors
    /// It is no such socket.
    pub fn from_fd(socket: OwnedFd) -> Result<Listener, ListenError> {
        let listener = Listener { socket, file: None };
        listener.never_block().map_err(|e| ListenError::BadFd(e.into()))?;
        Ok(listener)
    }

    /// The path, if [`bind`](Self::bind) made it.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// Who waits does so in `poll`: a client that was there may be gone when it is accepted.
    fn never_block(&self) -> Result<(), Errno> {
        fcntl_setfl(&self.socket, fcntl_getfl(&self.socket)? | OFlags::NONBLOCK)
    }

    /// The next client, if one is there and the system has a descriptor for it.
    pub(crate) fn accept(&self) -> Result<Accepted, Errno> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(fd) => return Ok(Accepted::Client(fd)),
                Err(Errno::AGAIN) => return Ok(Accepted::Nobody),
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return Ok(Accepted::Short);
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, id)) = &self.file {
            // Another server may have put its own there since.
            if file_id(path) == Some(*id) {
                let _already_gone = std::fs::remove_file(path);
            }
        }
    }
}

/// Whether `fd` is a socket that listens (`true`) or one that is connected (`false`).
///
/// # Errors
/// It is not a UNIX stream socket.
pub(crate) fn is_listening(fd: BorrowedFd<'_>) -> Result<bool, ListenError> {
    let bad = |e: Errno| ListenError::BadFd(e.into());
    if sockopt::socket_domain(fd).map_err(bad)? != AddressFamily::UNIX
        || sockopt::socket_type(fd).map_err(bad)? != SocketType::STREAM
    {
        return Err(bad(Errno::AFNOSUPPORT));
    }
    sockopt::socket_acceptconn(fd).map_err(bad)
}

fn file_id(path: &Path) -> Option<FileId> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

pub(super) fn stream_socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn address(path: &Path) -> Result<SocketAddrUnix, ListenError> {
    SocketAddrUnix::new(path).map_err(|e| match e {
        Errno::NAMETOOLONG => {
            ListenError::TooLong { path: path.into(), len: path.as_os_str().len() }
        }
        e => ListenError::Io { path: path.into(), source: e.into() },
    })
}

/// Removes what a server that died left behind; never a socket in use or another kind of file.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let io = |source: io::Error| ListenError::Io { path: path.into(), source };
    if !std::fs::symlink_metadata(path).map_err(io)?.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.into()));
    }
    let probe = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(|e| io(e.into()))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(io),
        _ => Err(ListenError::InUse(path.into())),
    }
}
