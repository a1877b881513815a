//! Counting the system calls of a child, which is stopped at each of them.

use std::collections::BTreeMap;
use std::fmt;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Calls by their number.
pub(crate) type Calls = BTreeMap<i64, i64>;

/// Why system calls can't be counted on this machine.
#[derive(Debug)]
pub(crate) struct Skip(Errno);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ptrace is not permitted here ({})", self.0)
    }
}

/// Counts the calls of a process of one thread until it exits. `go` is called when it is held.
pub(crate) fn count(child: u32, go: impl FnOnce()) -> Result<Calls, Skip> {
    let pid = Pid::from_raw(child as i32);
    // Should this test fail, the child does not stay behind.
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
    match ptrace::seize(pid, options) {
        Err(e @ (Errno::EPERM | Errno::EACCES | Errno::ENOSYS)) => return Err(Skip(e)),
        other => other.unwrap(),
    }
    ptrace::interrupt(pid).unwrap();
    let mut go = Some(go);
    let mut calls = Calls::new();
    loop {
        let mut signal = None;
        match waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceEvent(..) => {
                if let Some(go) = go.take() {
                    go();
                }
            }
            WaitStatus::PtraceSyscall(_) => {
                if ptrace::syscall_info(pid).unwrap().op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    *calls.entry(number(pid)).or_default() += 1;
                }
            }
            WaitStatus::Stopped(_, received) => signal = Some(received),
            WaitStatus::Exited(_, 0) => return Ok(calls),
            end => panic!("the child: {end:?}"),
        }
        ptrace::syscall(pid, signal).unwrap();
    }
}

/// The call that a stopped process is about to make. (It is in `syscall_info` too, in a union.)
fn number(pid: Pid) -> i64 {
    let line = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    let number = line.split_whitespace().next().and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("/proc/{pid}/syscall: {line:?}"))
}

/// The calls in `more` that are not in `less`.
pub(crate) fn difference(less: &Calls, more: &Calls) -> Calls {
    let mut difference = more.clone();
    for (number, count) in less {
        *difference.entry(*number).or_default() -= count;
    }
    difference.retain(|_, count| *count != 0);
    difference
}
