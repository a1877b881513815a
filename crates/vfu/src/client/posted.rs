//! Posted writes that share messages (specification, VFIO_USER_REGION_WRITE_MULTI).

use std::sync::PoisonError;

use vfu_proto::wire::{Command, RegionWriteRequest, Request, WriteEntry, WriteMulti};

use super::{Client, ClientError};
use crate::link::with_draft;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Writes in one message. QEMU sends as many, so every server takes them.
const MOST: usize = 200;

/// Posted writes of a session: those that wait to be sent, and whether those that were sent may still
/// be under way.
#[derive(Debug, Default)]
pub(super) struct PostedWrites {
    /// There is something in `waiting`.
    any: AtomicBool,
    waiting: Mutex<Vec<WriteEntry>>,
    /// Messages that were sent without a reply.
    sent: AtomicU64,
    /// Of those, how many had been executed when some reply came.
    done: AtomicU64,
}

impl PostedWrites {
    /// Counts a message that wants no reply, once it has been handed over.
    pub(super) fn count(&self) {
        self.sent.fetch_add(1, Ordering::SeqCst);
    }

    /// What a reply to a request that is sent after this will say to have been executed.
    pub(super) fn mark(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// The reply has come.
    #[inline]
    pub(super) fn executed(&self, mark: u64) {
        // To look first is cheaper: most often nothing was posted.
        if self.done.load(Ordering::SeqCst) < mark {
            self.done.fetch_max(mark, Ordering::SeqCst);
        }
    }

    /// Whether the device may not have seen all posted writes yet: then nothing may go past the
    /// socket.
    pub(super) fn are_under_way(&self) -> bool {
        self.any.load(Ordering::SeqCst)
            || self.sent.load(Ordering::SeqCst) != self.done.load(Ordering::SeqCst)
    }
}

/// Writes that nobody waits for, many of them in one message; made by [`Client::posted`].
///
/// A write of up to 8 bytes waits, with up to 199 others, until it is [`flush`](Self::flush)ed, until
/// this is dropped, or until the client sends anything else: a read, a longer write, a reset. So the
/// device sees all that one thread does in the order in which it was done, whichever way it was
/// done. If the server has not agreed to `write_multiple` each write is sent at once, in a message
/// of its own.
///
/// Clones of the client share what waits.
#[derive(Debug)]
pub struct Posted<'a> {
    client: &'a Client,
}

impl Client {
    /// Begins to collect posted writes; see [`Posted`].
    pub fn posted(&self) -> Posted<'_> {
        Posted { client: self }
    }
}

impl Posted<'_> {
    /// Writes to a region, soon.
    ///
    /// # Errors
    /// The session has ended. What the device makes of it is never known.
    pub fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        let inner = &self.client.inner;
        let agreed = inner.write_multiple && data.len() <= inner.max_transfer;
        let Some(entry) = WriteEntry::new(offset, region, data).filter(|_| agreed) else {
            return self.client.region_write_posted(region, offset, data);
        };
        let posted = &inner.posted;
        let mut waiting = posted.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(entry);
        posted.any.store(true, Ordering::SeqCst);
        if waiting.len() < self.client.most() {
            return Ok(());
        }
        drop(waiting);
        self.flush()
    }

    /// Sends what waits. Waits only while the socket is full. A later read sees it done.
    ///
    /// # Errors
    /// The session has ended.
    pub fn flush(&self) -> Result<(), ClientError> {
        if self.client.send_waiting()? { self.client.serve_until_sent() } else { Ok(()) }
    }
}

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        let _the_session_has_ended = self.flush();
    }
}

impl Client {
    /// How many writes a message may have.
    fn most(&self) -> usize {
        MOST.min(self.inner.max_transfer / size_of::<WriteEntry>()).max(1)
    }

    /// Hands over what waits, before something else is sent. False: there was nothing.
    #[inline]
    pub(super) fn send_waiting(&self) -> Result<bool, ClientError> {
        if self.inner.posted.any.load(Ordering::SeqCst) { self.send_all() } else { Ok(false) }
    }

    #[inline(never)]
    fn send_all(&self) -> Result<bool, ClientError> {
        let posted = &self.inner.posted;
        // Held while it is sent: what another thread adds comes behind it.
        let mut waiting = posted.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut result = Ok(());
        for writes in waiting.chunks(self.most()) {
            let request = match writes {
                [one] => Request::RegionWrite(RegionWriteRequest {
                    offset: one.offset(),
                    region: one.region(),
                    data: one.data(),
                }),
                many => Request::RegionWriteMulti(WriteMulti::new(many)),
            };
            result = self.hand_over(&request);
            if result.is_err() {
                break;
            }
        }
        waiting.clear();
        posted.any.store(false, Ordering::SeqCst);
        result.map(|()| true)
    }

    /// Sends a request that wants no reply; it need not have left when this returns.
    pub(super) fn hand_over(&self, request: &Request<'_>) -> Result<(), ClientError> {
        let command: Command = request.command();
        let sent = with_draft(|draft| {
            request.emit(draft);
            self.inner.link.post(command, draft)
        });
        sent.map_err(|e| ClientError::from_request(&self.inner.link, command, e))?;
        self.inner.posted.count();
        Ok(())
    }

    /// Waits until all has left; serves the server's commands meanwhile.
    ///
    /// # Errors
    /// The session has ended, and something is left.
    pub(super) fn serve_until_sent(&self) -> Result<(), ClientError> {
        while let Some(command) = self.inner.link.flushed_or_command() {
            self.serve(command);
        }
        if self.inner.link.has_unsent() {
            Err(ClientError::closed(&self.inner.link))
        } else {
            Ok(())
        }
    }
}
