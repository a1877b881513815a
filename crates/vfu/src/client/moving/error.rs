//! What failed in a move, and where.

use std::error::Error;
use std::fmt;

use super::AnyError;
use crate::client::ClientError;

/// One of the two ends of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server that has the device.
    Source,
    /// The server that is to have it.
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Source => "source",
            Side::Destination => "destination",
        })
    }
}

/// A step of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MigrateStep {
    /// Whether it is possible.
    Check,
    /// The destination is made ready.
    Prepare,
    /// State is moved while the device runs.
    PreCopy,
    /// The source is stopped.
    Stop,
    /// The rest of the state is moved.
    StopCopy,
    /// The destination checks the state and takes it over.
    Load,
    /// The destination is started.
    Start,
    /// The destination runs.
    Done,
}

impl fmt::Display for MigrateStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MigrateStep::Check => "checking both ends",
            MigrateStep::Prepare => "preparing the destination",
            MigrateStep::PreCopy => "copying while the device runs",
            MigrateStep::Stop => "stopping the source",
            MigrateStep::StopCopy => "copying the rest",
            MigrateStep::Load => "loading the state",
            MigrateStep::Start => "starting the destination",
            MigrateStep::Done => "done",
        })
    }
}

/// Why a device was not moved.
#[derive(Debug)]
#[non_exhaustive]
pub struct MigrateError {
    /// What was under way.
    pub step: MigrateStep,
    /// The end that failed; `None`: a hook, or it was canceled.
    pub side: Option<Side>,
    /// Whether the source goes on as if nothing had been; or stays as it was, if it did not run.
    pub source_goes_on: Result<(), ClientError>,
    cause: AnyError,
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step;
        match self.side {
            Some(side) => write!(f, "{step} failed at the {side}")?,
            None => write!(f, "{step} failed at neither end")?,
        }
        match &self.source_goes_on {
            Ok(()) if step == MigrateStep::Check => f.write_str("; nothing was changed"),
            Ok(()) => f.write_str("; the device goes on at the source"),
            Err(e) => write!(f, "; the device does not go on at the source, either ({e})"),
        }
    }
}

impl Error for MigrateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}

/// What failed, without what became of it.
pub(super) struct Failure {
    side: Option<Side>,
    cause: AnyError,
}

impl Failure {
    pub(super) fn new(side: Side, why: impl Into<AnyError>) -> Failure {
        Failure { side: Some(side), cause: why.into() }
    }

    pub(super) fn canceled() -> Failure {
        Failure { side: None, cause: "canceled".into() }
    }

    pub(super) fn hook(cause: AnyError) -> Failure {
        Failure { side: None, cause }
    }

    pub(super) fn at(self, step: MigrateStep, goes_on: Result<(), ClientError>) -> MigrateError {
        MigrateError { step, side: self.side, source_goes_on: goes_on, cause: self.cause }
    }
}

/// An error of a client, at one end.
pub(super) fn failed(side: Side) -> impl Fn(ClientError) -> Failure {
    move |error| Failure::new(side, error)
}
