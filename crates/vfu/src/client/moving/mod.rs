//! Moving a device from one server to another.

mod error;
mod pace;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use vfu_proto::wire::{DeviceState, MigrationFlags};

use super::Client;
use crate::sync::Instant;

use error::{Failure, failed};
pub use error::{MigrateError, MigrateStep, Side};
use pace::{Pace, Paced};

/// Configuration space, whose first four bytes are the ids.
const CONFIG: u32 = 7;

type AnyError = Box<dyn Error + Send + Sync>;
type Watch<'a> = Option<Box<dyn FnMut(&Progress) + 'a>>;
type Hook<'a, T> = Option<Box<dyn FnMut(u32) -> Result<T, AnyError> + 'a>>;

/// Moves a device from one server to another: the one at `from` stops, the one at `to` goes on with
/// its state.
///
/// ```text
///  source       RUNNING ── PRE_COPY ── rounds ──┐ STOP_COPY ─────────────────────────► STOP
///                             │                 │     │
///                             │ state           │     │ rest of the state
///                             ▼                 │     ▼
///  destination  RESUMING ◄────┘                 │ RESUMING ──► STOP ──────────► RUNNING
///                          each_round    before_stop        while_stopped
///                                               └──────────── downtime ────────────┘
/// ```
///
/// Both clients go on to work meanwhile: accesses of other threads to the source are executed until
/// it stops. Who must not lose any lets them wait from [`before_stop`](Self::before_stop) on, as a VMM
/// does that pauses its processors, and has them go on at the destination.
///
/// What the client has arranged is the client's to arrange again at the destination, best before it
/// calls [`run`](Self::run): mappings and eventfds. Memory that both servers map needs nothing more;
/// otherwise the hooks are the place to copy what the device has written.
///
/// ```no_run
/// use vfu::client::{Client, Migrate};
///
/// let from = Client::connect("/run/a.sock")?;
/// let to = Client::connect("/run/b.sock")?;
/// let moved = Migrate::new(&from, &to).on_progress(|p| println!("{p}")).run()?;
/// println!("{} bytes, stopped for {:?}", moved.bytes, moved.downtime);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing moves before run() is called"]
pub struct Migrate<'a> {
    from: &'a Client,
    to: &'a Client,
    max_rounds: u32,
    downtime_limit: Duration,
    max_state: u64,
    min_pace: Pace,
    progress: Watch<'a>,
    cancel: Option<Box<dyn FnMut() -> bool + 'a>>,
    each_round: Hook<'a, u64>,
    before_stop: Hook<'a, ()>,
    while_stopped: Hook<'a, ()>,
}

impl fmt::Debug for Migrate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migrate")
            .field("from", self.from)
            .field("to", self.to)
            .finish_non_exhaustive()
    }
}

/// How far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is under way.
    pub step: MigrateStep,
    /// Bytes of the device's state that have been moved.
    pub bytes: u64,
    /// Rounds that have begun while the device runs.
    pub rounds: u32,
    /// Time since the beginning.
    pub elapsed: Duration,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} bytes", self.step, self.bytes)?;
        if self.rounds > 1 { write!(f, " in {} rounds", self.rounds) } else { Ok(()) }
    }
}

/// What a move has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// Bytes of the device's state.
    pub bytes: u64,
    /// Those of them that were moved while it ran.
    pub early_bytes: u64,
    /// Rounds while it ran.
    pub rounds: u32,
    /// From the stop of the source to the start of the destination, with what the hook did between.
    pub downtime: Duration,
    /// From the beginning to the end.
    pub total: Duration,
}

impl<'a> Migrate<'a> {
    /// A move that is still to [`run`](Self::run).
    pub fn new(from: &'a Client, to: &'a Client) -> Self {
        Migrate {
            from,
            to,
            max_rounds: 30,
            downtime_limit: Duration::from_millis(300),
            max_state: 4 << 30,
            min_pace: Pace { bytes: 1 << 20, time: Duration::from_secs(10) },
            progress: None,
            cancel: None,
            each_round: None,
            before_stop: None,
            while_stopped: None,
        }
    }

    /// The most rounds while the device runs; after that it is stopped, however much is left. 0: it is
    /// stopped at once. Default: 30.
    pub fn max_rounds(mut self, rounds: u32) -> Self {
        self.max_rounds = rounds;
        self
    }

    /// The device is stopped when a round took no longer than this, for the last one will hardly take
    /// longer; or when nothing came in a round. Default: 300 ms.
    pub fn downtime_limit(mut self, limit: Duration) -> Self {
        self.downtime_limit = limit;
        self
    }

    /// The most bytes that the state may have; a source that gives more is not followed for ever.
    /// Default: 4 GiB. It is never in memory as a whole.
    pub fn max_state(mut self, bytes: u64) -> Self {
        self.max_state = bytes;
        self
    }

    /// The least that has to be moved of the state: so many bytes in each `time`, until its end. A source
    /// that gives it in single bytes is not followed for days. Default: 1 MiB in 10 s; 0 bytes: it
    /// may be as slow as it likes.
    pub fn min_pace(mut self, bytes: u64, time: Duration) -> Self {
        self.min_pace = Pace { bytes, time };
        self
    }

    /// Is told how far it has come, at each step and with each piece that has been moved.
    pub fn on_progress(mut self, progress: impl FnMut(&Progress) + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Is asked at each step, and with each piece, whether to give up: the source goes on then. Not
    /// any more once the destination is being started.
    pub fn cancel_if(mut self, cancel: impl FnMut() -> bool + 'a) -> Self {
        self.cancel = Some(Box::new(cancel));
        self
    }

    /// What the VMM does in each round while the device runs, e.g. copy the memory that has become
    /// dirty. It is given the round's number, from 1 on, and gives how many bytes it has moved. With
    /// it there are rounds even if the device has nothing to give before it is stopped.
    pub fn each_round<E: Into<AnyError>>(
        mut self,
        mut hook: impl FnMut(u32) -> Result<u64, E> + 'a,
    ) -> Self {
        self.each_round = Some(Box::new(move |round| hook(round).map_err(Into::into)));
        self
    }

    /// What the VMM does before the source is stopped: it pauses what accesses the device.
    pub fn before_stop<E: Into<AnyError>>(
        mut self,
        mut hook: impl FnMut() -> Result<(), E> + 'a,
    ) -> Self {
        self.before_stop = Some(Box::new(move |_| hook().map_err(Into::into)));
        self
    }

    /// What the VMM does while neither device runs, and the destination has its state: it copies the
    /// rest of the memory.
    pub fn while_stopped<E: Into<AnyError>>(
        mut self,
        mut hook: impl FnMut() -> Result<(), E> + 'a,
    ) -> Self {
        self.while_stopped = Some(Box::new(move |_| hook().map_err(Into::into)));
        self
    }

    /// Moves it. When this returns the destination runs, and the source is stopped for good: a reset
    /// makes a fresh device of it.
    ///
    /// # Errors
    /// See [`MigrateError`]. The source runs on then if it can, as if nothing had been, and the
    /// destination has been reset.
    pub fn run(self) -> Result<Moved, MigrateError> {
        let began = Instant::now();
        let progress =
            Progress { step: MigrateStep::Check, bytes: 0, rounds: 0, elapsed: Duration::ZERO };
        let mut run = Run { ask: self, began, progress, early: 0 };
        match run.all() {
            Ok(downtime) => Ok(Moved {
                bytes: run.progress.bytes,
                early_bytes: run.early,
                rounds: run.progress.rounds,
                downtime,
                total: began.elapsed(),
            }),
            Err(failure) => Err(run.undo(failure)),
        }
    }
}

/// A move on its way.
struct Run<'a> {
    ask: Migrate<'a>,
    began: Instant,
    progress: Progress,
    early: u64,
}

impl Run<'_> {
    fn all(&mut self) -> Result<Duration, Failure> {
        let flags = self.check()?;
        self.enter(MigrateStep::Prepare)?;
        let (from, to) = (self.ask.from, self.ask.to);
        to.set_device_state(DeviceState::Resuming).map_err(failed(Side::Destination))?;
        self.rounds(flags.contains(MigrationFlags::PRE_COPY))?;

        self.enter(MigrateStep::Stop)?;
        hook(&mut self.ask.before_stop, 0)?;
        let stopped = Instant::now();
        from.set_device_state(DeviceState::StopCopy).map_err(failed(Side::Source))?;
        self.enter(MigrateStep::StopCopy)?;
        self.pump()?;
        self.enter(MigrateStep::Load)?;
        to.set_device_state(DeviceState::Stop).map_err(failed(Side::Destination))?;
        hook(&mut self.ask.while_stopped, 0)?;
        self.enter(MigrateStep::Start)?;
        to.set_device_state(DeviceState::Running).map_err(failed(Side::Destination))?;
        let downtime = stopped.elapsed();
        // It has nothing more to say, and is not needed any more.
        let _may_be_gone = from.set_device_state(DeviceState::Stop);
        self.progress.step = MigrateStep::Done;
        self.tell();
        Ok(downtime)
    }

    /// Whether the move is possible, as far as that can be told before.
    fn check(&mut self) -> Result<MigrationFlags, Failure> {
        let mut ids = [[0; 4]; 2];
        let mut flags = MigrationFlags::empty();
        for (side, client) in [(Side::Destination, self.ask.to), (Side::Source, self.ask.from)] {
            client.region_read(CONFIG, 0, &mut ids[side as usize]).map_err(failed(side))?;
            let can = client.migration().map_err(failed(side))?;
            flags = can.ok_or_else(|| Failure::new(side, "the device can't be moved"))?;
        }
        if ids[0] != ids[1] {
            let [from, to] = ids.map(|[a, b, c, d]| {
                format!("{:04x}:{:04x}", u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
            });
            let why = format!("it is another device: {to}, and the source is {from}");
            return Err(Failure::new(Side::Destination, why));
        }
        let state = |side, client: &Client| client.device_state().map_err(failed(side));
        match state(Side::Source, self.ask.from)? {
            DeviceState::Running => {}
            DeviceState::Resuming => {
                let why = "it has no state itself: it waits for one";
                return Err(Failure::new(Side::Source, why));
            }
            DeviceState::Stop => {
                let why = "it is stopped; perhaps it was moved before, then a reset makes a fresh \
                           device of it";
                return Err(Failure::new(Side::Source, why));
            }
            other => {
                let why = format!("it does not run: it is in the state {other:?}");
                return Err(Failure::new(Side::Source, why));
            }
        }
        // What it was before does not matter.
        if state(Side::Destination, self.ask.to)? == DeviceState::Error {
            self.ask.to.reset().map_err(failed(Side::Destination))?;
        }
        Ok(flags)
    }

    /// Moves what can be moved while the device runs.
    fn rounds(&mut self, pre_copy: bool) -> Result<(), Failure> {
        if self.ask.max_rounds == 0 || !pre_copy && self.ask.each_round.is_none() {
            return Ok(());
        }
        self.enter(MigrateStep::PreCopy)?;
        if pre_copy {
            let state = self.ask.from.set_device_state(DeviceState::PreCopy);
            state.map_err(failed(Side::Source))?;
        }
        for round in 1..=self.ask.max_rounds {
            let (began, before) = (Instant::now(), self.progress.bytes);
            self.progress.rounds = round;
            if pre_copy {
                self.pump()?;
            }
            let memory = hook(&mut self.ask.each_round, round)?;
            let nothing = self.progress.bytes == before && memory == 0;
            if nothing || began.elapsed() <= self.ask.downtime_limit {
                break;
            }
        }
        self.early = self.progress.bytes;
        Ok(())
    }

    /// Moves all of the state that is there for now, piece by piece.
    fn pump(&mut self) -> Result<(), Failure> {
        let mut piece = Vec::new();
        let mut paced = Paced::begin(self.ask.min_pace, self.progress.bytes);
        loop {
            piece.clear();
            if self.ask.from.read_state(&mut piece).map_err(failed(Side::Source))? == 0 {
                return Ok(());
            }
            self.progress.bytes = self.progress.bytes.saturating_add(piece.len() as u64);
            if self.progress.bytes > self.ask.max_state {
                let most = self.ask.max_state;
                return Err(Failure::new(
                    Side::Source,
                    format!("its state is longer than {most} bytes"),
                ));
            }
            self.ask.to.write_state(&piece).map_err(failed(Side::Destination))?;
            let paced = paced.check(self.progress.bytes);
            paced.map_err(|why| Failure::new(Side::Source, why))?;
            self.enter(self.progress.step)?;
        }
    }

    /// Begins a step, or goes on with it, unless it was canceled.
    fn enter(&mut self, step: MigrateStep) -> Result<(), Failure> {
        if self.ask.cancel.as_mut().is_some_and(|cancel| cancel()) {
            return Err(Failure::canceled());
        }
        self.progress.step = step;
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        self.progress.elapsed = self.began.elapsed();
        if let Some(progress) = &mut self.ask.progress {
            progress(&self.progress);
        }
    }

    /// The source goes on, if it can. First the destination is made to forget the state: never may
    /// both run with it.
    fn undo(&mut self, failure: Failure) -> MigrateError {
        let step = self.progress.step;
        if step == MigrateStep::Check {
            return failure.at(step, Ok(()));
        }
        let _may_be_gone = self.ask.to.reset();
        let goes_on = match self.ask.from.device_state() {
            Ok(DeviceState::Running) => Ok(()),
            Ok(_) => self.ask.from.set_device_state(DeviceState::Running),
            Err(e) => Err(e),
        };
        failure.at(step, goes_on)
    }
}

/// Calls a hook, if there is one.
fn hook<T: Default>(hook: &mut Hook<'_, T>, round: u32) -> Result<T, Failure> {
    match hook {
        Some(hook) => hook(round).map_err(Failure::hook),
        None => Ok(T::default()),
    }
}
