//! The device, written to `libvfio-user.h` as a C program would be.
#![allow(unsafe_code)] // every call is one of the header's, with what the header asks for

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::stdin;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vfu_capi::c::*;
use vfu_capi::types::{AccessFn, Ctx, MigrationCallbacks, Sg};

use super::{Settings, Target};
use crate::specimen::{BAR0, Job, READ, Specimen, WRITE};

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

static SPECIMEN: Mutex<Specimen> = Mutex::new(Specimen::new());
static JOBS: Mutex<Vec<Job>> = Mutex::new(Vec::new());

fn specimen() -> MutexGuard<'static, Specimen> {
    SPECIMEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn errno() -> c_int {
    // SAFETY: a thread's own.
    unsafe { *__errno_location() }
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: a thread's own.
    unsafe { *__errno_location() = errno };
    -1
}

unsafe extern "C" fn access(
    _: *mut Ctx,
    data: *mut c_char,
    len: usize,
    offset: i64,
    is_write: bool,
) -> isize {
    // SAFETY: the library gives `len` bytes, of its own memory.
    let data = unsafe { std::slice::from_raw_parts_mut(data.cast::<u8>(), len) };
    let offset = u64::try_from(offset).expect("the library checks the offset");
    assert!(offset + len as u64 <= BAR0, "the library checks the range");
    if is_write {
        if let Some(job) = specimen().write(offset, data) {
            JOBS.lock().unwrap_or_else(PoisonError::into_inner).push(job);
        }
    } else {
        specimen().read(offset, data);
    }
    len as isize
}

unsafe extern "C" fn transition(_: *mut Ctx, state: c_int) -> c_int {
    const RUNNING: c_int = 1;
    const RESUME: c_int = 4;
    let mut specimen = specimen();
    specimen.saved = 0;
    match state {
        RESUME => specimen.begin_loading(),
        RUNNING if !specimen.take_over() => return fail(Errno::INVAL.raw_os_error()),
        _ => {}
    }
    0
}

unsafe extern "C" fn read_data(_: *mut Ctx, to: *mut c_void, count: u64) -> isize {
    let mut specimen = specimen();
    let state = specimen.state();
    let left = &state[specimen.saved.min(state.len())..];
    let len = left.len().min(count as usize);
    // SAFETY: the library gives room for `count` bytes.
    unsafe { to.cast::<u8>().copy_from_nonoverlapping(left.as_ptr(), len) };
    specimen.saved += len;
    len as isize
}

unsafe extern "C" fn write_data(_: *mut Ctx, from: *mut c_void, count: u64) -> isize {
    // SAFETY: the library gives `count` bytes.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), count as usize) };
    if specimen().load(bytes) { count as isize } else { fail(Errno::INVAL.raw_os_error()) as isize }
}

pub(super) struct InC;

impl Target for InC {
    fn serve(&self, path: &Path, settings: &Settings) {
        let ctx = create(path, settings);
        let mut attached = false;
        while wait(ctx) {
            if attached {
                // SAFETY: of the header.
                let rc = unsafe { vfu_run_ctx(ctx) };
                if rc < 0 {
                    let errno = Errno::from_raw_os_error(errno());
                    attached = !matches!(errno, Errno::NOTCONN | Errno::CONNRESET);
                    let may_be = !attached || matches!(errno, Errno::BUSY | Errno::INTR);
                    assert!(may_be, "vfu_run_ctx: {errno}");
                }
                operate(ctx);
            } else {
                // SAFETY: of the header.
                attached = unsafe { vfu_attach_ctx(ctx) } == 0;
            }
        }
        // SAFETY: of the header; it is used no more.
        unsafe { vfu_destroy_ctx(ctx) };
    }
}

/// Whether a context can be made at this path. It is destroyed at once.
pub(crate) fn listen(path: &std::ffi::CStr) -> bool {
    // SAFETY: of the header.
    unsafe {
        let ctx = vfu_create_ctx(0, path.as_ptr(), 1, null_mut(), 0);
        vfu_destroy_ctx(ctx);
        !ctx.is_null()
    }
}

/// Waits until there is something to do; false: no more.
fn wait(ctx: *mut Ctx) -> bool {
    let end = stdin();
    // SAFETY: of the header.
    let (main, twin, timeout) =
        unsafe { (vfu_get_poll_fd(ctx), vfu_rs_get_dma_poll_fd(ctx), vfu_rs_get_timeout(ctx)) };
    let timeout = u32::try_from(timeout).ok().map(|ms| Timespec {
        tv_sec: i64::from(ms / 1000),
        tv_nsec: i64::from(ms % 1000) * 1_000_000,
    });
    // SAFETY: the context's, which closes neither of them meanwhile.
    let fds =
        [main, if twin < 0 { main } else { twin }].map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    let poll_fd = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
    let mut set = [poll_fd(end.as_fd()), poll_fd(fds[0]), poll_fd(fds[1])];
    let _interrupted = poll(&mut set, timeout.as_ref());
    set[0].revents().is_empty()
}

fn create(path: &Path, settings: &Settings) -> *mut Ctx {
    let path = CString::new(path.to_str().expect("a path in UTF-8")).expect("without NUL");
    let maps = settings.number("maps").unwrap_or(65535) as usize;
    let memory = vfu::SharedMemory::new(0x4000).expect("memory");
    let file = memory.as_fd().as_raw_fd();
    std::mem::forget(memory); // The context has its file until the process ends.
    // PCI Express 2, type 0, function level reset; MSI-X, 4 vectors, nowhere.
    let mut express = [0u8; 60];
    express[..12].copy_from_slice(&[0x10, 0, 2, 0, 0, 0, 0, 0x10, 0, 0, 0, 0]);
    let mut msix = [0x11u8, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut pm = [1u8, 0, 3, 0, 0, 0, 0, 0];
    let callbacks = MigrationCallbacks {
        version: 2,
        transition: Some(transition),
        read_data: Some(read_data),
        write_data: Some(write_data),
    };
    // SAFETY: of the header.
    unsafe {
        let ctx = vfu_create_ctx(0, path.as_ptr(), 1, null_mut(), 0);
        assert!(!ctx.is_null());
        assert_eq!(vfu_pci_init(ctx, 3, 0, 0), 0);
        let bar: Option<AccessFn> = Some(access);
        assert_eq!(vfu_setup_region(ctx, 0, BAR0 as usize, bar, 7, null_mut(), 0, -1, 0), 0);
        assert_eq!(vfu_setup_region(ctx, 2, 0x4000, None, 7, null_mut(), 0, file, 0), 0);
        assert!(vfu_pci_add_capability(ctx, 0, 0, express.as_mut_ptr().cast()) > 0);
        assert!(vfu_pci_add_capability(ctx, 0, 0, msix.as_mut_ptr().cast()) > 0);
        assert!(vfu_pci_add_capability(ctx, 0, 0, pm.as_mut_ptr().cast()) > 0);
        assert_eq!(vfu_setup_device_dma(ctx, maps, None, None), 0);
        assert_eq!(vfu_setup_device_nr_irqs(ctx, 0, 1), 0);
        assert_eq!(vfu_setup_device_nr_irqs(ctx, 2, 4), 0);
        assert_eq!(vfu_setup_device_migration_callbacks(ctx, &callbacks), 0);
        limit(ctx, settings);
        assert_eq!(vfu_realize_ctx(ctx), 0);
        ctx
    }
}

fn limit(ctx: *mut Ctx, settings: &Settings) {
    let mut limits = Limits { size: size_of::<Limits>(), ..Limits::default() };
    // SAFETY: of the header.
    assert_eq!(unsafe { vfu_rs_get_limits(ctx, &mut limits) }, 0);
    let change = |value: &mut u32, name| {
        if let Some(number) = settings.number(name) {
            *value = number as u32;
        }
    };
    change(&mut limits.dma_timeout_ms, "reply_ms");
    change(&mut limits.handshake_timeout_ms, "handshake_ms");
    change(&mut limits.message_timeout_ms, "message_ms");
    change(&mut limits.send_timeout_ms, "send_ms");
    change(&mut limits.outstanding, "outstanding");
    change(&mut limits.zombies, "zombies");
    change(&mut limits.queued_commands, "queued_commands");
    limits.queued_bytes = settings.number("queued_bytes").unwrap_or(limits.queued_bytes);
    limits.unsent_bytes = settings.number("unsent_bytes").unwrap_or(limits.unsent_bytes);
    // SAFETY: of the header.
    assert_eq!(unsafe { vfu_rs_set_limits(ctx, &limits) }, 0);
}

/// What the handlers have begun.
fn operate(ctx: *mut Ctx) {
    let jobs = std::mem::take(&mut *JOBS.lock().unwrap_or_else(PoisonError::into_inner));
    for job in jobs {
        let mut bytes = specimen().outgoing(job.len);
        let result = match job.what {
            READ | WRITE => copy(ctx, job, &mut bytes),
            // SAFETY: of the header.
            _ => match unsafe { vfu_irq_trigger(ctx, job.len) } {
                0 => Ok(()),
                _ => Err(errno()),
            },
        };
        if job.what != READ {
            bytes.clear();
        }
        specimen().end(job, result.map(|()| &bytes[..]));
    }
}

fn copy(ctx: *mut Ctx, job: Job, bytes: &mut [u8]) -> Result<(), c_int> {
    const PROT_READ: c_int = 1;
    const PROT_WRITE: c_int = 2;
    const DIRECT: c_int = 1;
    let mut sg = MaybeUninit::<Sg>::uninit();
    let prot = if job.what == READ { PROT_READ } else { PROT_WRITE };
    let address = without_provenance_mut(job.address as usize);
    let data = bytes.as_mut_ptr().cast();
    // SAFETY: of the header: there is room for one entry, and `len` bytes of data.
    unsafe {
        match vfu_addr_to_sgl(ctx, address, bytes.len(), sg.as_mut_ptr(), 1, prot) {
            1 => {}
            0 => return Ok(()),
            -1 => return Err(errno()),
            _ => return Err(Errno::TOOBIG.raw_os_error()),
        }
        let rc = match job.what {
            READ => vfu_sgl_read(ctx, sg.as_mut_ptr(), 1, data, DIRECT),
            _ => vfu_sgl_write(ctx, sg.as_mut_ptr(), 1, data, DIRECT),
        };
        if rc == 0 { Ok(()) } else { Err(errno()) }
    }
}
