//! Functions that are still to be written.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

use crate::types::*;

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_create_ctx(
    _trans: c_int,
    _path: *const c_char,
    _flags: c_int,
    _pvt: *mut c_void,
    _dev_type: c_int,
) -> *mut Ctx {
    null_mut()
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_realize_ctx(_ctx: *mut Ctx) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_attach_ctx(_ctx: *mut Ctx) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_get_poll_fd(_ctx: *mut Ctx) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_run_ctx(_ctx: *mut Ctx) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_destroy_ctx(_ctx: *mut Ctx) {}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_get_private(_ctx: *mut Ctx) -> *mut c_void {
    null_mut()
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_setup_log(_ctx: *mut Ctx, _log: Option<LogFn>, _level: c_int) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_setup_region(
    _ctx: *mut Ctx,
    _region: c_int,
    _size: usize,
    _access: Option<AccessFn>,
    _flags: c_int,
    _areas: *mut IoVec,
    _nr_areas: u32,
    _fd: c_int,
    _offset: u64,
) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_setup_device_quiesce_cb(_ctx: *mut Ctx, _quiesce: Option<QuiesceFn>) {}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_device_quiesced(_ctx: *mut Ctx, _quiesce_errno: c_int) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_setup_device_reset_cb(_ctx: *mut Ctx, _reset: Option<ResetFn>) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_setup_device_dma(
    _ctx: *mut Ctx,
    _max_regions: usize,
    _register: Option<DmaFn>,
    _unregister: Option<DmaFn>,
) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_setup_device_nr_irqs(_ctx: *mut Ctx, _index: c_int, _count: u32) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_setup_irq_state_callback(
    _ctx: *mut Ctx,
    _index: c_int,
    _callback: Option<IrqStateFn>,
) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_setup_device_migration_callbacks(
    _ctx: *mut Ctx,
    _callbacks: *const MigrationCallbacks,
) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_irq_trigger(_ctx: *mut Ctx, _vector: u32) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn dma_sg_size() -> usize {
    40
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_addr_to_sgl(
    _ctx: *mut Ctx,
    _address: *mut c_void,
    _len: usize,
    _sgl: *mut Sg,
    _max: usize,
    _prot: c_int,
) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_sgl_get(
    _ctx: *mut Ctx,
    _sgl: *mut Sg,
    _iov: *mut IoVec,
    _count: usize,
    _flags: c_int,
) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_sgl_mark_dirty(_ctx: *mut Ctx, _sgl: *mut Sg, _count: usize) {}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_sgl_put(_ctx: *mut Ctx, _sgl: *mut Sg, _iov: *mut IoVec, _count: usize) {}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_sgl_read(
    _ctx: *mut Ctx,
    _sgl: *mut Sg,
    _count: usize,
    _data: *mut c_void,
    _flags: c_int,
) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_sgl_write(
    _ctx: *mut Ctx,
    _sgl: *mut Sg,
    _count: usize,
    _data: *mut c_void,
    _flags: c_int,
) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_sg_is_mappable(_ctx: *mut Ctx, _sg: *mut Sg) -> bool {
    false
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_pci_init(
    _ctx: *mut Ctx,
    _pci_type: c_int,
    _header_type: c_int,
    _revision: c_int,
) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_pci_set_id(
    _ctx: *mut Ctx,
    _vendor: u16,
    _device: u16,
    _subsystem_vendor: u16,
    _subsystem: u16,
) {
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_pci_set_class(_ctx: *mut Ctx, _base: u8, _sub: u8, _interface: u8) {}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_pci_get_config_space(_ctx: *mut Ctx) -> *mut c_void {
    null_mut()
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_pci_add_capability(
    _ctx: *mut Ctx,
    _position: usize,
    _flags: c_int,
    _data: *mut c_void,
) -> isize {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_pci_find_capability(_ctx: *mut Ctx, _extended: bool, _id: c_int) -> usize {
    0
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_pci_find_next_capability(
    _ctx: *mut Ctx,
    _extended: bool,
    _position: usize,
    _id: c_int,
) -> usize {
    0
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_create_ioeventfd(
    _ctx: *mut Ctx,
    _region: u32,
    _fd: c_int,
    _offset: usize,
    _size: u32,
    _flags: u32,
    _datamatch: u64,
    _shadow_fd: c_int,
    _shadow_offset: usize,
) -> c_int {
    -1
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_rs_log_enabled(_ctx: *mut Ctx, _level: c_int) -> c_int {
    0
}

/// Not there yet.
#[unsafe(no_mangle)]
pub extern "C" fn vfu_rs_log_text(_ctx: *mut Ctx, _level: c_int, _text: *const c_char) {}
