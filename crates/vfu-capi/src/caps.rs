//! PCI capabilities: where they are, and what the client may write of them.

use std::ffi::{c_int, c_void};

use crate::config::{CAP_POINTER, CONVENTIONAL, Config, HEADER, PciType};
use crate::ctx::{Context, context};
use crate::errno::{EINVAL, ENOENT, ENOSPC, ENOTSUP, EPERM, entry};
use crate::log::ERR;
use crate::setup::{CONFIG, Setup};
use crate::types::Ctx;

const FLAG_EXTENDED: c_int = 1 << 0;
const FLAG_CALLBACK: c_int = 1 << 1;
const FLAG_READONLY: c_int = 1 << 2;

/// Capabilities of each of the two lists.
const MOST: usize = 128;

/// Device Control of the PCI Express capability, from its start.
const DEVICE_CONTROL: usize = 0x08;
/// Device Capabilities: Function Level Reset Capability.
const FLR_CAPABLE: u32 = 1 << 28;
/// Device Control: Initiate Function Level Reset.
const INITIATE_FLR: u16 = 1 << 15;
/// Message Control of MSI-X: Function Mask and Enable.
const MSIX_CONTROL: u8 = 0xc0;

/// A capability of the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capability {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) size: usize,
    flags: c_int,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pm,
    Msi,
    Msix,
    Express,
    Vendor,
    Serial,
    ExtendedVendor,
}

/// What a write to a capability comes to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The library has done it, or will: see [`Capability::apply`].
    Own,
    /// The program's callback for configuration space decides.
    Callback,
    /// It is done, and starts a function level reset.
    Reset,
}

impl Kind {
    /// What the data that a program gave is, and its size in bytes.
    ///
    /// # Safety
    /// `data` holds a capability as the header describes it.
    unsafe fn of(data: *const u8, extended: bool) -> Result<(Kind, usize), c_int> {
        // SAFETY: the caller vouches for a whole capability, which has at least these bytes.
        let byte = |at: usize| unsafe { data.add(at).read() };
        // SAFETY (of the calls below): only fields that the kind has are read.
        if extended {
            return match u16::from_le_bytes([byte(0), byte(1)]) {
                0x03 => Ok((Kind::Serial, 12)),
                0x0b => {
                    let len = usize::from(u16::from_le_bytes([byte(6), byte(7)]) >> 4);
                    Ok((Kind::ExtendedVendor, len))
                }
                _ => Err(ENOTSUP),
            };
        }
        match byte(0) {
            0x01 => Ok((Kind::Pm, 8)),
            0x05 => Ok((Kind::Msi, 24)),
            0x09 => Ok((Kind::Vendor, usize::from(byte(2)))),
            0x10 => Ok((Kind::Express, 60)),
            0x11 => Ok((Kind::Msix, 12)),
            _ => Err(ENOTSUP),
        }
    }

    /// Bytes that the client may never write.
    fn header(self) -> usize {
        match self {
            Kind::Vendor => 3,
            Kind::Serial => 4,
            Kind::ExtendedVendor => 8,
            Kind::Pm | Kind::Msi | Kind::Msix | Kind::Express => 2,
        }
    }
}

impl Capability {
    pub(crate) fn end(&self) -> usize {
        self.start + self.size
    }

    fn is_extended(&self) -> bool {
        self.flags & FLAG_EXTENDED != 0
    }

    /// Whether accesses go to the program's callback.
    pub(crate) fn has_callback(&self) -> bool {
        self.flags & FLAG_CALLBACK != 0
    }

    /// Judges a write of `data`, which lies in the capability, from `offset` of configuration space.
    pub(crate) fn judge(
        &self,
        config: &Config,
        offset: usize,
        data: &[u8],
    ) -> Result<Effect, c_int> {
        if self.flags & FLAG_READONLY != 0 {
            return Err(EPERM);
        }
        if self.has_callback() {
            return Ok(Effect::Callback);
        }
        let at = offset - self.start;
        if at < self.kind.header() {
            return Err(EPERM);
        }
        match self.kind {
            Kind::Pm => match (at, data.len()) {
                (2, 2) | (6 | 7, 1) => Err(ENOTSUP),
                (4, 2) => Ok(Effect::Own),
                _ => Err(EINVAL),
            },
            Kind::Msi => {
                let control = self.after(config, 2, at, data);
                let (enabled, capable) = (control >> 4 & 7, control_of(config, self) >> 1 & 7);
                if enabled > 5 || enabled > capable { Err(EINVAL) } else { Ok(Effect::Own) }
            }
            Kind::Msix | Kind::Vendor | Kind::ExtendedVendor => Ok(Effect::Own),
            Kind::Serial => Err(EPERM),
            Kind::Express => self.judge_express(config, at, data),
        }
    }

    fn judge_express(&self, config: &Config, at: usize, data: &[u8]) -> Result<Effect, c_int> {
        let Ok(value) = <[u8; 2]>::try_from(data).map(u16::from_le_bytes) else {
            return Err(EINVAL);
        };
        match at {
            DEVICE_CONTROL if value & INITIATE_FLR != 0 => {
                let capable = config.get_u32(self.start + 4) & FLR_CAPABLE != 0;
                if capable { Ok(Effect::Reset) } else { Err(EINVAL) }
            }
            DEVICE_CONTROL | 0x10 | 0x18 | 0x1c | 0x28 | 0x30 | 0x38 => Ok(Effect::Own),
            _ => Err(EINVAL),
        }
    }

    /// Does a write that was judged good.
    pub(crate) fn apply(&self, config: &Config, offset: usize, data: &[u8]) {
        let at = offset - self.start;
        for (at, &value) in (at..).zip(data) {
            let mask = match (self.kind, at) {
                (Kind::Pm | Kind::Vendor | Kind::ExtendedVendor, _) => 0xff,
                // Enable and Multiple Message Enable; addresses end in two zeros; data; mask bits.
                (Kind::Msi, 2) => 0x71,
                (Kind::Msi, 4) => 0xfc,
                (Kind::Msi, 5..14 | 16..20) => 0xff,
                (Kind::Msix, 3) => MSIX_CONTROL,
                // Initiate FLR reads as 0.
                (Kind::Express, 0x09) => 0x7f,
                (Kind::Express, 0x08 | 0x28 | 0x29 | 0x30 | 0x31) => 0xff,
                _ => 0,
            };
            config.set_masked(self.start + at, value, mask);
        }
    }

    /// The 16-bit register at `register` as it would be after a write at `at`.
    fn after(&self, config: &Config, register: usize, at: usize, data: &[u8]) -> u16 {
        let byte = |i: usize| {
            let written = i.checked_sub(at).and_then(|n| data.get(n)).copied();
            written.unwrap_or_else(|| config.get(self.start + i))
        };
        u16::from_le_bytes([byte(register), byte(register + 1)])
    }
}

fn control_of(config: &Config, cap: &Capability) -> u16 {
    config.get_u16(cap.start + 2)
}

impl Setup {
    /// The first capability that has bytes of `offset..end`.
    pub(crate) fn capability_in(&self, offset: usize, end: usize) -> Option<Capability> {
        let overlaps = |cap: &&Capability| cap.start < end && offset < cap.end();
        self.caps.iter().filter(overlaps).min_by_key(|cap| cap.start).copied()
    }

    /// Where Device Control is, if there is a PCI Express capability.
    pub(crate) fn device_control(&self) -> Option<usize> {
        let express = self.caps.iter().find(|cap| cap.kind == Kind::Express)?;
        Some(express.start + DEVICE_CONTROL)
    }

    /// Finds a place for a capability: `start`, or the next free one, and what has to point there.
    fn place(&self, extended: bool, start: usize, size: usize) -> Placed {
        let first = if extended { CONVENTIONAL } else { HEADER };
        let mut last: Option<Capability> = None;
        // The order of the list is that of the calls.
        for cap in self.caps.iter().filter(|cap| cap.is_extended() == extended) {
            last = Some(*cap);
        }
        let limit = if extended { 4096 } else { CONVENTIONAL };
        let limit = limit.min(self.regions[CONFIG].size as usize);
        let start = match (start, &last) {
            (0, None) => first,
            (0, Some(last)) => last.end().next_multiple_of(4),
            (start, _) => start,
        };
        if start < first || start % 4 != 0 || self.capability_in(start, start + size).is_some() {
            return Err(EINVAL);
        }
        if extended && last.is_none() && start != first {
            return Err(EINVAL);
        }
        if start + size > limit {
            return Err(ENOSPC);
        }
        Ok((start, last))
    }
}

/// Where a capability goes, and the one before it in the list.
type Placed = Result<(usize, Option<Capability>), c_int>;

/// Adds a capability; gives its offset.
///
/// # Safety
/// As the header says: `data` holds a whole capability.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_pci_add_capability(
    ctx: *mut Ctx,
    position: usize,
    flags: c_int,
    data: *mut c_void,
) -> isize {
    entry(-1, || {
        let ctx = context!(ctx);
        let data = data.cast_const().cast::<u8>();
        let mut setup = ctx.setup();
        if flags & !(FLAG_EXTENDED | FLAG_CALLBACK | FLAG_READONLY) != 0
            || (flags & FLAG_CALLBACK != 0 && setup.regions[CONFIG].access.is_none())
            || data.is_null()
            || !ctx.config.exists()
        {
            return Err(EINVAL);
        }
        let extended = flags & FLAG_EXTENDED != 0;
        if extended && setup.pci_type != Some(PciType::Extended) {
            return Err(EINVAL);
        }
        if setup.caps.iter().filter(|cap| cap.is_extended() == extended).count() >= MOST {
            return Err(ENOSPC);
        }
        // SAFETY: the program vouches for a whole capability.
        let (kind, size) = unsafe { Kind::of(data, extended) }?;
        let space = setup.regions[CONFIG].size as usize;
        if size < kind.header() || position.checked_add(size).is_none_or(|end| end > space) {
            drop(setup);
            ctx.log(ERR, format_args!("capability at {position:#x}: no room, or too short"));
            return Err(EINVAL);
        }
        let (start, before) = setup.place(extended, position, size)?;
        // SAFETY: the program vouches for `size` bytes: it is what the capability itself says.
        let bytes = unsafe { std::slice::from_raw_parts(data, size) };
        ctx.config.write(start, bytes);
        if extended {
            // The upper 12 bits of the second half are the next one's offset.
            ctx.config.set_masked(start + 2, 0, 0xf0);
            ctx.config.set(start + 3, 0);
            if let Some(before) = before {
                ctx.config.set_masked(before.start + 2, (start << 4) as u8, 0xf0);
                ctx.config.set(before.start + 3, (start >> 4) as u8);
            }
        } else {
            ctx.config.set(start + 1, 0);
            let pointer = before.map_or(CAP_POINTER, |before| before.start + 1);
            ctx.config.set(pointer, start as u8);
        }
        setup.caps.push(Capability { kind, start, size, flags });
        if setup.realized {
            ctx.show_capabilities();
        }
        Ok(start as isize)
    })
}

/// Where the first capability of this kind is; 0 if there is none.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_pci_find_capability(
    ctx: *mut Ctx,
    extended: bool,
    id: c_int,
) -> usize {
    // SAFETY: the caller's promise is the same.
    unsafe { vfu_pci_find_next_capability(ctx, extended, 0, id) }
}

/// Where the next capability of this kind behind `position` is; 0 if there is none.
///
/// # Safety
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfu_pci_find_next_capability(
    ctx: *mut Ctx,
    extended: bool,
    position: usize,
    id: c_int,
) -> usize {
    entry(0, || {
        let ctx = context!(ctx);
        let size = ctx.setup().regions[CONFIG].size as usize;
        if !ctx.config.exists() {
            return Err(EINVAL);
        }
        if extended {
            find_extended(ctx, size, position, id)
        } else {
            find(ctx, size, position, id)
        }
    })
}

/// No list is longer, unless it goes round in circles.
const HOPS: usize = 4096 / 4;

fn find(ctx: &Context, size: usize, position: usize, id: c_int) -> Result<usize, c_int> {
    let inside = |at: usize| at.checked_add(1).is_some_and(|last| last < size);
    if !inside(position) {
        return Err(EINVAL);
    }
    let mut at = match position {
        0 => ctx.config.get(CAP_POINTER),
        position => ctx.config.get(position + 1),
    } as usize;
    for _ in 0..HOPS {
        if at == 0 {
            return Err(ENOENT);
        }
        if !inside(at) {
            return Err(EINVAL);
        }
        if c_int::from(ctx.config.get(at)) == id {
            return Ok(at);
        }
        at = ctx.config.get(at + 1) as usize;
    }
    Err(EINVAL)
}

fn find_extended(ctx: &Context, size: usize, position: usize, id: c_int) -> Result<usize, c_int> {
    let inside = |at: usize| at.checked_add(4).is_some_and(|end| end < size);
    let next = |at: usize| (ctx.config.get_u32(at) >> 20) as usize;
    if !inside(position) {
        return Err(EINVAL);
    }
    let mut at = if position == 0 { CONVENTIONAL } else { next(position) };
    for _ in 0..HOPS {
        if at == 0 {
            return Err(ENOENT);
        }
        if !inside(at) {
            return Err(EINVAL);
        }
        if c_int::from(ctx.config.get_u16(at)) == id {
            return Ok(at);
        }
        at = next(at);
    }
    Err(EINVAL)
}
