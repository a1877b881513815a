//! `vfu probe` and `vfu migrate` against servers that lie (rows S1 to S15 of the hostile peers). Whatever
//! these say, the command ends, with an exit status and a line that says why; it has little memory, and
//! takes no more.

mod migrate;
mod probe;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use vfu::wire::HEADER_SIZE;
use vfu_testkit::{KitError, RawMessage, RawPeer, message, truth, within};

/// For servers that answer at once, if wrongly: nothing waits for it.
pub(crate) const PATIENT: &str = "--timeout=60";
/// For servers that do not answer.
pub(crate) const HASTY: &str = "--timeout=0.2";
/// All that a command may take, in bytes of addresses: its threads, its libraries, and some room.
const MEMORY: u64 = 512 << 20;

/// Runs `vfu`. It ends by itself, with an exit status, or this panics.
pub(crate) fn run(args: &[&str], paths: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
    command.env_remove("RUST_LOG").args(&args[..1]).args(paths).args(&args[1..]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let limit = Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
    prlimit(Some(Pid::from_child(&child)), Resource::As, limit).unwrap();
    within("the end of a command", move || child.wait_with_output().unwrap())
}

/// What stands in the last line of standard error, if the command failed because of its peer; nothing if it
/// was content.
#[track_caller]
pub(crate) fn verdict(what: &str, output: &Output) -> Option<String> {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    match output.status.code() {
        Some(0) => None,
        Some(1 | 4) => {
            let last = stderr.lines().last().unwrap_or_default().to_owned();
            assert!(last.starts_with("vfu: ") && last.len() > 20, "{what}: {stderr}");
            Some(last)
        }
        _ => panic!("{what}: {:?}: {stderr}", output.status),
    }
}

pub(crate) fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A whole message of a server, and what is wrong with it.
pub(crate) type Wrong = (&'static str, fn(&RawMessage) -> Vec<u8>);

fn with_header(request: &RawMessage, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = request.reply(&truth(request));
    change(&mut bytes[..HEADER_SIZE]);
    bytes
}

/// All but the first are to be followed by no others.
pub(crate) const WRONG: [Wrong; 11] = [
    ("a reply to nothing before it", |request| {
        let stray = with_header(request, |header| header[0] ^= 0x55);
        [stray, request.reply(&truth(request))].concat()
    }),
    ("for another command", |request| with_header(request, |header| header[2] ^= 1)),
    ("no reply", |request| with_header(request, |header| header[8] = 0)),
    ("of a type that is none", |request| with_header(request, |header| header[8] = 9)),
    ("less than a header", |request| with_header(request, |header| header[4..8].fill(0))),
    ("4 GiB", |request| with_header(request, |header| header[4..8].fill(0xff))),
    ("an error with a payload", |request| with_header(request, |header| header[8] |= 0x20)),
    ("an error that is none", |request| {
        message(request.header.id, request.header.command, 0x21, &[])
    }),
    ("the error -1", |request| {
        let mut bytes = message(request.header.id, request.header.command, 0x21, &[]);
        bytes[12..16].fill(0xff);
        bytes
    }),
    ("one byte too few", |request| {
        let mut payload = truth(request);
        payload.pop();
        request.reply(&payload)
    }),
    ("much too much", |request| request.reply(&[truth(request), vec![0xee; 100_000]].concat())),
];

/// All of the answer but its last byte.
pub(crate) fn half(peer: &RawPeer, request: &RawMessage) -> Result<(), KitError> {
    let reply = request.reply(&truth(request));
    peer.send(&reply[..reply.len() - 1])
}
