//! A process that removes the socket of a server which, in its sandbox, can remove nothing.
//!
//! It waits until the server has ended, whichever way, which it sees by the end of its standard input.

use std::fs::{remove_file, symlink_metadata};
use std::io::{self, Read, stdin};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

/// How `main` names the command.
pub(crate) const COMMAND: &str = "remove-socket-later";

/// Internal: removes the socket of `vfu serve` when that has ended
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The device number of the file, by which it is known from one that another server puts there
    device: u64,
    /// Its inode number
    inode: u64,
    /// Its path
    socket: PathBuf,
}

/// The server's end of it.
pub(crate) struct Janitor(Child);

impl Janitor {
    /// Starts one for the socket at `path`.
    pub(crate) fn start(path: &Path) -> io::Result<Janitor> {
        let (device, inode) = identity(path)?;
        let child = Command::new("/proc/self/exe")
            .args([COMMAND, &device.to_string(), &inode.to_string(), "--"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C is for the server
            .spawn()?;
        Ok(Janitor(child))
    }
}

/// Whoever waits for the server's end finds the socket gone.
impl Drop for Janitor {
    fn drop(&mut self) {
        let _killed_by_somebody = self.0.wait(); // closes its standard input first
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let _ended = stdin().read(&mut [0]);
    if identity(&args.socket)? == (args.device, args.inode) {
        remove_file(&args.socket)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}
