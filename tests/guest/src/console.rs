//! The guest's serial console: all of it goes to a log, and a few lines are for the test.
//!
//! | line of the guest | meaning |
//! |---|---|
//! | `VFU-ASK WORD` | the guest waits until the test has done what WORD stands for, and answers |
//! | `VFU-SAY TEXT` | for the reader of the demo |
//! | `VFU-FILE NAME:LINE` | a line of a text that the test wants to see |
//! | `VFU-RESULT rc=N` | the test script ended |

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

/// What a guest tells its test.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// `VFU-ASK`
    Ask(String),
    /// `VFU-SAY`
    Say(String),
    /// `VFU-FILE`: the name of the text, and the line with its end.
    File(String, String),
    /// `VFU-RESULT`
    Result(i32),
    /// The machine is off: no more events come.
    End,
}

/// The reading end of a console.
#[derive(Debug)]
pub struct Console {
    events: Receiver<Event>,
}

impl Console {
    /// Reads `output` to its end, in a thread, and copies it to `log`.
    #[must_use]
    pub fn read(output: impl Read + Send + 'static, mut log: File) -> Console {
        let (sender, events) = channel();
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while matches!(output.read_until(b'\n', &mut line), Ok(1..)) {
                let _ = log.write_all(&line);
                if let Some(event) = parse(&String::from_utf8_lossy(&line)) {
                    let _ = sender.send(event);
                }
                line.clear();
            }
            let _ = sender.send(Event::End);
        });
        Console { events }
    }

    /// The next event, or nothing if none comes before the deadline.
    #[must_use]
    pub fn next(&self, deadline: Instant) -> Option<Event> {
        match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Disconnected) => Some(Event::End),
            Err(RecvTimeoutError::Timeout) => None,
        }
    }
}

/// Firmware may have left bytes of its own at the beginning of the line.
fn parse(line: &str) -> Option<Event> {
    let after = |key: &str| line.split_once(key).map(|(_, rest)| rest.trim_end().to_owned());
    if let Some(word) = after("VFU-ASK ") {
        Some(Event::Ask(word))
    } else if let Some(text) = after("VFU-SAY ") {
        Some(Event::Say(text))
    } else if let Some(text) = after("VFU-FILE ") {
        let (name, line) = text.split_once(':')?;
        Some(Event::File(name.into(), format!("{line}\n")))
    } else {
        Some(Event::Result(after("VFU-RESULT rc=")?.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(parse("\x1b[0mVFU-ASK plug\r\n"), Some(Event::Ask("plug".into())));
        assert_eq!(parse("VFU-RESULT rc=3\r\n"), Some(Event::Result(3)));
        assert_eq!(parse("VFU-SAY a b\n"), Some(Event::Say("a b".into())));
        assert_eq!(parse("VFU-RESULT rc=\n"), None);
        let line = Event::File("a".into(), "\tb: c\n".into());
        assert_eq!(parse("VFU-FILE a:\tb: c\r\n"), Some(line));
    }
}
