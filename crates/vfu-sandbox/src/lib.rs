//! A sandbox for a device's process: after set-up it can open nothing and call little.
//!
//! A vfio-user server needs its listening socket, and what clients send it. It needs no files, no other
//! processes and no network. So a bug in a device need not be the door to everything that its user may touch:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // 1. Everything that opens something: the socket, images, logs.
//! // 2. Then, before any thread is started:
//! let entered = vfu_sandbox::enter()?;
//! for missing in &entered.missing {
//!     eprintln!("the sandbox is weaker than it could be: {missing}");
//! }
//! // 3. Serve.
//! # Ok(())
//! # }
//! ```
//!
//! Two layers, neither of which needs privileges:
//!
//! * **landlock** (Linux 5.13; the whole of it 6.12): no file can be opened, made, removed or run by its
//!   path, no TCP port bound or connected to, no abstract socket of others connected to, no signal sent to
//!   others.
//! * **seccomp**: the system calls that a server makes, and no others; these fail with EPERM. Not among
//!   them: open, socket, connect, bind, execve, fork, kill, ptrace, and memory that can be executed.
//!
//! Both hold for the calling thread and all that it starts, for good, and for nothing that was opened before. Descriptors
//! that clients send can be used: a sandbox does not narrow what a client gives.
//!
//! What a device does in its sandbox can be wider than this list: then seccomp says EPERM where it worked before.
//! `strace -f` shows which call it was. The sandbox is for x86-64 and 64-bit ARM.

mod calls;
mod paths;

use std::fmt;

/// What is in force after [`enter`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Entered {
    /// What this kernel could not do. Empty: the process can open nothing and call little.
    pub missing: Vec<Missing>,
}

/// A layer that this kernel does not have, or not wholly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// No landlock: paths are closed by seccomp alone.
    Landlock,
    /// A landlock that is older than Linux 6.12 and does not know all that is to be denied.
    PartOfLandlock,
    /// No seccomp filters: all system calls are there.
    Seccomp,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Missing::Landlock => {
                "this kernel has no landlock (CONFIG_SECURITY_LANDLOCK, Linux 5.13)"
            }
            Missing::PartOfLandlock => "this kernel's landlock is older than Linux 6.12",
            Missing::Seccomp => "this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)",
        })
    }
}

/// Why nothing was entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// Threads that run already would stay outside.
    #[error(
        "the process has {0} threads; the sandbox is entered with one, before others are started"
    )]
    Threads(usize),
    /// The kernel refused landlock for another reason than not having it.
    #[error("landlock")]
    Landlock(#[source] landlock::RulesetError),
    /// The kernel refused the filter, or it is not for this machine.
    #[error("seccomp")]
    Seccomp(#[source] seccompiler::Error),
}

/// Takes from this process, for good, what a server does not need.
///
/// A kernel that lacks a layer is no error: [`Entered::missing`] says so.
///
/// # Errors
/// The process has more than one thread, or the kernel refuses. The process may then be partly inside, and
/// better ends.
pub fn enter() -> Result<Entered, SandboxError> {
    match threads() {
        0 | 1 => {}
        more => return Err(SandboxError::Threads(more)),
    }
    let mut missing = Vec::new();
    missing.extend(paths::close()?);
    missing.extend(calls::restrict()?);
    Ok(Entered { missing })
}

/// How many threads the process has; 0 if /proc is not there to say.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}
