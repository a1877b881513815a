//! The socket that clients connect to.

use std::ffi::{CStr, OsStr, c_int};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

use crate::errno::{EAGAIN, EINTR};

/// A listening socket. Its file goes away with it.
pub(crate) struct Listener {
    socket: OwnedFd,
    /// The file, and which one it is: its device and inode numbers.
    file: Option<(PathBuf, (u64, u64))>,
}

impl Listener {
    /// Listens at `path`, where nothing may be yet; at an address of the system's choice if it is empty.
    pub(crate) fn bind(path: &CStr) -> Result<Listener, c_int> {
        Self::try_bind(path).map_err(|e| e.raw_os_error())
    }

    fn try_bind(path: &CStr) -> Result<Listener, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        if path.is_empty() {
            bind(&socket, &SocketAddrUnix::new_unnamed())?;
            listen(&socket, 16)?;
            return Ok(Listener { socket, file: None });
        }
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        let path = PathBuf::from(OsStr::from_bytes(path.to_bytes()));
        let id = std::fs::symlink_metadata(&path).map(|file| (file.dev(), file.ino()));
        let listener = Listener { socket, file: id.ok().map(|id| (path, id)) };
        listen(&listener.socket, 16)?;
        Ok(listener)
    }

    /// The next client. Waits for one if it may, else there is `EAGAIN`; a signal ends the wait.
    pub(crate) fn accept(&self, wait: bool) -> Result<OwnedFd, c_int> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => return Ok(socket),
                Err(Errno::CONNABORTED) => {}
                Err(Errno::INTR) if !wait => {}
                Err(Errno::AGAIN) if wait => {
                    let mut set = [PollFd::new(&self.socket, PollFlags::IN)];
                    match poll(&mut set, None) {
                        Err(Errno::INTR) => return Err(EINTR),
                        other => other.map_err(|e| e.raw_os_error())?,
                    };
                }
                Err(Errno::AGAIN) => return Err(EAGAIN),
                Err(e) => return Err(e.raw_os_error()),
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
        let Some((path, id)) = &self.file else { return };
        // Another server may have put its own there since.
        let now = std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()));
        if now.is_ok_and(|now| now == *id) {
            let _already_gone = std::fs::remove_file(path);
        }
    }
}
