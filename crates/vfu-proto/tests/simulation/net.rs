//! One direction of one socket, from the sender's queue to the receiver's `recvmsg`.

use std::collections::VecDeque;
use std::rc::Rc;

use vfu_proto::wire::Header;

/// What a message was when it was sent: the truth that everything later is compared with.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    pub(super) fds: Vec<u32>,
    /// The serial number of the request that this is, or that this answers.
    pub(super) serial: Option<u64>,
    /// DMA_WRITEs that the server had sent before.
    pub(super) writes_before: u64,
    /// A message that an honest peer would not send.
    pub(super) bogus: bool,
}

/// A stream of bytes in one direction.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Messages that the receiver has not taken off the stream yet.
    pub(super) log: VecDeque<Rc<Sent>>,
    /// What the sender's socket has not taken yet: one `sendmsg` each.
    unsent: VecDeque<Chunk>,
    unsent_bytes: usize,
    /// What the receiver can receive: `bytes[head..]`, and the `sendmsg`s that it came by.
    bytes: Vec<u8>,
    head: usize,
    writes: VecDeque<(usize, Vec<u32>)>,
    /// How much the socket takes before the receiver has to read.
    pub(super) room: usize,
    /// Nothing can be sent any more; the receiver sees the end after what is there.
    pub(super) ended: bool,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<u32>,
}

impl Stream {
    /// Queues a message for sending.
    pub(super) fn push(&mut self, sent: &Rc<Sent>) {
        let mut bytes = Vec::with_capacity(16 + sent.payload.len());
        bytes.extend_from_slice(&sent.header.emit());
        bytes.extend_from_slice(&sent.payload);
        self.unsent_bytes += bytes.len();
        self.unsent.push_back(Chunk { bytes, sent: 0, fds: sent.fds.clone() });
        self.log.push_back(sent.clone());
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent_bytes
    }

    /// Sends up to `max` bytes. `Err`: the socket is gone.
    pub(super) fn flush(&mut self, mut max: usize) -> Result<usize, ()> {
        let mut moved = 0;
        while let Some(chunk) = self.unsent.front_mut() {
            let room = self.room.saturating_sub(self.bytes.len() - self.head);
            let n = (chunk.bytes.len() - chunk.sent).min(max).min(room);
            if n == 0 {
                break;
            }
            if self.ended {
                return Err(());
            }
            self.bytes.extend_from_slice(&chunk.bytes[chunk.sent..][..n]);
            // The descriptors go with the first bytes.
            self.writes.push_back((n, std::mem::take(&mut chunk.fds)));
            chunk.sent += n;
            (max, moved) = (max - n, moved + n);
            if chunk.sent == chunk.bytes.len() {
                self.unsent.pop_front();
            }
        }
        self.unsent_bytes -= moved;
        Ok(moved)
    }

    /// One `recvmsg`: it goes on over several writes, and ends with one that carries descriptors.
    pub(super) fn receive(&mut self, space: &mut [u8]) -> (usize, Vec<u32>) {
        let mut got = 0;
        while got < space.len() {
            let Some((len, fds)) = self.writes.front_mut() else { break };
            let n = (*len).min(space.len() - got);
            space[got..got + n].copy_from_slice(&self.bytes[self.head..self.head + n]);
            let fds = std::mem::take(fds);
            (got, self.head, *len) = (got + n, self.head + n, *len - n);
            if *len == 0 {
                self.writes.pop_front();
            }
            if !fds.is_empty() {
                return (got, fds);
            }
        }
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
        } else if self.head > 1 << 16 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        (got, Vec::new())
    }

    /// Bytes that can be received.
    pub(super) fn arrived(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// The connection is lost; of what was on its way `keep` bytes still arrive.
    pub(super) fn cut(&mut self, keep: usize) {
        let mut left = keep.min(self.arrived());
        self.bytes.truncate(self.head + left);
        self.writes.retain_mut(|(len, _)| {
            *len = (*len).min(left);
            left -= *len;
            *len > 0
        });
        self.ended = true;
    }

    /// The sender has closed its end.
    pub(super) fn hang_up(&mut self) {
        self.unsent.clear();
        self.unsent_bytes = 0;
        self.ended = true;
    }

    /// Nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.arrived() == 0 && self.unsent_bytes == 0
    }
}
