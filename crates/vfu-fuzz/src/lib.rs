//! Hostile peers for vfio-user servers and clients.
//!
//! [`Target::attack`] plays the cases of a seed against a server: sequences that a client may send,
//! with something wrong in them. What the server does is judged against the protocol; what it must
//! not do is a [`Finding`], made as small as can be, as a [`Script`] that is text and can be played
//! again. [`Hunt`] is the other side: a server that answers well until it does something wrong.
//! `vfu fuzz` is both on the command line.
//!
//! ```text
//!   seed, number -> generate -> Script -> session -> the server's socket
//!                                           |  ledger: what was sent, as the server sees it
//!                                           v
//!                                        Finding -> minimise -> Script
//! ```
#![forbid(unsafe_code)]

mod asked;
mod campaign;
mod channel;
mod commands;
mod descriptors;
mod dma_answer;
mod finding;
mod generate;
mod layout;
mod ledger;
mod minimise;
mod mutate;
mod restart;
mod run;
mod script;
mod search;
mod server;
mod session;
mod stats;
mod survey;
mod text;
mod values;
mod watch;

pub use campaign::{Ended, Event, Found, FuzzError, Options, Report, Shape, Target};
pub use descriptors::Descriptor;
pub use finding::{Finding, Kind};
pub use generate::{Area, case};
pub use restart::{Program, ProgramError, crashed, describe};
pub use script::{Connection, Data, DmaAnswer, Message, Pieces, Script, Step};
pub use server::{
    Act, ClientFound, ClientReport, Clients, Hunt, HuntError, Outcome, Plan, What, plan,
};
pub use stats::Stats;
pub use survey::{Survey, SurveyError, survey};
pub use text::ScriptError;
pub use watch::{Usage, Watch};
