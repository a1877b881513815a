//! What could not be sent at once, for one socket.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::transport::Socket;

/// Bytes, and the descriptors that go with the first of them, that wait for the peer to read.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl Outbox {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Sends one message, or as much as goes; the rest waits. Messages never overtake each other.
    pub(super) fn send(
        &mut self,
        socket: &Socket,
        parts: &[IoSlice<'_>],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let total: usize = parts.iter().map(|p| p.len()).sum();
        let sent = if self.bytes > 0 {
            0
        } else {
            match socket.send(parts, fds) {
                Err(Errno::AGAIN) => 0,
                other => other?,
            }
        };
        if sent < total {
            self.keep(parts, sent, if sent == 0 { fds } else { &[] })?;
        }
        Ok(())
    }

    /// Keeps what comes after the first `sent` bytes of `parts`.
    fn keep(
        &mut self,
        parts: &[IoSlice<'_>],
        sent: usize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let mut skip = sent;
        let mut bytes = Vec::new();
        let len = parts.iter().map(|part| part.len()).sum::<usize>() - sent;
        bytes.try_reserve_exact(len).map_err(|_| Errno::NOMEM)?;
        for part in parts {
            let from = skip.min(part.len());
            skip -= from;
            bytes.extend_from_slice(&part[from..]);
        }
        let fds = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 0));
        let fds = fds.collect::<Result<_, _>>()?;
        self.bytes += bytes.len();
        self.chunks.push_back(Chunk { bytes, sent: 0, fds });
        Ok(())
    }

    /// Sends what goes of what waits. Says whether anything went.
    pub(super) fn flush(&mut self, socket: &Socket) -> Result<bool, Errno> {
        let mut progress = false;
        while let Some(chunk) = self.chunks.front_mut() {
            let fds: Vec<_> = chunk.fds.iter().map(|fd| fd.as_fd()).collect();
            match socket.send(&[IoSlice::new(&chunk.bytes[chunk.sent..])], &fds) {
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e),
                Ok(n) => {
                    progress |= n > 0;
                    chunk.fds.clear();
                    chunk.sent += n;
                    self.bytes -= n;
                    if chunk.sent == chunk.bytes.len() {
                        self.chunks.pop_front();
                    }
                }
            }
        }
        Ok(progress)
    }
}
