//! `vfu_run_ctx`: commands in the order in which they came, and the end of a connection.

use std::ffi::c_int;

use std::sync::atomic::Ordering;

use vfu::raw::{Command, Session, Wait};
use vfu::wire::{Command as Name, WriteMulti};

use crate::ctx::{Context, FLAG_ATTACH_NB, FLAG_REENTRANT, Pending, context, lock};
use crate::errno::{self, EBUSY, EDEADLK, EINTR, EINVAL, ENOTCONN, checked, entry};
use crate::execute::{RESET_DEVICE, RESET_LOST_CONN};
use crate::log::{DEBUG, INFO, WARNING};
use crate::setup::CONFIG;
use crate::sgl::Between;
use crate::types::Ctx;

/// Receives of one call at most, where a receive takes little.
const ROUNDS: u32 = 16;

/// What became of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was executed.
    Executed,
    /// The device refused to be quiesced for it.
    Refused,
    /// It waits until the device is quiesced.
    PutOff,
}

/// Executes what has come.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_run_ctx(ctx: *mut Ctx) -> c_int {
    let before = errno::get();
    let result = entry(-1, || {
        let ctx = context!(ctx);
        if !ctx.is_realized.load(Ordering::Acquire) {
            return Err(EINVAL);
        }
        if ctx.is_logging() {
            return Err(EDEADLK);
        }
        if ctx.station().is_inside() {
            // In a callback: commands go on when it has returned, unless it may be called again.
            return if ctx.has(FLAG_REENTRANT) { ctx.run_once() } else { Err(EDEADLK) };
        }
        let result = if ctx.has(FLAG_ATTACH_NB) {
            // Another thread executes commands just now, these too.
            let Ok(_running) = ctx.run.try_lock() else { return Ok(0) };
            ctx.run_once()
        } else {
            ctx.run_until_error()
        };
        if ctx.is_shared() {
            ctx.catch_up();
        }
        result
    });
    if result >= 0 && errno::get() == 0 {
        errno::set(before);
    }
    result
}

impl Context {
    /// The client, unless the device has to be quiesced first. It may wait for DMA for that, which ends
    /// by what is received here.
    fn ready(&self) -> Result<Session, c_int> {
        let session = self.session().ok_or(ENOTCONN);
        if self.is_pending() {
            // An answer to DMA may be behind any number of commands.
            let wants =
                |session: &&Session| self.moves.load(Ordering::Acquire) || session.queued() == 0;
            if let Some(session) = session.as_ref().ok().filter(wants) {
                session.receive();
            }
            self.tell_completed_now();
            if self.is_pending() {
                return Err(EBUSY);
            }
            return self.session().ok_or(ENOTCONN);
        }
        session
    }

    /// Everything that is here whole. Nothing that was read may wait for the next call: the socket
    /// would not announce it.
    fn run_once(&self) -> Result<c_int, c_int> {
        let session = self.ready()?;
        let mut executed = if session.queued() > 0 { self.execute_here(&session)? } else { 0 };
        let mut unfinished = session.unfinished();
        let (mut rounds, mut more) = (0, false);
        while (executed == 0 || more) && session.receive() {
            executed += self.execute_here(&session)?;
            rounds += 1;
            more = rounds < ROUNDS && session.has_filled();
            // On to the end of the message that has begun, no farther: of a client that sends what is
            // refused there may be no end.
            let before = std::mem::replace(&mut unfinished, session.unfinished());
            let is_through = unfinished.is_none() || (before.is_some() && before != unfinished);
            if is_through && !more {
                break;
            }
        }
        self.tell_completed_now();
        match self.end_if_closed(&session) {
            // What was done is told first.
            Err(ENOTCONN) if executed > 0 => Ok(executed),
            other => other.map(|()| executed),
        }
    }

    /// The commands that are here whole, and what has ended of DMA that nobody waits for.
    fn execute_here(&self, session: &Session) -> Result<c_int, c_int> {
        let mut executed = 0;
        loop {
            if self.is_pending() {
                // A command that came while a callback waited has to wait, and so do those behind it.
                session.send_apart();
                return Err(EBUSY);
            }
            let Some(command) = session.next() else {
                session.make_room();
                if session.queued() == 0 || session.closed().is_some() || session.holds() {
                    break;
                }
                continue;
            };
            match self.take(session, command) {
                Taken::Executed => executed += 1,
                Taken::Refused | Taken::PutOff => {}
            }
        }
        session.send_apart();
        self.tell_completed_now();
        Ok(executed)
    }

    /// The same, for a thread that has just let go of `run`, or has waited: somebody may have read
    /// commands meanwhile and left them to us.
    pub(crate) fn catch_up(&self) {
        while self.has_left() {
            let Ok(_running) = self.run.try_lock() else { return };
            self.execute_left();
        }
    }

    /// Whether other threads may read commands.
    fn is_shared(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) > 0 || self.moves.load(Ordering::SeqCst)
    }

    /// Whether anything is here that is to be done.
    fn has_left(&self) -> bool {
        let commands = |session: &Session| {
            session.queued() > 0 && session.closed().is_none() && !session.holds()
        };
        let may = !self.is_pending();
        (may && self.session().is_some_and(|session| commands(&session))) || self.has_completed()
    }

    /// Executes what was read ahead.
    pub(crate) fn execute_left(&self) {
        if let Some(session) = self.session().filter(|_| !self.is_pending()) {
            if session.queued() > 0 {
                let _put_off = self.execute_here(&session);
            }
            session.send_apart();
        }
        self.tell_completed_now();
    }

    fn run_until_error(&self) -> Result<c_int, c_int> {
        loop {
            let session = self.ready()?;
            // Once there is DMA that nobody waits for, more may happen than that the client says something.
            let alone = !self.moves.load(Ordering::SeqCst);
            let done = session.wait(&Between(self), alone, |came| match came {
                Wait::Command(command, _running) => {
                    let taken = self.take(&session, command);
                    self.tell_completed_now();
                    if taken == Taken::PutOff { Err(EBUSY) } else { Ok(()) }
                }
                Wait::Kick => Ok(()),
                Wait::Signal => Err(EINTR),
            });
            if self.is_shared() {
                self.catch_up();
            }
            // Who waits for an answer need not know that the program waits for something.
            done.unwrap_or(Ok(())).inspect_err(|_| session.send_apart())?;
            if session.closed().is_some() {
                let _running = lock(&self.run);
                self.end_if_closed(&session)?;
            }
        }
    }

    /// Executes a command, once the device is quiesced if it has to be.
    pub(crate) fn take(&self, session: &Session, command: Command) -> Taken {
        let rests = self.needs_quiesce(&command) && self.setup().quiesce.is_some();
        match if rests { self.quiesce() } else { Ok(()) } {
            Ok(()) => {
                if rests {
                    self.station().at_rest(|| self.execute(session, command));
                } else {
                    self.execute(session, command);
                }
                Taken::Executed
            }
            Err(EBUSY) => {
                self.log(DEBUG, format_args!("the device quiesces later"));
                self.set_pending(Pending::Command(command));
                Taken::PutOff
            }
            Err(e) => {
                session.refuse(&command.header(), e as u32);
                session.recycle(command);
                errno::set(e);
                Taken::Refused
            }
        }
    }

    fn quiesce(&self) -> Result<(), c_int> {
        let Some(quiesce) = self.setup().quiesce else { return Ok(()) };
        self.station().handle(|| {
            // SAFETY: the program's callback, called as the header says.
            checked(|| unsafe { quiesce(self.as_ptr()) }).map(drop)
        })
    }

    /// Whether a command changes something under the device.
    fn needs_quiesce(&self, command: &Command) -> bool {
        let payload = command.payload();
        let number = |at: usize| {
            let bytes = payload.get(at..at + 4)?;
            bytes.try_into().ok().map(u32::from_le_bytes)
        };
        let setup = self.setup();
        let device_control = setup.device_control().map(|at| at as u64);
        let resets =
            |(at, region)| region == CONFIG as u32 && device_control.is_some_and(|it| it == at);
        match Name::from_u16(command.header().command) {
            Some(Name::DmaMap | Name::DmaUnmap) => setup.dma.is_some(),
            Some(Name::DeviceReset) => true,
            Some(Name::RegionWrite) => {
                let offset = number(0).zip(number(4));
                let offset = offset.map(|(low, high)| u64::from(low) | u64::from(high) << 32);
                offset.zip(number(8)).is_some_and(resets)
            }
            Some(Name::RegionWriteMulti) => WriteMulti::parse(payload).is_ok_and(|writes| {
                writes.iter().any(|write| resets((write.offset(), write.region())))
            }),
            // Sets, and features with bit 1: programs rely on the state, and on the start and stop of
            // logging.
            Some(Name::DeviceFeature) => {
                number(4).is_some_and(|f| f & (1 << 17) != 0 || f & 2 != 0)
            }
            _ => false,
        }
    }

    /// If the connection has ended: quiesces the device, and takes all back that the client gave.
    pub(crate) fn end_if_closed(&self, session: &Session) -> Result<(), c_int> {
        let Some(why) = session.closed().filter(|_| session.queued() == 0) else { return Ok(()) };
        // In a callback: what that uses goes when it has returned. Or it has gone, in one that said that
        // the device is quiesced.
        if self.station().is_inside() || self.session().is_none() {
            return Err(ENOTCONN);
        }
        self.log(INFO, format_args!("client gone: {why}"));
        match self.quiesce() {
            Ok(()) => {}
            Err(EBUSY) => {
                self.set_pending(Pending::Lost);
                return Err(EBUSY);
            }
            Err(e) => {
                self.log_seldom(WARNING, "the device was not quiesced", format_args!("errno {e}"));
            }
        }
        self.end();
        Err(ENOTCONN)
    }

    /// Takes all back that the client gave. The device is quiesced.
    pub(crate) fn end(&self) {
        let session = self.session();
        if let Some(session) = &session {
            session.close();
            session.leave(self.station());
            self.settle_moves();
        }
        self.stop_logging();
        self.unmap_all();
        let _ignored = self.reset(RESET_LOST_CONN);
        self.leave_migration();
        self.irqs.clear();
        self.tell_completed_now();
        self.log_rest(false);
        // The program may ask who it was until now.
        self.set_session(None);
    }
}

/// The device is quiesced, or can't be.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_device_quiesced(ctx: *mut Ctx, quiesce_errno: c_int) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        if ctx.is_logging() {
            return Err(EDEADLK);
        }
        // In a callback, e.g. that of a DMA that the device waited for, this thread has it already.
        let inside = ctx.station().is_inside();
        let _running = (!inside).then(|| lock(&ctx.run));
        if ctx.setup().quiesce.is_none() {
            return Err(EINVAL);
        }
        let pending = ctx.take_pending().ok_or(EINVAL)?;
        let session = ctx.session();
        match (pending, session) {
            (Pending::Command(command), Some(session)) => {
                if quiesce_errno == 0 {
                    ctx.station().at_rest(|| ctx.execute(&session, command));
                } else {
                    session.refuse(&command.header(), quiesce_errno as u32);
                    session.recycle(command);
                    // As the header promises.
                    let _ignored = ctx.reset(RESET_DEVICE);
                }
                if session.closed().is_some() {
                    // It has gone meanwhile, and the device is quiesced.
                    ctx.end();
                } else if !inside {
                    // What was read ahead is not announced by the socket any more.
                    ctx.execute_left();
                }
            }
            (Pending::Lost | Pending::Command(_), _) => ctx.end(),
        }
        Ok(0)
    })
}
