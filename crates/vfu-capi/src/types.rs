//! What crosses the border: the header's types, as C lays them out.

use std::ffi::{c_char, c_int, c_void};

/// `vfu_ctx_t`, of which programs see pointers only.
#[derive(Debug)]
#[repr(C)]
pub struct Ctx {
    _opaque: [u8; 0],
}

/// `struct iovec`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IoVec {
    /// The first byte.
    pub base: *mut c_void,
    /// Bytes.
    pub len: usize,
}

/// `dma_sg_t`: 40 bytes, opaque to programs.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Sg {
    /// The start of the region that the entry lies in, as the client numbers it.
    pub address: u64,
    /// Which region; never 0.
    pub region: u64,
    /// Bytes.
    pub len: u64,
    /// From the region's start, in bytes.
    pub offset: u64,
    /// Not 0 if it was asked for with `PROT_WRITE`. Programs pass what they like: no `bool`.
    pub writable: u8,
}

/// `vfu_dma_info_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DmaInfo {
    /// The region, as the device addresses it.
    pub iova: IoVec,
    /// Where it is in this process, or null.
    pub vaddr: *mut c_void,
    /// All that was mapped for it.
    pub mapping: IoVec,
    /// The page size of the mapping.
    pub page_size: usize,
    /// `PROT_READ`, `PROT_WRITE`.
    pub prot: u32,
}

/// `vfu_migration_callbacks_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MigrationCallbacks {
    /// `VFU_MIGR_CALLBACKS_VERS`.
    pub version: c_int,
    /// The device changes its state.
    pub transition: Option<unsafe extern "C" fn(*mut Ctx, c_int) -> c_int>,
    /// Gives the next piece of the device's state.
    pub read_data: Option<unsafe extern "C" fn(*mut Ctx, *mut c_void, u64) -> isize>,
    /// Takes the next piece of the device's state.
    pub write_data: Option<unsafe extern "C" fn(*mut Ctx, *mut c_void, u64) -> isize>,
}

/// `vfu_log_fn_t`.
pub type LogFn = unsafe extern "C" fn(*mut Ctx, c_int, *const c_char);
/// `vfu_region_access_cb_t`.
pub type AccessFn = unsafe extern "C" fn(*mut Ctx, *mut c_char, usize, i64, bool) -> isize;
/// `vfu_device_quiesce_cb_t`.
pub type QuiesceFn = unsafe extern "C" fn(*mut Ctx) -> c_int;
/// `vfu_reset_cb_t`.
pub type ResetFn = unsafe extern "C" fn(*mut Ctx, c_int) -> c_int;
/// `vfu_dma_register_cb_t` and `vfu_dma_unregister_cb_t`.
pub type DmaFn = unsafe extern "C" fn(*mut Ctx, *mut DmaInfo);
/// `vfu_dev_irq_state_cb_t`.
pub type IrqStateFn = unsafe extern "C" fn(*mut Ctx, u32, u32, bool);
