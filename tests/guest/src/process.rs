//! Child processes that never outlive this one.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context, Result};

/// A command that the kernel kills when this process ends, however it ends.
///
/// Through `setpriv`, part of every Debian, since a program can ask this for itself only.
#[must_use]
pub fn command(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args([OsStr::new("--pdeathsig"), OsStr::new("KILL"), program.as_os_str()]);
    command
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts it. Call this from a thread that lives as long as the process should.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Running> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        Ok(Running { child })
    }

    /// The process, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// If the kernel does not know it.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Errors
    ///
    /// If the kernel does not let us.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
