//! What the exit code says. The list in `--help` is the same.

use std::fmt;
use std::process::ExitCode;

/// How the command ended, if not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Any failure that has no code of its own.
    Failure = 1,
    /// The arguments are wrong.
    Usage = 2,
    /// The socket can't be had.
    Socket = 3,
    /// The peer at the socket is missing, or does not speak vfio-user as it should.
    Peer = 4,
    /// A hostile peer broke what it attacked.
    Found = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error that knows its exit code. What it prints is the error inside.
#[derive(Debug)]
struct Coded {
    exit: Exit,
    error: anyhow::Error,
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Coded {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl Exit {
    /// Gives an error this exit code.
    pub(crate) fn with(self, error: impl Into<anyhow::Error>) -> anyhow::Error {
        anyhow::Error::new(Coded { exit: self, error: error.into() })
    }
}

/// The exit code of an error: the one it was given, or that of any failure.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    let coded = error.chain().find_map(|cause| cause.downcast_ref::<Coded>());
    coded.map_or(Exit::Failure, |coded| coded.exit).into()
}

/// The error and its causes in one line. A cause that the text before it ends with is not repeated.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        text
    })
}
