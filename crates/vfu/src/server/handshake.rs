//! VERSION, from the server's side (specification, "VFIO_USER_VERSION").

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tracing::{debug, info};
use vfu_proto::session::{Channel, Closed};
use vfu_proto::wire::{
    Capabilities, Command, DEFAULT_MAX_DATA_XFER_SIZE, DEFAULT_MAX_MSG_FDS, Errno, HEADER_SIZE,
    TwinSocket, Version,
};

use super::builder::Settings;
use crate::link::{Link, Message, with_draft};

/// The largest minor version that we know. None has a meaning of its own; capabilities have.
const MINOR: u16 = 1;
/// Descriptors that we take with one message. QEMU refuses to hear of more than 16.
const MAX_FDS: u32 = 16;
/// The most descriptors that Linux sends with one message (SCM_MAX_FD).
const MAX_SENT_FDS: u32 = 253;

/// What both sides agreed on.
#[derive(Debug)]
pub(crate) struct Agreed {
    /// The most data that a message to or from the client may carry, in bytes.
    pub(crate) max_transfer: usize,
    /// Descriptors that the client takes with one message.
    pub(crate) max_fds: usize,
    /// REGION_WRITE_MULTI may be used.
    pub(crate) write_multiple: bool,
    /// No reply of the client's is too large for the socket.
    pub(crate) whole_replies: bool,
}

/// What a server can do, whatever the client proposes.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) minor: u16,
    /// Without the twin socket.
    pub(crate) caps: Capabilities,
    pub(crate) max_transfer: u64,
    pub(crate) twin_socket: bool,
    /// Sent whether the client proposed it or not.
    pub(crate) always: Capabilities,
    /// Why a client can't be served, if it can't.
    pub(crate) objection: fn(&Capabilities) -> Option<&'static str>,
}

impl Offer {
    pub(super) fn of(settings: &Settings) -> Offer {
        Offer {
            minor: MINOR,
            caps: Capabilities {
                max_msg_fds: Some(MAX_FDS),
                max_data_xfer_size: Some(settings.max_transfer),
                max_dma_maps: Some(u64::from(settings.max_dma_maps)),
                pgsizes: Some(4096),
                write_multiple: Some(true),
                ..Capabilities::default()
            },
            max_transfer: settings.max_transfer,
            twin_socket: settings.twin_socket,
            always: Capabilities::default(),
            objection: |_| None,
        }
    }

    /// What stands in the reply to `proposed`.
    fn reply_to(&self, proposed: &Capabilities, twin: bool) -> Capabilities {
        let ours = Capabilities {
            twin_socket: Some(TwinSocket { supported: twin, fd_index: twin.then_some(0) }),
            ..self.caps
        };
        let caps = ours.restricted_to(proposed);
        Capabilities {
            max_msg_fds: caps.max_msg_fds.or(self.always.max_msg_fds),
            max_data_xfer_size: caps.max_data_xfer_size.or(self.always.max_data_xfer_size),
            migration: caps.migration.or(self.always.migration),
            ..caps
        }
    }
}

/// Answers the first command. A client that can't be served is told why, and disconnected.
pub(crate) fn answer(link: &Link, offer: &Offer, first: &Message) -> Result<Agreed, Closed> {
    let header = *first.header();
    let refuse = |why: &'static str| {
        if !header.wants_no_reply() {
            let _closed = link.send_header(Channel::Main, &header.error_reply(Errno::EINVAL));
        }
        debug!(why, "VERSION refused");
        link.close(Closed::Protocol(why))
    };
    if header.command != Command::Version.as_u16() {
        return Err(refuse("began with something else than VERSION"));
    }
    if header.wants_no_reply() {
        return Err(refuse("wants no reply to VERSION"));
    }
    if !first.fds().is_empty() {
        return Err(refuse("sent file descriptors with VERSION"));
    }
    let proposed = Version::parse(first.payload());
    let proposed = proposed.map_err(|_| refuse("sent a malformed VERSION"))?;
    if proposed.major != 0 {
        return Err(refuse("speaks another major version than 0"));
    }
    if let Some(why) = (offer.objection)(&proposed.caps) {
        return Err(refuse(why));
    }
    let twin = make_twin(offer, &proposed.caps);
    let caps = offer.reply_to(&proposed.caps, twin.is_some());
    let reply = Version::new(0, proposed.minor.min(offer.minor), caps);
    let has_twin = twin.is_some();
    with_draft(|out| {
        reply.emit(out);
        header.reply(out.len() - HEADER_SIZE).emit_into(out);
        let Some((ours, theirs)) = twin else { return link.send(Channel::Main, out, &[]) };
        // The engine must know of the twin before the client can use it.
        link.add_twin(ours);
        link.send(Channel::Main, out, &[theirs.as_fd()])
    })?;
    let theirs = proposed.caps.max_data_xfer_size.unwrap_or(DEFAULT_MAX_DATA_XFER_SIZE);
    let max_transfer = theirs.min(offer.max_transfer) as usize;
    info!(minor = reply.minor, max_transfer, twin = has_twin, "client connected");
    let max_fds = proposed.caps.max_msg_fds.unwrap_or(DEFAULT_MAX_MSG_FDS).min(MAX_SENT_FDS);
    let write_multiple = reply.caps.write_multiple == Some(true);
    // With a socket of its own for DMA a client knows how to send them.
    let whole_replies = has_twin || proposed.caps.whole_replies == Some(true);
    Ok(Agreed { max_transfer, max_fds: max_fds as usize, write_multiple, whole_replies })
}

/// Both ends of a second socket, if the client can take one and we want it.
fn make_twin(offer: &Offer, proposed: &Capabilities) -> Option<(OwnedFd, OwnedFd)> {
    let wanted = offer.twin_socket
        && proposed.twin_socket.as_ref().is_some_and(|twin| twin.supported)
        && proposed.max_msg_fds.unwrap_or(DEFAULT_MAX_MSG_FDS) > 0;
    wanted
        .then(|| socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None))?
        .ok()
}
