//! Configuration space: memory of the library that the program reads and writes, too, at any time.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::ctx::{Context, context};
use crate::errno::{EEXIST, EINVAL, entry, quiet};
use crate::setup::{BARS, FLAG_64_BITS, FLAG_MEM, ROM, Setup};
use crate::types::Ctx;

/// Bytes of the standard header.
pub(crate) const HEADER: usize = 0x40;
/// Bytes before the extended capabilities.
pub(crate) const CONVENTIONAL: usize = 0x100;
/// Bytes that are kept, whatever the type.
const BYTES: usize = 0x1000;

pub(crate) const COMMAND: usize = 0x04;
pub(crate) const STATUS: usize = 0x06;
pub(crate) const BAR0: usize = 0x10;
const ROM_BAR: usize = 0x30;
/// The first capability.
pub(crate) const CAP_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
pub(crate) const INTERRUPT_PIN: usize = 0x3d;

/// Status bit: there are capabilities.
pub(crate) const STATUS_CAPS: u16 = 1 << 4;

/// `vfu_pci_type_t`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PciType {
    Conventional,
    Extended,
}

impl PciType {
    pub(crate) fn config_size(self) -> u64 {
        match self {
            PciType::Conventional => CONVENTIONAL as u64,
            PciType::Extended => BYTES as u64,
        }
    }
}

/// The memory of configuration space, once there is any. The program has its address for good.
#[derive(Default)]
pub(crate) struct Config(OnceLock<Bytes>);

struct Bytes(NonNull<[u8; BYTES]>);

// SAFETY: plain bytes on the heap, owned by `Bytes`; the program may write them at any time, so they
// are reached by volatile accesses only, never through a reference.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: it came from `Box::leak`, and goes now with its context.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Config {
    /// Makes it, if it is not there yet: all zeros.
    pub(crate) fn make(&self) {
        self.0.get_or_init(|| Bytes(NonNull::from(Box::leak(Box::new([0; BYTES])))));
    }

    pub(crate) fn exists(&self) -> bool {
        self.0.get().is_some()
    }

    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.0.get().map_or(std::ptr::null_mut(), |bytes| bytes.0.as_ptr().cast())
    }

    fn at(&self, offset: usize) -> Option<NonNull<u8>> {
        let bytes = self.0.get().filter(|_| offset < BYTES)?;
        // SAFETY: within the array.
        Some(unsafe { bytes.0.cast::<u8>().add(offset) })
    }

    /// A byte; 0 where there is none.
    pub(crate) fn get(&self, offset: usize) -> u8 {
        // SAFETY: `at` gives places in the array, which lives as long as `self`.
        self.at(offset).map_or(0, |at| unsafe { at.read_volatile() })
    }

    pub(crate) fn set(&self, offset: usize, value: u8) {
        if let Some(at) = self.at(offset) {
            // SAFETY: as in `get`.
            unsafe { at.write_volatile(value) };
        }
    }

    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) {
        for (i, byte) in to.iter_mut().enumerate() {
            *byte = self.get(offset.saturating_add(i));
        }
    }

    pub(crate) fn write(&self, offset: usize, from: &[u8]) {
        for (i, byte) in from.iter().enumerate() {
            self.set(offset.saturating_add(i), *byte);
        }
    }

    pub(crate) fn get_u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.get(offset), self.get(offset + 1)])
    }

    pub(crate) fn set_u16(&self, offset: usize, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn get_u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Takes those bits of `value` that are in `mask`.
    pub(crate) fn set_masked(&self, offset: usize, value: u8, mask: u8) {
        self.set(offset, self.get(offset) & !mask | value & mask);
    }
}

/// What the client may write of the standard header, byte by byte as PCI has it: what is read-only
/// stays as it is, and no write is an error.
pub(crate) fn write_header(config: &Config, setup: &Setup, offset: usize, data: &[u8]) {
    for (at, &value) in (offset..HEADER).zip(data) {
        match at {
            // I/O, memory, bus master, invalidate, palette, parity; SERR, INTx disable.
            COMMAND => config.set_masked(at, value, 0b0101_0111),
            0x05 => config.set_masked(at, value, 0b0000_0101),
            // Errors are cleared by writing ones.
            0x07 => config.set(at, config.get(at) & !(value & 0b1111_1001)),
            // Cache line size, latency timer.
            0x0c | 0x0d | INTERRUPT_LINE => config.set(at, value),
            BAR0..0x28 => {
                let byte = (at % 4) as u32 * 8;
                let mask = bar_mask(setup, (at - BAR0) / 4) >> byte;
                config.set_masked(at, value, mask as u8);
            }
            ROM_BAR..CAP_POINTER => {
                let size = setup.regions[ROM].size;
                let mask = if size == 0 { 0 } else { address_mask(size) & !0x7fe | 1 };
                config.set_masked(at, value, (mask >> ((at % 4) * 8)) as u8);
            }
            _ => {}
        }
    }
}

/// The address bits of a BAR's register that can be written.
fn bar_mask(setup: &Setup, bar: usize) -> u32 {
    let region = &setup.regions[bar.min(BARS - 1)];
    if bar % 2 == 1 && setup.regions[bar - 1].flags & FLAG_64_BITS != 0 {
        // The upper half.
        return match setup.regions[bar - 1].size {
            0 => 0,
            size => (!(size - 1) >> 32) as u32,
        };
    }
    if region.size == 0 {
        return 0;
    }
    let flags = if region.flags & FLAG_MEM != 0 { 0xf } else { 0x3 };
    address_mask(region.size) & !flags
}

fn address_mask(size: u64) -> u32 {
    !(size - 1) as u32
}

/// Describes the device as a PCI function.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_pci_init(
    ctx: *mut Ctx,
    pci_type: c_int,
    header_type: c_int,
    _revision: c_int,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let pci_type = match pci_type {
            0 | 1 => PciType::Conventional,
            2 | 3 => PciType::Extended,
            _ => return Err(EINVAL),
        };
        if header_type != 0 {
            return Err(EINVAL);
        }
        let mut setup = ctx.setup();
        if ctx.config.exists() {
            return Err(EEXIST);
        }
        ctx.config.make();
        setup.pci_type = Some(pci_type);
        setup.init_config(pci_type.config_size());
        Ok(0)
    })
}

/// Sets the ids of the function.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_pci_set_id(
    ctx: *mut Ctx,
    vendor: u16,
    device: u16,
    subsystem_vendor: u16,
    subsystem: u16,
) {
    quiet(|| {
        // SAFETY: the program passes what vfu_create_ctx gave it, or NULL.
        if let Some(ctx) = unsafe { Context::of(ctx) } {
            ctx.config.set_u16(0x00, vendor);
            ctx.config.set_u16(0x02, device);
            ctx.config.set_u16(0x2c, subsystem_vendor);
            ctx.config.set_u16(0x2e, subsystem);
        }
    });
}

/// Sets the class code of the function.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_pci_set_class(ctx: *mut Ctx, base: u8, sub: u8, interface: u8) {
    quiet(|| {
        // SAFETY: the program passes what vfu_create_ctx gave it, or NULL.
        if let Some(ctx) = unsafe { Context::of(ctx) } {
            ctx.config.write(0x09, &[interface, sub, base]);
        }
    });
}

/// The memory of configuration space; null before vfu_pci_init and vfu_realize_ctx.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_pci_get_config_space(ctx: *mut Ctx) -> *mut c_void {
    entry(std::ptr::null_mut(), || Ok(context!(ctx).config.as_ptr()))
}
