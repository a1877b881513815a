//! A file descriptor that the process was started with, by its number.
//!
//! Taking ownership of a number is the one thing here that Rust can't check, so this is the one
//! module of the command with `unsafe`.
#![allow(unsafe_code)]

use std::io::ErrorKind;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, bail};

/// `O_CLOEXEC`, in the numbers of `/proc/PID/fdinfo`.
const CLOEXEC: u32 = 0o2_000_000;

/// Takes descriptor `number`, which our parent opened for us. Once for each number.
pub(crate) fn take_inherited(number: RawFd) -> anyhow::Result<OwnedFd> {
    if (0..=2).contains(&number) {
        bail!("--fd {number}: 0 to 2 are the standard streams; hand over another number");
    }
    let path = format!("/proc/self/fdinfo/{number}");
    let info = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => bail!(
            "--fd {number}: no such descriptor is open; whoever starts vfu has to open it, and to \
             keep it open over exec (no FD_CLOEXEC)"
        ),
        other => other.with_context(|| format!("--fd {number}: can't read {path}"))?,
    };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    if flags.is_none_or(|flags| flags & CLOEXEC != 0) {
        bail!("--fd {number}: was not handed over by whoever started vfu");
    }
    // SAFETY: the descriptor is open, and nothing else in this process owns it: it came over exec,
    // as all that this process opens itself has close-on-exec set, which this one has not. The
    // command line names one number, so it is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
