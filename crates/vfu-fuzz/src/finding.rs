//! What a server did that it must not do.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal;)*) => {
        /// What was broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum Kind {
            $($(#[doc = $doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)*];

            /// Its name in reports.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name,)* }
            }

            /// What it means, in a line.
            pub fn meaning(self) -> &'static str {
                match self { $(Kind::$variant => concat!($($doc),*).trim_ascii(),)* }
            }
        }
    };
}

kinds! {
    /// nobody accepts connections any more
    Dead = "dead";
    /// a new connection is not served, or not in time
    Hung = "hung";
    /// a command on a connection that was kept open got no reply in time
    Unanswered = "unanswered";
    /// well-formed commands got wrong answers, or are refused for good
    WrongAnswer = "wrong-answer";
    /// the connection was closed though nothing that was sent was wrong
    Closed = "closed";
    /// a message whose size, type or error number can't be
    Malformed = "malformed";
    /// a reply to a command that nobody sent
    Unasked = "unasked";
    /// a reply to a command with NO_REPLY
    AnsweredNoReply = "answered-no-reply";
    /// a successful reply to what can't be a command
    Accepted = "accepted";
    /// a reply with less than was asked
    TooShort = "too-short";
    /// a reply with more than was asked: it may be somebody's memory
    TooLong = "too-long";
    /// an error reply with a payload
    ErrorPayload = "error-payload";
    /// descriptors that nobody asked for
    Descriptors = "descriptors";
    /// DMA to memory that was never mapped, or longer than allowed
    Dma = "dma";
    /// descriptors of the server that are never closed
    DescriptorLeak = "descriptor-leak";
    /// mappings of the server that are never removed
    MappingLeak = "mapping-leak";
    /// memory of the server that grows
    Memory = "memory";
    /// a client was ended by a signal or a panic
    Crashed = "crashed";
    /// a client did not end in time
    RanOn = "ran-on";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Kind, String> {
        let known = Kind::ALL.iter().copied().find(|kind| kind.name() == name);
        known.ok_or_else(|| {
            let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            format!("it can be {}", names.join(", "))
        })
    }
}

/// Something that the server did and must not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was broken.
    pub kind: Kind,
    /// The command it happened with, if it is clear.
    pub command: Option<u16>,
    /// What was seen and what was allowed.
    pub text: String,
}

impl Finding {
    pub(crate) fn new(kind: Kind, command: Option<u16>, text: impl Into<String>) -> Finding {
        Finding { kind, command, text: text.into() }
    }

    /// Findings with the same key are taken for the same defect.
    pub(crate) fn key(&self) -> (Kind, Option<u16>) {
        match self.kind {
            // Which command was the first to suffer is chance.
            Kind::Closed | Kind::Unanswered | Kind::Malformed => (self.kind, None),
            _ => (self.kind, self.command),
        }
    }

    /// Whether the server holds more than it did.
    pub(crate) fn is_growth(&self) -> bool {
        matches!(self.kind, Kind::DescriptorLeak | Kind::MappingLeak | Kind::Memory)
    }

    /// Whether the server serves nobody any more.
    pub fn is_fatal(&self) -> bool {
        matches!(self.kind, Kind::Dead | Kind::Hung)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.text)
    }
}
