//! VERSION, from the server's side (specification, "VFIO_USER_VERSION").

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tracing::{debug, info};
use vfu_proto::session::{Channel, Closed};
use vfu_proto::wire::{
    Capabilities, Command, DEFAULT_MAX_DATA_XFER_SIZE, DEFAULT_MAX_MSG_FDS, Errno, TwinSocket,
    Version,
};

use super::builder::Settings;
use crate::link::{Link, Message};

/// The largest minor version that we know. None has a meaning of its own; capabilities have.
const MINOR: u16 = 1;
/// Descriptors that we take with one message. QEMU refuses to hear of more than 16.
const MAX_FDS: u32 = 16;
/// The most descriptors that Linux sends with one message (SCM_MAX_FD).
const MAX_SENT_FDS: u32 = 253;

/// What both sides agreed on.
#[derive(Debug)]
pub(super) struct Agreed {
    /// The most data that a message to or from the client may carry, in bytes.
    pub(super) max_transfer: usize,
    /// Descriptors that the client takes with one message.
    pub(super) max_fds: usize,
    /// REGION_WRITE_MULTI may be used.
    pub(super) write_multiple: bool,
}

/// Answers the first command. A client that can't be served is told why, and disconnected.
pub(super) fn answer(link: &Link, settings: &Settings, first: &Message) -> Result<Agreed, Closed> {
    let header = *first.header();
    let refuse = |why: &'static str| {
        if !header.wants_no_reply() {
            let bytes = header.error_reply(Errno::EINVAL).emit();
            let _closed = link.send(Channel::Main, &[IoSlice::new(&bytes)], &[]);
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
    if !first.fds.is_empty() {
        return Err(refuse("sent file descriptors with VERSION"));
    }
    let proposed = Version::parse(first.payload());
    let proposed = proposed.map_err(|_| refuse("sent a malformed VERSION"))?;
    if proposed.major != 0 {
        return Err(refuse("speaks another major version than 0"));
    }
    let twin = make_twin(settings, &proposed.caps);
    let caps = ours(settings, twin.is_some()).restricted_to(&proposed.caps);
    let reply = Version::new(0, proposed.minor.min(MINOR), caps);
    let mut payload = Vec::with_capacity(256);
    reply.emit(&mut payload);
    let head = header.reply(payload.len()).emit();
    let parts = [IoSlice::new(&head), IoSlice::new(&payload)];
    let has_twin = twin.is_some();
    if let Some((ours, theirs)) = twin {
        // The engine must know of the twin before the client can use it.
        link.add_twin(ours);
        link.send(Channel::Main, &parts, &[theirs.as_fd()])?;
    } else {
        link.send(Channel::Main, &parts, &[])?;
    }
    let theirs = proposed.caps.max_data_xfer_size.unwrap_or(DEFAULT_MAX_DATA_XFER_SIZE);
    let max_transfer = theirs.min(settings.max_transfer) as usize;
    info!(minor = reply.minor, max_transfer, twin = has_twin, "client connected");
    let max_fds = proposed.caps.max_msg_fds.unwrap_or(DEFAULT_MAX_MSG_FDS).min(MAX_SENT_FDS);
    let write_multiple = reply.caps.write_multiple == Some(true);
    Ok(Agreed { max_transfer, max_fds: max_fds as usize, write_multiple })
}

/// What we can do, whatever the client proposes.
fn ours(settings: &Settings, twin: bool) -> Capabilities {
    Capabilities {
        max_msg_fds: Some(MAX_FDS),
        max_data_xfer_size: Some(settings.max_transfer),
        max_dma_maps: Some(u64::from(settings.max_dma_maps)),
        pgsizes: Some(4096),
        twin_socket: Some(TwinSocket { supported: twin, fd_index: twin.then_some(0) }),
        write_multiple: Some(true),
        ..Capabilities::default()
    }
}

/// Both ends of a second socket, if the client can take one and we want it.
fn make_twin(settings: &Settings, proposed: &Capabilities) -> Option<(OwnedFd, OwnedFd)> {
    let wanted = settings.twin_socket
        && proposed.twin_socket.as_ref().is_some_and(|twin| twin.supported)
        && proposed.max_msg_fds.unwrap_or(DEFAULT_MAX_MSG_FDS) > 0;
    wanted
        .then(|| socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None))?
        .ok()
}
