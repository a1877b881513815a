//! An event file descriptor of the client, written without ever blocking.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::{Errno as SysErrno, write};
use vfu_proto::wire::Errno;

use super::rescue::{Counted, Distrust};
use crate::sync::kernel::act;

/// Checked when it came; writing to it raises no signal, and can't block: not for more than a moment, whatever
/// the client does to it. If it was for a moment, it is not written again.
#[derive(Debug)]
pub(crate) struct EventFd(Arc<Counted>);

impl EventFd {
    /// Takes a descriptor of the client, if it is an eventfd, and makes it non-blocking. The `distrust` is the
    /// session's.
    ///
    /// # Errors
    /// `EINVAL`: it is something else.
    pub(crate) fn new(fd: OwnedFd, distrust: &Distrust) -> Result<EventFd, Errno> {
        // Files without a name have no type. The kernel shows their kind in /proc, if we have it.
        let stat = fstat(&fd).map_err(|_| Errno::EINVAL)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Unknown {
            return Err(Errno::EINVAL);
        }
        if let Ok(kind) = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
            if kind.as_os_str() != "anon_inode:[eventfd]" {
                return Err(Errno::EINVAL);
            }
        }
        let flags = fcntl_getfl(&fd).map_err(|_| Errno::EINVAL)?;
        if !flags.contains(OFlags::NONBLOCK) {
            fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(|_| Errno::EINVAL)?;
        }
        Ok(EventFd(Counted::new(fd, distrust)))
    }

    /// Adds one. A counter that is full has not been read yet: the client will see it anyway.
    pub(crate) fn signal(&self) -> Result<(), SysErrno> {
        match act(|| self.0.write(|fd| write(fd, &1u64.to_ne_bytes()))) {
            Err(SysErrno::AGAIN) => Ok(()),
            result => result,
        }
    }
}
