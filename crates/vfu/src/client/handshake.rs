//! VERSION, from the client's side (specification, "VFIO_USER_VERSION").

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use vfu_proto::session::{Closed, Start};
use vfu_proto::wire::{Capabilities, Command, DEFAULT_MAX_DATA_XFER_SIZE, TwinSocket, Version};

use super::{ClientBuilder, ClientError};
use crate::link::{Asker, Extra, Link, with_draft};
use crate::transport::is_listening;

const MINOR: u16 = 1;
/// Descriptors that we take with one message.
const MAX_FDS: u32 = 16;

/// What both sides agreed on.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) server: Capabilities,
    /// The server says so, and we have proposed it.
    pub(super) write_multiple: bool,
    pub(super) max_transfer: usize,
    pub(super) version: (u16, u16),
}

/// Proposes a session. If the server's answer can't be accepted the connection is closed.
pub(super) fn propose(link: &Arc<Link>, settings: &ClientBuilder) -> Result<Agreed, ClientError> {
    let proposed = settings.capabilities.unwrap_or_else(|| defaults(settings));
    let extra = Extra { timeout: link.handshake_timeout(), ..Extra::default() };
    let failed = |e| ClientError::from_request(link, Command::Version, e);
    let refuse = |why: &'static str| {
        link.close(Closed::Protocol(why));
        ClientError::Handshake(why)
    };
    let ticket = with_draft(|draft| {
        Version::new(0, MINOR, proposed).emit(draft);
        link.try_request(Command::Version, draft, extra, &link.clock())
    });
    let ticket = ticket.map_err(failed)?.ok_or_else(|| failed(Start::Full.into()))?;
    let ended = link.wait_for_end(ticket, &Asker::elsewhere());
    let outcome = match ended.map(|()| link.try_outcome(ticket)) {
        Ok(Some(outcome)) => outcome,
        // It is held back until the commands that came before it have been executed.
        Ok(None) => return Err(refuse("sent a command before its VERSION")),
        Err(e) => Err(e),
    };
    if let Some(why) = link.closed().filter(|_| outcome.is_err()) {
        return Err(ClientError::Ended(why));
    }
    let mut reply = outcome.map_err(failed)?;
    if reply.header().is_error() {
        link.close(Closed::Protocol("refused VERSION"));
        return Err(ClientError::Refused {
            command: Command::Version,
            errno: reply.header().errno(),
        });
    }
    let fds = reply.take_fds();
    let version = Version::parse(reply.payload());
    let version = version.map_err(|_| refuse("sent a malformed VERSION"))?;
    if version.major != 0 || version.minor > MINOR {
        return Err(refuse("speaks another version"));
    }
    match twin(&proposed, &version.caps, fds) {
        Ok(Some(socket)) => link.add_twin(socket),
        Ok(None) => {}
        Err(why) => return Err(refuse(why)),
    }
    let theirs = version.caps.max_data_xfer_size.unwrap_or(DEFAULT_MAX_DATA_XFER_SIZE);
    let ours = proposed.max_data_xfer_size.unwrap_or(DEFAULT_MAX_DATA_XFER_SIZE);
    Ok(Agreed {
        max_transfer: theirs.min(ours) as usize,
        version: (version.major, version.minor),
        write_multiple: [proposed, version.caps].iter().all(|c| c.write_multiple == Some(true)),
        server: version.caps,
    })
}

fn defaults(settings: &ClientBuilder) -> Capabilities {
    Capabilities {
        max_msg_fds: Some(MAX_FDS),
        max_data_xfer_size: Some(settings.max_transfer),
        max_dma_maps: Some(65535),
        pgsizes: Some(4096),
        twin_socket: settings.twin_socket.then_some(TwinSocket { supported: true, fd_index: None }),
        write_multiple: Some(true),
        whole_replies: Some(true),
        ..Capabilities::default()
    }
}

/// Our end of the twin socket, if the server made one. Descriptors that are not it are closed.
fn twin(
    proposed: &Capabilities,
    server: &Capabilities,
    mut fds: Vec<OwnedFd>,
) -> Result<Option<OwnedFd>, &'static str> {
    let offered = proposed.twin_socket.as_ref().is_some_and(|t| t.supported);
    let agreed = server.twin_socket.as_ref().filter(|t| t.supported);
    let Some(agreed) = agreed else {
        return if fds.is_empty() { Ok(None) } else { Err("sent file descriptors unasked") };
    };
    if !offered {
        return Err("has a twin socket that was not asked for");
    }
    if fds.len() > 1 {
        return Err("sent more file descriptors than its twin socket");
    }
    let index = agreed.fd_index.and_then(|i| usize::try_from(i).ok());
    let index = index.filter(|i| *i < fds.len()).ok_or("did not send its twin socket")?;
    let socket = fds.swap_remove(index);
    match is_listening(socket.as_fd()) {
        Ok(false) => Ok(Some(socket)),
        _ => Err("sent a twin socket that is none"),
    }
}
