//! A run against a server: cases until the time is up, and what they found.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;

use crate::finding::{Finding, Kind};
use crate::generate::Area;
use crate::restart::{Program, ProgramError};
use crate::run::Run;
use crate::script::Script;
use crate::stats::Stats;
use crate::survey::SurveyError;
use crate::watch::{Usage, Watch};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which cases.
    pub seed: u64,
    /// How many; `None`: no limit.
    pub cases: Option<u64>,
    /// How long; `None`: no limit.
    pub time: Option<Duration>,
    /// What is attacked.
    pub areas: Vec<Area>,
    /// How long the server may take for an answer.
    pub timeout: Duration,
    /// How long to make what broke it smaller.
    pub minimise: Duration,
    /// What is not looked for.
    pub ignore: Vec<Kind>,
    /// How much the memory of the server may grow, in KiB.
    pub memory_kib: u64,
    /// The server may end by itself, e.g. with its client, and is started again.
    pub may_exit: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 0,
            cases: None,
            time: None,
            areas: Area::ALL.iter().map(|(area, _)| *area).collect(),
            timeout: Duration::from_secs(10),
            minimise: Duration::from_secs(60),
            ignore: Vec::new(),
            memory_kib: 256 << 10,
            may_exit: false,
        }
    }
}

/// Something that was found, once or more often.
#[derive(Clone, Debug)]
pub struct Found {
    /// What, the first time.
    pub finding: Finding,
    /// How often.
    pub times: u64,
    /// In which case it was found first; `None`: in a replay.
    pub case: Option<u64>,
    /// What does it.
    pub script: Script,
    /// How that came to be.
    pub shape: Shape,
    /// What the server said at last, if it was started here.
    pub last_words: String,
}

/// Whether a script is as small as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing can be left out.
    Minimised,
    /// It does it, but time was up.
    Shortened,
    /// It did not do it again.
    NotAgain,
    /// It was not tried again: the server is no more, there was no time, or nobody asked.
    Untried,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All cases are done, or the time is up.
    Done,
    /// It was told to.
    Stopped,
    /// The server serves nobody any more.
    ServerLost,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Report {
    /// Counters.
    pub stats: Stats,
    /// What was found.
    pub found: Vec<Found>,
    /// The server's process, or why it was not watched.
    pub process: Result<Watch, String>,
    /// What it held at first and at last.
    pub usage: Option<(Usage, Usage)>,
    /// How long it took.
    pub took: Duration,
    /// Why it ended.
    pub ended: Ended,
}

/// What happens in a run, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// Some more cases are done.
    Progress(&'a Stats),
    /// Something new was found; it is made smaller now.
    New(&'a Finding),
    /// And this is it.
    Found(&'a Found),
}

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
pub enum FuzzError {
    /// The server is no server.
    #[error(transparent)]
    Survey(#[from] SurveyError),
    /// The command for it does not work.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// A server under attack.
#[derive(Debug)]
pub struct Target {
    pub(crate) path: PathBuf,
    pub(crate) program: Option<Program>,
}

impl Target {
    /// The server at a socket.
    pub fn new(path: impl Into<PathBuf>) -> Target {
        Target { path: path.into(), program: None }
    }

    /// It is started, and started again, by a command.
    #[must_use]
    pub fn restart(mut self, command: Option<String>) -> Target {
        self.program = command.map(Program::new);
        self
    }

    /// Attacks it with the cases of a seed.
    ///
    /// # Errors
    /// There is no server that answers at first.
    pub fn attack(
        self,
        options: &Options,
        stop: &AtomicBool,
        show: &mut dyn FnMut(Event<'_>),
    ) -> Result<Report, FuzzError> {
        let mut run = Run::begin(self, options, stop, show)?;
        let ended = run.all();
        Ok(run.report(ended))
    }

    /// Plays one script.
    ///
    /// # Errors
    /// There is no server that answers at first.
    pub fn replay(
        self,
        script: &Script,
        options: &Options,
        stop: &AtomicBool,
        show: &mut dyn FnMut(Event<'_>),
    ) -> Result<Report, FuzzError> {
        let mut run = Run::begin(self, options, stop, show)?;
        let ended = run.one(script);
        Ok(run.report(ended))
    }
}
