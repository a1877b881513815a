//! A program that is started again whenever it has ended.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How much of what a program said at last is kept, in bytes.
const WORDS: usize = 16 << 10;

/// How often to look for what has no event.
const LOOK: Duration = Duration::from_millis(5);

/// A command for the shell, and the process that runs it.
#[derive(Debug)]
pub struct Program {
    command: String,
    child: Option<Child>,
    said: Option<File>,
}

/// A program that does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The system did not start it.
    #[error("'{command}' can't be started: {source}")]
    Start {
        /// The command.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// It ended, or did not listen in time.
    #[error("'{command}' does not listen at {path}: {why}")]
    Silent {
        /// The command.
        command: String,
        /// The socket.
        path: String,
        /// What it did instead.
        why: String,
    },
}

impl Program {
    /// A program that does not run yet.
    pub fn new(command: impl Into<String>) -> Program {
        Program { command: command.into(), child: None, said: None }
    }

    /// Starts it, in a process group of its own. What it writes is kept, the end of it.
    ///
    /// # Errors
    /// The system refused.
    pub fn start(&mut self) -> Result<(), ProgramError> {
        self.kill();
        let failed = |source| ProgramError::Start { command: self.command.clone(), source };
        let said = tempfile::tempfile().map_err(failed)?;
        let clone = || said.try_clone().map(Stdio::from).map_err(failed);
        let mut command = Command::new("sh");
        command.arg("-c").arg(&self.command).stdin(Stdio::null());
        command.stdout(clone()?).stderr(clone()?).process_group(0);
        self.child = Some(command.spawn().map_err(failed)?);
        self.said = Some(said);
        Ok(())
    }

    /// Starts it, and waits until it listens at `path`. A socket that is left there is removed.
    ///
    /// # Errors
    /// It ends, or does not listen in time.
    pub fn start_server(&mut self, path: &Path, timeout: Duration) -> Result<(), ProgramError> {
        self.kill();
        if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            let _somebody_else_did = std::fs::remove_file(path);
        }
        self.start()?;
        let deadline = Instant::now() + timeout;
        loop {
            if listens(path) {
                return Ok(());
            }
            let why = match self.ended() {
                Some(status) => {
                    format!("it ended with {}: {}", describe(status), self.last_words())
                }
                None if Instant::now() > deadline => format!("not in {} s", timeout.as_secs_f64()),
                None => {
                    // A path has no event.
                    std::thread::sleep(LOOK);
                    continue;
                }
            };
            let (command, path) = (self.command.clone(), path.display().to_string());
            return Err(ProgramError::Silent { command, path, why });
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Waits for its end, for so long at most.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.ended() {
                Some(status) => return Some(status),
                None if Instant::now() >= deadline => return None,
                None => std::thread::sleep(LOOK),
            }
        }
    }

    /// The end of what it wrote.
    pub fn last_words(&self) -> String {
        let Some(said) = &self.said else { return String::new() };
        let len = said.metadata().map_or(0, |file| file.len());
        let mut bytes = vec![0; WORDS];
        // Not by `read`: the program writes where the file's position is.
        match said.read_at(&mut bytes, len.saturating_sub(WORDS as u64)) {
            Ok(n) => telling(&String::from_utf8_lossy(bytes.get(..n).unwrap_or_default())),
            Err(e) => e.to_string(),
        }
    }

    /// Asks it to end, and ends it if it does not.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let _killed_then = self.wait(Duration::from_secs(2));
        self.kill();
    }

    /// Ends it and all that it has started.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            let _gone = child.wait();
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let _gone = kill_process_group(Pid::from_child(child), signal);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines that tell why: from the one on a panic or of a sanitizer on, or else the last ones.
fn telling(words: &str) -> String {
    const LINES: usize = 16;
    let lines: Vec<_> = words.trim().lines().collect();
    let marks = ["panicked at", "ERROR: ", "runtime error:", "Assertion"];
    let marked = lines.iter().position(|line| marks.iter().any(|mark| line.contains(mark)));
    let from = marked.unwrap_or(lines.len().saturating_sub(LINES));
    lines.iter().skip(from).take(LINES).copied().collect::<Vec<_>>().join("\n")
}

/// Whether somebody listens at `path`. It is not connected to: a server may end with its first client.
fn listens(path: &Path) -> bool {
    // A socket that listens has this bit among its flags.
    const ACCEPTS: u64 = 1 << 16;
    // The path is as the server gave it, perhaps seen from its own folder.
    let is_it = |bound: &Path| match bound.is_absolute() {
        true => std::path::absolute(path).is_ok_and(|path| path == bound),
        false => bound.file_name() == path.file_name(),
    };
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    sockets.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().skip(3);
        let flags = words.next().and_then(|flags| u64::from_str_radix(flags, 16).ok());
        let bound = words.nth(3).map(Path::new);
        flags.is_some_and(|flags| flags & ACCEPTS != 0) && bound.is_some_and(is_it)
    }) && path.exists()
}

/// Whether a program was ended by a signal, a panic or a sanitizer that aborts, not by itself.
pub fn crashed(status: ExitStatus) -> bool {
    signal(status).is_some() || status.code() == Some(101)
}

/// The signal that ended a program. A shell says by its exit code which one ended its child.
fn signal(status: ExitStatus) -> Option<i32> {
    let of_child =
        || status.code().map(|code| code - 128).filter(|signal| (1..=64).contains(signal));
    status.signal().or_else(of_child)
}

/// An exit status in words.
pub fn describe(status: ExitStatus) -> String {
    match (signal(status), status.code()) {
        (Some(signal), _) => {
            let name = match signal {
                4 => " (SIGILL)",
                6 => " (SIGABRT)",
                7 => " (SIGBUS)",
                8 => " (SIGFPE)",
                9 => " (SIGKILL)",
                11 => " (SIGSEGV)",
                13 => " (SIGPIPE)",
                _ => "",
            };
            format!("signal {signal}{name}")
        }
        (None, Some(101)) => "exit code 101 (a panic)".into(),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "no exit code".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// A shell can say which signal ended its child; but there is none of number 106, and programs
    /// that exit with a negative number of their own, as here -22, are no crash.
    #[test]
    fn an_exit_code_is_a_signal_only_if_there_is_such_a_signal() {
        for (code, crash, words) in [
            (0, false, "exit code 0"),
            (101, true, "exit code 101 (a panic)"),
            (128, false, "exit code 128"),
            (129, true, "signal 1"),
            (139, true, "signal 11 (SIGSEGV)"),
            (192, true, "signal 64"),
            (193, false, "exit code 193"),
            (234, false, "exit code 234"),
            (255, false, "exit code 255"),
        ] {
            let status = ExitStatus::from_raw(code << 8);
            assert_eq!((crashed(status), &*describe(status)), (crash, words), "{code}");
        }
        let killed = ExitStatus::from_raw(9);
        assert_eq!((crashed(killed), &*describe(killed)), (true, "signal 9 (SIGKILL)"));
    }
}
