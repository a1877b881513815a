//! A device in a process of its own: `vfu serve DEVICE --socket-path SOCKET -v`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Running, command};

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    running: Running,
    socket: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts it, and returns when it listens. Its words are added to `log`.
    ///
    /// # Errors
    ///
    /// If it ends, or does not listen within 20 seconds.
    pub fn start(vfu: &Path, device: &str, socket: &Path, log: &Path) -> Result<Server> {
        let mut command = command(vfu);
        command.args(["serve", device, "--socket-path"]).arg(socket).arg("-v");
        Self::run(&mut command, &format!("vfu serve {device}"), socket, log)
    }

    /// The same for any program, which listens at `socket` by what its command says. `name` is for people.
    ///
    /// # Errors
    ///
    /// As for [`Server::start`].
    pub fn run(program: &mut Command, name: &str, socket: &Path, log: &Path) -> Result<Server> {
        let output = File::options().create(true).append(true).open(log)?;
        let program = program.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut running = Running::start(program)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !listens(socket)? {
            if let Some(status) = running.ended()? {
                bail!("`{name}` ended ({status}) before it listened");
            }
            if Instant::now() > deadline {
                bail!("`{name}` does not listen at {}", socket.display());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Server { running, socket: socket.to_path_buf(), log: log.to_path_buf() })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How many lines of its log have these words.
    ///
    /// # Errors
    ///
    /// If the log cannot be read.
    pub fn said(&self, words: &str) -> Result<usize> {
        let text = fs::read(&self.log)?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().filter(|line| line.contains(words)).count())
    }

    /// Kills it with SIGKILL: it has no time to say good-bye or to remove its socket.
    ///
    /// # Errors
    ///
    /// If it had ended by itself before.
    pub fn kill(mut self) -> Result<()> {
        self.is_alive()?;
        self.running.kill()?;
        Ok(())
    }

    /// Has it stand still (SIGSTOP), or go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// If it ended by itself.
    pub fn stand_still(&mut self, still: bool) -> Result<()> {
        self.is_alive()?;
        let signal = if still { Signal::STOP } else { Signal::CONT };
        Ok(kill_process(Pid::from_child(self.running.child()), signal)?)
    }

    /// Checks that it did not end.
    ///
    /// # Errors
    ///
    /// If it did.
    pub fn is_alive(&mut self) -> Result<()> {
        match self.running.ended()? {
            Some(status) => bail!("the server at {} ended: {status}", self.socket.display()),
            None => Ok(()),
        }
    }
}

/// Asks the kernel whether a socket with that path listens. A connection would ask the same, but a
/// server of one client would take it for the client.
fn listens(socket: &Path) -> Result<bool> {
    const ACCEPTS: &str = "00010000";
    let socket = socket.to_string_lossy();
    // Number, references, protocol, flags, type, state, inode, path.
    let listens = |line: &str| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some(ACCEPTS) && fields.nth(3) == Some(socket.as_ref())
    };
    Ok(fs::read_to_string("/proc/net/unix")?.lines().any(listens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_who_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert!(!listens(&path).unwrap());
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(listens(&path).unwrap());
    }
}
