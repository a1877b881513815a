//! seccomp: the system calls of a server, and EPERM for all others.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};

use crate::{Missing, SandboxError};

/// Calls that are harmless whatever their arguments: they need a descriptor that the process has, or are about itself.
const ALLOWED: &[c_long] = &[
    // bytes and descriptors in and out of what is open
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // new descriptors that are nobody else's
    libc::SYS_socketpair,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_memfd_create,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    // names: a look, nothing is opened (which file a client sent; the kind of a descriptor)
    libc::SYS_readlinkat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    // memory; mmap and mprotect are below
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_membarrier,
    // threads; clone is below
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getcpu,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    // children that were there before
    libc::SYS_wait4,
    libc::SYS_waitid,
    // signals to itself; tgkill is below
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // time and chance
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    // the end
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The older names of some, which other machines never had.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_poll,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_eventfd,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_readlink,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// Puts the filters in force for this thread and those that it starts.
pub(crate) fn restrict() -> Result<Option<Missing>, SandboxError> {
    let apply = || {
        // A C library asks for a thread by clone3, whose flags no filter can see, and by clone if there is no such call.
        let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        apply_filter(&filter(clone3, SeccompAction::Allow, SeccompAction::Errno(ENOSYS))?)?;
        // Last, for it does not allow another.
        apply_filter(&filter(allowed()?, SeccompAction::Errno(EPERM), SeccompAction::Allow)?)
    };
    match apply() {
        Ok(()) => Ok(None),
        Err(Error::Prctl(e) | Error::Seccomp(e)) if e.raw_os_error() == Some(libc::EINVAL) => {
            Ok(Some(Missing::Seccomp))
        }
        Err(e) => Err(SandboxError::Seccomp(e)),
    }
}

const EPERM: u32 = libc::EPERM.unsigned_abs();
const ENOSYS: u32 = libc::ENOSYS.unsigned_abs();

/// A system call, and the rules of which one has to hold. None: it always may.
type Calls = BTreeMap<c_long, Vec<SeccompRule>>;

fn filter(calls: Calls, others: SeccompAction, these: SeccompAction) -> Result<BpfProgram, Error> {
    let machine = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(calls, others, these, machine)?.try_into()?)
}

/// All that is allowed.
fn allowed() -> Result<Calls, BackendError> {
    let mut allowed: Calls = ALLOWED.iter().chain(OLDER).map(|&call| (call, Vec::new())).collect();
    allowed.extend(with_conditions()?);
    Ok(allowed)
}

/// Calls of which one argument decides.
fn with_conditions() -> Result<Calls, BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq};

    let only = |argument, len, op, value| {
        Ok(vec![SeccompRule::new(vec![SeccompCondition::new(argument, len, op, value)?])?])
    };
    let not_executable = || only(2, Dword, MaskedEq(bits(libc::PROT_EXEC)), 0);
    let thread = bits(libc::CLONE_THREAD);
    let own = u64::from(std::process::id());
    Ok(BTreeMap::from([
        (libc::SYS_mmap, not_executable()?),
        (libc::SYS_mprotect, not_executable()?),
        (libc::SYS_clone, only(0, Qword, MaskedEq(thread), thread)?),
        (libc::SYS_clone3, Vec::new()), // see `restrict`
        (libc::SYS_tgkill, only(0, Dword, Eq, own)?),
        (libc::SYS_prctl, only(0, Dword, Eq, bits(libc::PR_SET_NAME))?),
        (libc::SYS_prlimit64, only(2, Qword, Eq, 0)?), // to ask, not to set
    ]))
}

/// A constant of C, which is a signed number there.
fn bits(constant: i32) -> u64 {
    u64::from(constant.unsigned_abs())
}
