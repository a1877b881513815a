//! Deadlines, while the clock moves on in another thread.

use std::time::Duration;

use shuttle::thread;
use vfu_proto::session::Limits;

use super::device::{CALLBACK, PLAIN, WORKER};
use super::server::Serving;
use super::{check, no_timeouts};
use crate::dma::DmaError;
use crate::sync::clock::advance;

const TIMEOUT: Duration = Duration::from_secs(2);

/// The peer owes an answer, says nothing more, and two who ask give up: one that waits in a thread,
/// and one that waits nowhere.
#[test]
fn requests_time_out() {
    check(|| {
        let limits = Limits { reply_timeout: Some(TIMEOUT), ..no_timeouts() };
        let mut s = Serving::begin(limits);
        let ids = [s.peer.write(WORKER, 0x10), s.peer.write(CALLBACK, 0x20)];
        let mut asked = Vec::new();
        for id in ids {
            s.peer.reply_to(id, &mut asked);
        }
        while asked.len() < 2 {
            asked.push(s.peer.next_command().unwrap());
        }
        advance(TIMEOUT);
        s.log.wait_for(&[0x10, 0x20]);
        // A late answer is drained, and the session goes on.
        s.peer.give(&asked[0]);
        let id = s.peer.read(PLAIN);
        s.peer.reply_to(id, &mut Vec::new());
        let log = s.end();
        for value in [0x10, 0x20] {
            assert_eq!(log.outcome(value), Some(Err(DmaError::TimedOut)));
        }
    });
}

/// The answer and the end of the time come at once: it is one or the other.
#[test]
fn an_answer_races_its_deadline() {
    check(|| {
        let limits = Limits { reply_timeout: Some(TIMEOUT), ..no_timeouts() };
        let mut s = Serving::begin(limits);
        s.peer.write(WORKER, 0x10);
        let command = s.peer.next_command().unwrap();
        let clock = thread::spawn(|| advance(TIMEOUT));
        s.peer.give(&command);
        s.log.wait_for(&[0x10]);
        clock.join().unwrap();
        let id = s.peer.read(PLAIN);
        s.peer.reply_to(id, &mut Vec::new());
        s.end();
    });
}
