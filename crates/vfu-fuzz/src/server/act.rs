//! What a hostile server does wrong: as text, and by a seed.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;

use crate::generate::rng_of;
use crate::text::{ScriptError, number, parse_number};
use crate::values::{interesting, one_in};

macro_rules! whats {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal [$($arg:literal),*];)*) => {
        /// A kind of wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum What {
            $($(#[doc = $doc])* $variant,)*
        }

        impl What {
            /// Each with its name and the names of its arguments.
            pub const ALL: &'static [(What, &'static str, &'static [&'static str])] =
                &[$((What::$variant, $name, &[$($arg),*]),)*];
        }
    };
}

whats! {
    /// The reply has an id that nobody used.
    WrongId = "wrong-id" [];
    /// The reply has another command's number.
    WrongCommand = "wrong-command" ["command"];
    /// The reply's type is another one.
    Type = "type" ["type"];
    /// The reply's header claims another size.
    Size = "size" ["size"];
    /// The reply's payload ends early, and its header says so.
    Cut = "cut" ["bytes"];
    /// The reply's payload is longer by so many zeros.
    Longer = "longer" ["bytes"];
    /// Four bytes of the reply's payload are others.
    Word = "word" ["offset", "value"];
    /// The reply is an error.
    Error = "error" ["errno"];
    /// The reply is an error, and has its payload all the same.
    ErrorWithData = "error-with-data" ["errno"];
    /// The reply comes byte by byte.
    Single = "single" [];
    /// The reply comes twice.
    Twice = "twice" [];
    /// Before the reply comes one that nobody asked for.
    Stray = "stray" ["id", "bytes"];
    /// The reply has eventfds that nobody asked for.
    Fds = "fds" ["count"];
    /// The reply lacks its descriptors.
    NoFds = "no-fds" [];
    /// There is no reply.
    Silent = "silent" [];
    /// The reply comes after the next one.
    Later = "later" [];
    /// The connection is closed instead.
    Close = "close" [];
    /// The reply ends after so many bytes, and with it the connection.
    Half = "half" ["bytes"];
    /// The reply ends after so many bytes, and nothing more is said.
    Stall = "stall" ["bytes"];
    /// The reply to VERSION has another text: one of a list.
    Json = "json" ["text"];
    /// Before the reply comes a DMA_READ.
    DmaRead = "dma-read" ["address", "count"];
    /// Before the reply comes a DMA_WRITE, with so many bytes.
    DmaWrite = "dma-write" ["address", "count", "bytes"];
    /// Before the reply comes a command that is none of a server.
    Command = "command" ["command", "bytes"];
    /// Before the reply come so many DMA_READs.
    Flood = "flood" ["count"];
}

/// Texts of a VERSION reply.
pub(super) const TEXTS: [&str; 16] = [
    "",
    "null",
    "[]",
    "{}",
    "{\"capabilities\":null}",
    "{\"capabilities\":{\"max_msg_fds\":0}}",
    "{\"capabilities\":{\"max_msg_fds\":-1}}",
    "{\"capabilities\":{\"max_msg_fds\":4294967296}}",
    "{\"capabilities\":{\"max_data_xfer_size\":0}}",
    "{\"capabilities\":{\"max_data_xfer_size\":1}}",
    "{\"capabilities\":{\"max_data_xfer_size\":18446744073709551615}}",
    "{\"capabilities\":{\"pgsizes\":0,\"max_dma_maps\":0}}",
    "{\"capabilities\":{\"migration\":{\"pgsize\":0}}}",
    "{\"capabilities\":{\"twin_socket\":{\"supported\":true}}}",
    "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}",
    "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":4294967295}}}",
];

/// One wrong thing, at one command of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// At which command of the connection, from 0: the VERSION.
    pub at: u32,
    /// What.
    pub what: What,
    /// Its arguments.
    pub args: Vec<u64>,
}

/// How a hostile server treats a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether it offers a second socket.
    pub twin: bool,
    /// What it does wrong. All else is right.
    pub acts: Vec<Act>,
}

/// Plan number `case` of a seed. The same arguments give the same plan.
pub fn plan(seed: u64, case: u64) -> Plan {
    let mut rng = rng_of(seed, case);
    let twin = rng.bool();
    let mut at = 0;
    let acts = (0..=rng.u32(0..3))
        .map(|_| {
            let far = 1 << rng.u32(0..6);
            at += rng.u32(0..far);
            act(&mut rng, at)
        })
        .collect();
    Plan { twin, acts }
}

fn act(rng: &mut Rng, at: u32) -> Act {
    let &(what, _, names) = match rng.u8(0..8) {
        // What is wrong inside of a reply is what finds most.
        0..3 => &(What::Word, "", &["", ""][..]),
        _ => rng.choice(What::ALL).unwrap_or(&What::ALL[0]),
    };
    let number = |rng: &mut Rng, name: &str| match name {
        "offset" => rng.u64(0..20) * 4,
        "bytes" => rng.choice([0, 1, 4, 8, 15, 16, 17, 20, 31, 32, 33, 4096]).unwrap_or(0),
        "size" if one_in(rng, 2) => rng.u64(0..100),
        "type" => rng.u64(0..16),
        "errno" => rng.choice([0, 1, 5, 22, 4095, 4096, 0xffff_ffff]).unwrap_or(0),
        "text" => rng.u64(0..TEXTS.len() as u64),
        "id" => rng.u64(0..16),
        "command" => rng.u64(0..20),
        "count" if what == What::Flood => rng.u64(1..2000),
        "count" if what == What::Fds => rng.choice([1, 2, 16, 253]).unwrap_or(1),
        "address" if rng.bool() => rng.u64(0..16) * 0x1000,
        _ => interesting(rng),
    };
    let args = names.iter().map(|name| if name.is_empty() { 0 } else { number(rng, name) });
    let mut act = Act { at, what, args: args.collect() };
    if what == What::Word {
        act.args = vec![rng.u64(0..20) * 4, interesting(rng) & 0xffff_ffff];
    }
    act
}

impl Act {
    /// An argument; 0 if it is not there.
    pub(super) fn arg(&self, at: usize) -> u64 {
        self.args.get(at).copied().unwrap_or(0)
    }

    /// An argument that is a number of bytes or things, within reason.
    pub(super) fn size(&self, at: usize) -> usize {
        self.arg(at).min(1 << 20) as usize
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = What::ALL.iter().find(|(what, ..)| *what == self.what);
        let Some((_, name, names)) = known else { return Ok(()) };
        write!(f, "at {} {name}", self.at)?;
        names
            .iter()
            .zip(&self.args)
            .try_for_each(|(name, arg)| write!(f, " {name}={}", number(*arg)))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "server{}", if self.twin { " twin" } else { "" })?;
        self.acts.iter().try_for_each(|act| writeln!(f, "  {act}"))
    }
}

impl FromStr for Plan {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Plan, ScriptError> {
        let mut plan = None;
        for (number, line) in text.lines().enumerate() {
            let wrong = |why: String| ScriptError { line: number + 1, why };
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            match (words.as_slice(), &mut plan) {
                ([] | ["#", ..], _) => {}
                ([comment, ..], _) if comment.starts_with('#') => {}
                (["server"], None) => plan = Some(Plan::default()),
                (["server", "twin"], None) => plan = Some(Plan { twin: true, acts: Vec::new() }),
                (["at", rest @ ..], Some(plan)) => {
                    plan.acts.push(parse_act(rest).map_err(wrong)?);
                }
                _ => {
                    let why =
                        "a line 'server' or 'server twin' comes first, then lines 'at N WHAT'";
                    return Err(wrong(why.into()));
                }
            }
        }
        let why = "a script for --listen begins with a line 'server'".into();
        plan.ok_or(ScriptError { line: 1, why })
    }
}

fn parse_act(words: &[&str]) -> Result<Act, String> {
    let [at, name, words @ ..] = words else { return Err("at needs a number and a name".into()) };
    let at = at.parse().map_err(|e| format!("'{at}': {e}"))?;
    let known = What::ALL.iter().find(|(_, known, _)| known == name);
    let Some(&(what, _, names)) = known else {
        let names: Vec<_> = What::ALL.iter().map(|(_, name, _)| *name).collect();
        return Err(format!("'{name}' is nothing to do wrong; there are {}", names.join(", ")));
    };
    let mut args = vec![0; names.len()];
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let at = names.iter().position(|name| *name == key);
        let arg = at.and_then(|at| args.get_mut(at));
        *arg.ok_or_else(|| format!("{name} has no '{key}'"))? = parse_number(value)?;
    }
    Ok(Act { at, what, args })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_depend_on_nothing_but_the_seed_and_are_text() {
        for case in 0..2000 {
            let made = plan(3, case);
            assert_eq!(made, plan(3, case));
            assert_eq!(made.to_string().parse(), Ok(made));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "begins with a line 'server'"),
            ("at 3 close", "line 1: a line 'server'"),
            ("server\nat 3 fly", "line 2: 'fly' is nothing"),
            ("server\nat x close", "'x': invalid digit"),
            ("server\nat 1 word at=3", "word has no 'at'"),
        ] {
            let error = text.parse::<Plan>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
