//! What a program says of its device.

use std::ffi::c_int;

use crate::caps::Capability;
use crate::config::{BAR0, PciType};
use crate::ctx::{Context, context};
use crate::errno::{EINVAL, entry, quiet};
use crate::log::{ERR, WARNING};
use crate::old::is_code;
use crate::types::{
    AccessFn, Ctx, DmaFn, IoVec, IrqStateFn, MigrationCallbacks, QuiesceFn, ResetFn,
};
use vfu::wire::DeviceState;

pub(crate) const REGIONS: usize = 9;
pub(crate) const BARS: usize = 6;
pub(crate) const ROM: usize = 6;
pub(crate) const CONFIG: usize = 7;

pub(crate) const FLAG_READ: u32 = 1 << 0;
pub(crate) const FLAG_WRITE: u32 = 1 << 1;
pub(crate) const FLAG_MEM: u32 = 1 << 2;
pub(crate) const FLAG_ALWAYS_CB: u32 = 1 << 3;
pub(crate) const FLAG_64_BITS: u32 = 1 << 4;
pub(crate) const FLAG_PREFETCH: u32 = 1 << 5;
const FLAGS_KNOWN: u32 = (1 << 6) - 1;

/// Index types: INTx, MSI, MSI-X, ERR, REQ.
pub(crate) const IRQ_TYPES: usize = 5;

/// `LIBVFIO_USER_MAX_DMA_REGIONS`.
const MAX_DMA_REGIONS: usize = 1000 * 1000;
/// `VFU_MIGR_CALLBACKS_VERS`.
const MIGRATION_VERSION: c_int = 2;

/// All that a program has said.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) realized: bool,
    pub(crate) pci_type: Option<PciType>,
    pub(crate) regions: [Region; REGIONS],
    pub(crate) caps: Vec<Capability>,
    pub(crate) irq_counts: IrqCounts,
    pub(crate) irq_state: [Option<IrqStateFn>; IRQ_TYPES],
    pub(crate) quiesce: Option<QuiesceFn>,
    pub(crate) reset: Option<ResetFn>,
    pub(crate) dma: Option<Dma>,
    pub(crate) migration: Option<Migration>,
}

/// How many vectors each type has. A device has one ERR and one REQ unless it says otherwise.
#[derive(Clone, Copy)]
pub(crate) struct IrqCounts(pub(crate) [u32; IRQ_TYPES]);

impl Default for IrqCounts {
    fn default() -> Self {
        IrqCounts([0, 0, 0, 1, 1])
    }
}

/// One region of the device.
pub(crate) struct Region {
    pub(crate) size: u64,
    pub(crate) flags: u32,
    pub(crate) access: Option<AccessFn>,
    /// What the client may map: offsets and sizes in bytes.
    pub(crate) areas: Vec<(u64, u64)>,
    /// The program's, or -1.
    pub(crate) fd: c_int,
    pub(crate) offset: u64,
    /// Oldest first.
    pub(crate) ioeventfds: Vec<IoEvent>,
}

impl Default for Region {
    fn default() -> Self {
        let (access, areas, ioeventfds) = (None, Vec::new(), Vec::new());
        Region { size: 0, flags: 0, access, areas, fd: -1, offset: 0, ioeventfds }
    }
}

/// An eventfd that stands for writes.
#[derive(Clone, Copy)]
pub(crate) struct IoEvent {
    pub(crate) fd: c_int,
    pub(crate) offset: u64,
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) datamatch: u64,
    pub(crate) shadow_fd: c_int,
    pub(crate) shadow_offset: u64,
}

/// The client's memory is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Dma {
    pub(crate) max_regions: usize,
    pub(crate) register: Option<DmaFn>,
    pub(crate) unregister: Option<DmaFn>,
    /// The program was built for the interface without flags in vfu_sgl_read and vfu_sgl_write.
    pub(crate) is_old: bool,
}

/// The device can be moved.
#[derive(Clone, Copy)]
pub(crate) struct Migration {
    pub(crate) callbacks: MigrationCallbacks,
    pub(crate) state: DeviceState,
}

/// Describes a region; see the header.
///
/// # Safety
/// As the header says: `areas` holds `nr_areas` of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_setup_region(
    ctx: *mut Ctx,
    region: c_int,
    size: usize,
    access: Option<AccessFn>,
    flags: c_int,
    areas: *mut IoVec,
    nr_areas: u32,
    fd: c_int,
    offset: u64,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let flags = flags as u32;
        let bad = |why: &str| {
            ctx.log(ERR, format_args!("vfu_setup_region: region {region}: {why}"));
            EINVAL
        };
        if flags & !FLAGS_KNOWN != 0 || flags & (FLAG_READ | FLAG_WRITE) == 0 {
            return Err(bad("flags that do not exist, or neither READ nor WRITE"));
        }
        if flags & FLAG_ALWAYS_CB != 0 && access.is_none() {
            return Err(bad("ALWAYS_CB needs a callback"));
        }
        if areas.is_null() != (nr_areas == 0) || (!areas.is_null() && fd == -1) {
            return Err(bad("areas need a number of them and a file descriptor"));
        }
        let index = usize::try_from(region).ok().filter(|i| *i < REGIONS);
        let index = index.ok_or_else(|| bad("there is none of that number"))?;
        let areas = if areas.is_null() {
            &[][..]
        } else {
            // SAFETY: the program says that so many are there; it is not null.
            unsafe { std::slice::from_raw_parts(areas, nr_areas as usize) }
        };
        let mut list = Vec::with_capacity(areas.len().max(1));
        for area in areas {
            let (start, len) = (area.base as u64, area.len as u64);
            if start.checked_add(len).is_none_or(|end| end > size as u64) {
                return Err(bad("an area reaches beyond it"));
            }
            list.push((start, len));
        }
        if list.is_empty() && fd != -1 {
            list.push((0, size as u64));
        }
        let mut size = size as u64;
        let readable_and_writable = FLAG_READ | FLAG_WRITE;
        if index == CONFIG && flags & (readable_and_writable | FLAG_MEM) != readable_and_writable {
            return Err(bad("configuration space is readable, writable and no memory"));
        }
        // Not while anything is locked: what hears of it may call us.
        let misfit = (index < BARS).then(|| ctx.setup().check_bar(index, size, flags).err());
        if let Some(why) = misfit.flatten() {
            return Err(bad(why));
        }
        let mut setup = ctx.setup();
        if index == CONFIG {
            // Its size is what the standard says, as the header promises.
            size = size.min(setup.pci_type.map_or(4096, PciType::config_size));
        }
        let region = &mut setup.regions[index];
        *region = Region {
            size,
            flags,
            access,
            areas: list,
            fd,
            offset,
            ioeventfds: std::mem::take(&mut region.ioeventfds),
        };
        if setup.realized && index < BARS {
            ctx.config.set_masked(BAR0 + index * 4, setup.bar_type(index), 0x0f);
        }
        Ok(0)
    })
}

impl Setup {
    fn check_bar(&self, bar: usize, size: u64, flags: u32) -> Result<(), &'static str> {
        let least = if flags & FLAG_MEM != 0 { 16 } else { 4 };
        if size != 0 && (!size.is_power_of_two() || size < least) {
            return Err(
                "the size of a BAR is a power of two, at least 16 for memory and 4 for I/O",
            );
        }
        let wide = |index: usize| self.regions[index].flags & FLAG_64_BITS != 0;
        if bar % 2 == 1 && (flags & FLAG_64_BITS != 0 || wide(bar - 1)) {
            return Err("a BAR of 64 bits has an even number, and the next one is a part of it");
        }
        if bar % 2 == 0 && flags & FLAG_64_BITS != 0 && self.regions[bar + 1].size > 0 {
            return Err("a BAR of 64 bits needs the next one, which is there already");
        }
        Ok(())
    }
}

/// Sets what is called at a reset.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_setup_device_reset_cb(ctx: *mut Ctx, reset: Option<ResetFn>) -> c_int {
    entry(-1, || {
        context!(ctx).setup().reset = reset;
        Ok(0)
    })
}

/// Sets what is called before something changes under the device.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_setup_device_quiesce_cb(ctx: *mut Ctx, quiesce: Option<QuiesceFn>) {
    quiet(|| {
        // SAFETY: the program passes what vfu_create_ctx gave it, or NULL.
        if let Some(ctx) = unsafe { Context::of(ctx) } {
            ctx.setup().quiesce = quiesce;
        }
    });
}

/// The device wants to reach the client's memory.
///
/// An older interface of the same name has three arguments, of which the second is `register`: a
/// program that was built for that is served by its rules.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_setup_device_dma(
    ctx: *mut Ctx,
    max_regions: usize,
    register: Option<DmaFn>,
    unregister: Option<DmaFn>,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let dma = if max_regions == 0 {
            ctx.log(
                ERR,
                format_args!(
                    "vfu_setup_device_dma: 0 regions; pass LIBVFIO_USER_MAX_DMA_REGIONS. If the \
                     program passes callbacks only it was built for an older libvfio-user: build it \
                     with the header of this one"
                ),
            );
            return Err(EINVAL);
        } else if is_code(max_regions) {
            ctx.log(
                WARNING,
                format_args!(
                    "vfu_setup_device_dma: this program was built for the libvfio-user whose \
                     vfu_setup_device_dma has no max_regions; it is served as that would. Build it \
                     with the header of this library"
                ),
            );
            // SAFETY: the address of code, which the old interface passes in this place.
            let old_register = unsafe { std::mem::transmute::<usize, Option<DmaFn>>(max_regions) };
            Dma {
                max_regions: MAX_DMA_REGIONS,
                register: old_register,
                unregister: register,
                is_old: true,
            }
        } else {
            Dma { max_regions, register, unregister, is_old: false }
        };
        ctx.setup().dma = Some(dma);
        Ok(0)
    })
}

/// Sets how many vectors a type has.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_setup_device_nr_irqs(
    ctx: *mut Ctx,
    index: c_int,
    count: u32,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        let mut setup = ctx.setup();
        let index = irq_type(index)?;
        // More than any standard has, and few enough to keep a place for each.
        if count > 1 << 16 {
            return Err(EINVAL);
        }
        setup.irq_counts.0[index] = count;
        if setup.realized {
            ctx.irqs.resize(&setup.irq_counts);
        }
        Ok(0)
    })
}

/// Sets what is called when the client masks or unmasks vectors of a type.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_setup_irq_state_callback(
    ctx: *mut Ctx,
    index: c_int,
    callback: Option<IrqStateFn>,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        ctx.setup().irq_state[irq_type(index)?] = callback;
        Ok(0)
    })
}

pub(crate) fn irq_type(index: c_int) -> Result<usize, c_int> {
    usize::try_from(index).ok().filter(|i| *i < IRQ_TYPES).ok_or(EINVAL)
}

/// The device can be moved.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_setup_device_migration_callbacks(
    ctx: *mut Ctx,
    callbacks: *const MigrationCallbacks,
) -> c_int {
    entry(-1, || {
        let ctx = context!(ctx);
        // SAFETY: null, or the program's structure, whose layout is the header's.
        let callbacks = *unsafe { callbacks.as_ref() }.ok_or(EINVAL)?;
        let complete = callbacks.transition.is_some()
            && callbacks.read_data.is_some()
            && callbacks.write_data.is_some();
        if callbacks.version != MIGRATION_VERSION || !complete {
            ctx.log(
                ERR,
                format_args!(
                    "migration callbacks of version {}; only {MIGRATION_VERSION} is known, and \
                     needs all three of them",
                    callbacks.version
                ),
            );
            return Err(EINVAL);
        }
        ctx.setup().migration = Some(Migration { callbacks, state: DeviceState::Running });
        Ok(0)
    })
}
