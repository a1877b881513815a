//! Descriptors of all kinds, some of which nobody should have to receive.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{
    CWD, MemfdFlags, Mode, OFlags, fcntl_getfl, fcntl_setfl, ftruncate, memfd_create, openat,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

/// A kind of descriptor, as a script names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// Memory of so many bytes.
    Memfd(u64),
    /// The same, opened for reading only.
    ReadOnly(u64),
    /// An eventfd that can be written.
    Eventfd,
    /// A blocking eventfd whose counter is full.
    FullEventfd,
    /// A pipe that can be written.
    Pipe,
    /// A blocking pipe that is full.
    FullPipe,
    /// A pipe whose reader has gone.
    BrokenPipe,
    /// A socket whose peer has gone.
    Socket,
    /// `/dev/zero`.
    Zero,
    /// `/dev/full`.
    Full,
    /// A directory.
    Directory,
    /// A descriptor that stands for a path only.
    Path,
}

impl Descriptor {
    /// All kinds without a size, with the names that scripts use.
    pub(crate) const NAMED: [(Descriptor, &'static str); 10] = [
        (Descriptor::Eventfd, "eventfd"),
        (Descriptor::FullEventfd, "full-eventfd"),
        (Descriptor::Pipe, "pipe"),
        (Descriptor::FullPipe, "full-pipe"),
        (Descriptor::BrokenPipe, "broken-pipe"),
        (Descriptor::Socket, "socket"),
        (Descriptor::Zero, "zero"),
        (Descriptor::Full, "full"),
        (Descriptor::Directory, "directory"),
        (Descriptor::Path, "path"),
    ];

    /// Makes one. What has to stay open beside it goes to `keep`.
    pub(crate) fn open(self, keep: &mut Vec<OwnedFd>) -> Result<OwnedFd, Errno> {
        let (unix, stream) = (AddressFamily::UNIX, SocketType::STREAM);
        match self {
            Descriptor::Memfd(size) => memory(size),
            Descriptor::ReadOnly(size) => {
                let file = memory(size)?;
                path(&format!("/proc/self/fd/{}", file.as_raw_fd()), OFlags::RDONLY)
            }
            Descriptor::Eventfd => eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC),
            Descriptor::FullEventfd => {
                let full = eventfd(0, EventfdFlags::CLOEXEC)?;
                rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes())?;
                Ok(full)
            }
            Descriptor::Pipe => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
                keep.push(reader);
                Ok(writer)
            }
            Descriptor::FullPipe => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
                fcntl_setfl(&writer, fcntl_getfl(&writer)? - OFlags::NONBLOCK)?;
                keep.push(reader);
                Ok(writer)
            }
            Descriptor::BrokenPipe => pipe_with(PipeFlags::CLOEXEC).map(|(_, writer)| writer),
            Descriptor::Socket => {
                socketpair(unix, stream, SocketFlags::CLOEXEC, None).map(|(_, socket)| socket)
            }
            Descriptor::Zero => path("/dev/zero", OFlags::RDWR),
            Descriptor::Full => path("/dev/full", OFlags::RDWR),
            Descriptor::Directory => path("/", OFlags::RDONLY | OFlags::DIRECTORY),
            Descriptor::Path => path("/", OFlags::PATH),
        }
    }
}

fn memory(size: u64) -> Result<OwnedFd, Errno> {
    let file = memfd_create("vfu-fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, size)?;
    Ok(file)
}

fn path(path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
}
