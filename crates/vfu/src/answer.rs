//! Answers to accesses that a device gives later.

use std::sync::Arc;

use vfu_proto::session::Channel;
use vfu_proto::wire::{
    Errno, HEADER_SIZE, Header, RegionReadReply, RegionReadRequest, RegionWriteReply,
};

use crate::device::Fault;
use crate::link::{Link, with_draft};

/// Lets a handler answer later: see [`Device::region_read_or_defer`](crate::Device::region_read_or_defer).
#[derive(Debug)]
pub struct Defer<'a> {
    link: &'a Arc<Link>,
    header: Header,
    access: What,
    taken: bool,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Read(RegionReadRequest),
    Write(RegionWriteReply),
}

impl<'a> Defer<'a> {
    pub(crate) fn read(link: &'a Arc<Link>, header: Header, request: RegionReadRequest) -> Self {
        Defer { link, header, access: What::Read(request), taken: false }
    }

    pub(crate) fn write(link: &'a Arc<Link>, header: Header, reply: RegionWriteReply) -> Self {
        Defer { link, header, access: What::Write(reply), taken: false }
    }

    /// Takes the answer. What the handler returns after that does not matter.
    ///
    /// `None` if it has been taken already.
    pub fn later(&mut self) -> Option<Later> {
        if std::mem::replace(&mut self.taken, true) {
            return None;
        }
        self.link.attended();
        self.link.defers();
        Some(Later {
            link: self.link.clone(),
            header: self.header,
            access: self.access,
            open: true,
        })
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.taken
    }
}

/// An answer that is still to be given, once, from any thread.
///
/// Dropped, it answers as a PCI bus does when nobody is there: a read gets all ones, a write is
/// done. After the client has gone it does nothing.
#[derive(Debug)]
#[must_use = "the driver waits for it"]
pub struct Later {
    link: Arc<Link>,
    header: Header,
    access: What,
    open: bool,
}

impl Later {
    /// How many bytes the driver wants to read; 0 for a write.
    pub fn len(&self) -> usize {
        match self.access {
            What::Read(request) => request.count as usize,
            What::Write(_) => 0,
        }
    }

    /// Whether no data is wanted: it is a write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the driver `value`, the register's bytes in little-endian order: cut, or filled up with
    /// zeros, to what it asked for. For a write: says that it is done.
    pub fn give(mut self, value: &[u8]) {
        self.answer(Some(value));
    }

    /// The access did nothing.
    pub fn refuse(mut self, fault: Fault) {
        tracing::debug!(%fault, "answered later");
        self.answer(None);
    }

    fn answer(&mut self, value: Option<&[u8]>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        if !self.header.wants_no_reply() {
            with_draft(|out| {
                match self.access {
                    What::Read(request) => {
                        RegionReadReply::emit_head(&request, out);
                        let start = out.len();
                        if out.try_reserve(request.count as usize).is_err() {
                            let refused = self.header.error_reply(Errno::ENOMEM);
                            let _closed = self.link.send_header(Channel::Main, &refused);
                            return;
                        }
                        let filler = if value.is_some() { 0 } else { 0xff };
                        out.resize(start + request.count as usize, filler);
                        let value = value.unwrap_or_default();
                        let len = value.len().min(request.count as usize);
                        out[start..start + len].copy_from_slice(&value[..len]);
                    }
                    What::Write(reply) => reply.emit(out),
                }
                self.header.reply(out.len() - HEADER_SIZE).emit_into(out);
                let _closed = self.link.send(Channel::Main, out, &[]);
            });
        }
        self.link.deferred();
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        self.answer(None);
    }
}
