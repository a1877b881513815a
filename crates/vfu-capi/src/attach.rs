//! Clients come: from the connection to VERSION.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vfu::raw::{Command, Session, Terms};
use vfu::wire::{Capabilities, MigrationCaps, TwinSocket};

use crate::ctx::{Context, FLAG_ATTACH_NB, MAX_TRANSFER, context, lock};
use crate::errno::{EAGAIN, EINTR, EINVAL, EIO, ENOMSG, ETIMEDOUT, entry};
use crate::log::{ERR, INFO};
use crate::types::Ctx;

/// The largest minor version.
const MINOR: u16 = 2;
/// Descriptors that the C library says it takes with one message.
const MAX_FDS: u32 = 8;
/// The most that a client may say it takes.
const CLIENT_MAX_FDS: u32 = 1024;
const PAGE: u64 = 4096;

/// The kind of what is logged then.
const REFUSED: &str = "client refused";

/// How long a call that may not block waits for a client that has connected. Clients send VERSION at
/// once, and there are programs that do not ask again before another one connects.
const PATIENCE: Duration = Duration::from_millis(200);

/// Takes a client, if there is one, and agrees with it on VERSION.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_attach_ctx(ctx: *mut Ctx) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        if ctx.station().is_inside() {
            return Err(EINVAL);
        }
        let _running = lock(&ctx.run);
        if ctx.session().is_some() || ctx.is_pending() {
            return Err(EINVAL);
        }
        let waits = !ctx.has(FLAG_ATTACH_NB);
        let opening = lock(&ctx.opening).take();
        let is_new = opening.is_none();
        let (session, since) = match opening {
            Some(opening) => opening,
            None => {
                let socket = ctx.listener.accept(waits)?;
                (Session::new(socket, &lock(&ctx.limits)), Instant::now())
            }
        };
        let limit = lock(&ctx.limits).handshake_timeout.map(|limit| since + limit);
        let soon = match (waits, is_new) {
            (true, _) => None,
            (false, true) => Some(since + PATIENCE),
            (false, false) => Some(since),
        };
        match first(&session, limit, soon) {
            Ok(command) => ctx.agree(session, &command),
            Err(e @ (EAGAIN | EINTR)) => {
                // It is waited for again in the next call.
                *lock(&ctx.opening) = Some((session, since));
                Err(e)
            }
            Err(e) => {
                ctx.log_seldom(ERR, REFUSED, format_args!("{:?}", session.closed()));
                Err(e)
            }
        }
    })
}

/// The client's first command. `EAGAIN`: it has not come before `soon`; `ETIMEDOUT`: nor before
/// `limit`.
fn first(
    session: &Session,
    limit: Option<Instant>,
    soon: Option<Instant>,
) -> Result<Command, c_int> {
    loop {
        if let Some(command) = session.next() {
            return Ok(command);
        }
        if let Some(why) = session.closed() {
            return Err(errno_of(&why));
        }
        if session.receive() {
            continue;
        }
        if let Some(why) = session.closed() {
            return Err(errno_of(&why));
        }
        let now = Instant::now();
        if limit.is_some_and(|limit| limit <= now) {
            session.close();
            return Err(ETIMEDOUT);
        }
        if soon.is_some_and(|soon| soon <= now) {
            return Err(EAGAIN);
        }
        let until = [limit, soon].into_iter().flatten().min();
        let timeout = until.and_then(|until| Timespec::try_from(until - now).ok());
        match poll(&mut [PollFd::from_borrowed_fd(session.fd(), PollFlags::IN)], timeout.as_ref()) {
            Err(Errno::INTR) => return Err(EINTR),
            Err(e) => return Err(e.raw_os_error()),
            Ok(_) => {}
        }
    }
}

fn errno_of(why: &vfu::raw::Closed) -> c_int {
    use vfu::raw::Closed;
    match why {
        Closed::Disconnected => ENOMSG,
        Closed::Framing(_) | Closed::Protocol(_) => EINVAL,
        Closed::Limit(_) => ETIMEDOUT,
        Closed::Stopped | Closed::Socket(_) => EIO,
    }
}

impl Context {
    fn agree(&self, session: Session, first: &Command) -> Result<c_int, c_int> {
        let migration = self.setup().migration.is_some();
        let migration =
            migration.then_some(MigrationCaps { pgsize: Some(PAGE), max_bitmap_size: None });
        let always = Capabilities {
            max_msg_fds: Some(MAX_FDS),
            max_data_xfer_size: Some(MAX_TRANSFER.into()),
            migration,
            ..Capabilities::default()
        };
        let twin_socket = Some(TwinSocket { supported: true, fd_index: None });
        let caps = Capabilities { twin_socket, write_multiple: Some(true), ..always };
        let terms = Terms { minor: MINOR, caps, always, objection };
        if let Err(why) = session.agree(self.station(), first, &terms) {
            self.log_seldom(ERR, REFUSED, format_args!("{why}"));
            return Err(errno_of(&why));
        }
        if self.has(FLAG_ATTACH_NB) {
            session.never_block();
        }
        self.log(INFO, format_args!("client attached"));
        self.set_session(Some(session));
        Ok(0)
    }
}

/// What the C library does not accept of a client.
fn objection(caps: &Capabilities) -> Option<&'static str> {
    if caps.max_msg_fds.is_some_and(|fds| fds > CLIENT_MAX_FDS) {
        return Some("claims to take too many descriptors with one message");
    }
    let pgsize = caps.migration.and_then(|migration| migration.pgsize);
    // Its page size is that of the bits it gets, whatever the host's is.
    if pgsize.is_some_and(|size| size < PAGE) {
        return Some("has a page size for migration that is too small");
    }
    None
}

/// The socket to wait for: the client's, or the one that clients connect to.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_get_poll_fd(ctx: *mut Ctx) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        if let Some(session) = ctx.session() {
            return Ok(session.fd().as_raw_fd());
        }
        let opening = lock(&ctx.opening);
        let session = opening.as_ref().map(|(session, _)| session.fd().as_raw_fd());
        Ok(session.unwrap_or_else(|| ctx.listener.as_fd().as_raw_fd()))
    })
}
