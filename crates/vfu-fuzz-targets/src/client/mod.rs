//! The whole client, and a server that answers anything.
//!
//! The server is a thread that waits for a request, says some things that nobody asked for, and then
//! answers or hangs up: never is the client left to wait for a timeout.

mod calls;
mod peer;

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vfu::{Client, Limits};

use crate::pipe::descriptors;
use crate::script::Script;

pub(crate) const ABOUT: &str = "a whole client, against a server that answers anything";

/// Inputs are short; this only bounds what blind ones take.
const MAX_STEPS: u64 = 100;
/// Nothing takes so long.
const NEVER: Duration = Duration::from_secs(60);

pub(crate) fn run(bytes: &[u8]) {
    let _ = descriptors(); // they stay
    let before = vfu_testkit::fd_count();
    let (calls, answers) = split(bytes);
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    std::thread::scope(|scope| {
        let peer = scope.spawn(move || peer::serve(theirs.into(), Script::new(&answers)));
        let mut script = Script::new(&calls);
        let limits = Limits {
            reply_timeout: Some(NEVER),
            outstanding: 8,
            queued_commands: 16,
            stray_replies: 4,
            misplaced_commands: 4,
            ..Limits::default()
        };
        let builder = Client::builder().limits(limits).twin_socket(script.one_in(2));
        let transfer = script.pick(&[4096, 1 << 20, 1]);
        if let Ok(client) = builder.max_transfer(transfer).connect_fd(ours.into()) {
            assert!(client.max_transfer() > 0);
            let mut steps = 0;
            while !script.is_empty() && client.closed().is_none() && steps < MAX_STEPS {
                calls::call(&client, &mut script);
                steps += 1;
            }
            crate::steps::add(steps);
        }
        // The scope waits for what the thread does, not for its end: its last memory would seem to leak.
        peer.join().expect("the peer");
    });
    // A thread that served memory ends with the session, soon.
    let since = Instant::now();
    while vfu_testkit::fd_count() != before {
        assert!(since.elapsed() < NEVER, "descriptors are left over");
        std::thread::yield_now();
    }
}

/// Every other byte is the peer's, so that both scripts keep their place when one changes.
fn split(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let every_other = |first: usize| bytes.iter().skip(first).step_by(2).copied().collect();
    (every_other(0), every_other(1))
}
