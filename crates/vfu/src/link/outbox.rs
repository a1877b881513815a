//! What could not be sent at once, for one socket.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::draft;
use crate::transport::Socket;

/// Data that its owner lends is sent from where it lies, behind the draft, if it is so many bytes; less is copied
/// into the draft, for to send two parts costs more.
pub(crate) const FROM_PLACE: usize = 16 << 10;

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
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Sends one message, a draft and `data` behind it, or as much as goes; the rest waits. Messages
    /// never overtake each other.
    #[inline]
    pub(super) fn send(
        &mut self,
        socket: &Socket,
        draft: &mut Vec<u8>,
        data: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let sent = if self.bytes > 0 {
            0
        } else {
            match socket.send([draft, data], fds) {
                Err(Errno::AGAIN) => 0,
                other => other?,
            }
        };
        if sent < draft.len() + data.len() {
            self.keep(draft, data, sent, if sent == 0 { fds } else { &[] })?;
        }
        Ok(())
    }

    /// Keeps what comes after the first `sent` bytes: in the draft's own buffer, if that has the right
    /// size for it.
    fn keep(
        &mut self,
        draft: &mut Vec<u8>,
        data: &[u8],
        sent: usize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let data = &data[sent.saturating_sub(draft.len())..];
        let (len, sent) = (draft.len() + data.len(), sent.min(draft.len()));
        let (mut bytes, sent) = if (draft.capacity() / 2..=draft.capacity()).contains(&len) {
            (std::mem::take(draft), sent)
        } else {
            let mut bytes = draft::spare();
            bytes.try_reserve_exact(len - sent).map_err(|_| Errno::NOMEM)?;
            bytes.extend_from_slice(&draft[sent..]);
            (bytes, 0)
        };
        bytes.extend_from_slice(data);
        let fds = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 0));
        let fds = fds.collect::<Result<_, _>>()?;
        self.bytes += bytes.len() - sent;
        self.chunks.push_back(Chunk { bytes, sent, fds });
        Ok(())
    }

    /// Sends what goes of what waits. Says whether anything went.
    pub(super) fn flush(&mut self, socket: &Socket) -> Result<bool, Errno> {
        let mut progress = false;
        while let Some(chunk) = self.chunks.front_mut() {
            let fds: Vec<_> = chunk.fds.iter().map(|fd| fd.as_fd()).collect();
            match socket.send([&chunk.bytes[chunk.sent..], &[]], &fds) {
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e),
                Ok(n) => {
                    progress |= n > 0;
                    chunk.fds.clear();
                    chunk.sent += n;
                    self.bytes -= n;
                    if chunk.sent < chunk.bytes.len() {
                        break; // the socket is full
                    }
                    let done = self.chunks.pop_front();
                    done.into_iter().for_each(|done| draft::give_back(done.bytes));
                }
            }
        }
        Ok(progress)
    }
}
