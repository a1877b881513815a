//! DEVICE_GET_INFO and DEVICE_GET_REGION_INFO (specification, VFIO_USER_DEVICE_GET_INFO,
//! VFIO_USER_DEVICE_GET_REGION_INFO).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::raw::{len32, need, put, take};
use super::region_caps::{emit_chain, parse_chain};
use super::{Errno, RegionCapability, RegionFlags};

const DEVICE_SIZE: u32 = 16;
const REGION_SIZE: u32 = 32;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawDevice {
    argsz: U32,
    flags: U32,
    num_regions: U32,
    num_irqs: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRegion {
    argsz: U32,
    flags: U32,
    index: U32,
    cap_offset: U32,
    size: U64,
    offset: U64,
}

flags! {
    /// What a device is.
    pub struct DeviceFlags(u32) {
        /// DEVICE_RESET is supported.
        RESET = 1 << 0;
        /// It is a PCI device.
        PCI = 1 << 1;
    }
}

/// The request DEVICE_GET_INFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceInfoRequest {
    /// Largest reply payload that the sender can take, in bytes; at least 16.
    pub argsz: u32,
}

impl DeviceInfoRequest {
    /// The request with the `argsz` that its reply needs.
    pub fn new() -> DeviceInfoRequest {
        DeviceInfoRequest { argsz: DEVICE_SIZE }
    }

    /// Reads the payload. The fields that are the reply's are ignored.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`.
    pub fn parse(payload: &[u8]) -> Result<DeviceInfoRequest, Errno> {
        let (raw, _) = take::<RawDevice>(payload)?;
        need(raw.argsz.get(), DEVICE_SIZE.into())?;
        Ok(DeviceInfoRequest { argsz: raw.argsz.get() })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let zero = U32::ZERO;
        put(
            out,
            &RawDevice { argsz: self.argsz.into(), flags: zero, num_regions: zero, num_irqs: zero },
        );
    }
}

impl Default for DeviceInfoRequest {
    fn default() -> Self {
        DeviceInfoRequest::new()
    }
}

/// The reply to DEVICE_GET_INFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// What the device is.
    pub flags: DeviceFlags,
    /// Number of regions; at least 9 for PCI.
    pub num_regions: u32,
    /// Number of interrupt types; 5 for PCI.
    pub num_irqs: u32,
}

impl DeviceInfo {
    /// Reads the payload. The numbers are those of the peer: bound them before use.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`.
    pub fn parse(payload: &[u8]) -> Result<DeviceInfo, Errno> {
        let (raw, _) = take::<RawDevice>(payload)?;
        need(raw.argsz.get(), DEVICE_SIZE.into())?;
        Ok(DeviceInfo {
            flags: DeviceFlags::from_bits_retain(raw.flags.get()),
            num_regions: raw.num_regions.get(),
            num_irqs: raw.num_irqs.get(),
        })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put(
            out,
            &RawDevice {
                argsz: DEVICE_SIZE.into(),
                flags: self.flags.bits().into(),
                num_regions: self.num_regions.into(),
                num_irqs: self.num_irqs.into(),
            },
        );
    }
}

/// The request DEVICE_GET_REGION_INFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionInfoRequest {
    /// Largest reply payload that the sender can take, in bytes; at least 32.
    pub argsz: u32,
    /// Index of the region.
    pub index: u32,
}

impl RegionInfoRequest {
    /// Smallest `argsz`: room for a reply without capabilities.
    pub const MIN_ARGSZ: u32 = REGION_SIZE;

    /// Reads the payload. The fields that are the reply's are ignored.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`.
    pub fn parse(payload: &[u8]) -> Result<RegionInfoRequest, Errno> {
        let (raw, _) = take::<RawRegion>(payload)?;
        need(raw.argsz.get(), REGION_SIZE.into())?;
        Ok(RegionInfoRequest { argsz: raw.argsz.get(), index: raw.index.get() })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put(
            out,
            &RawRegion {
                argsz: self.argsz.into(),
                flags: U32::ZERO,
                index: self.index.into(),
                cap_offset: U32::ZERO,
                size: U64::ZERO,
                offset: U64::ZERO,
            },
        );
    }
}

/// The reply to DEVICE_GET_REGION_INFO.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegionInfo {
    /// What can be done with the region; never with [`RegionFlags::CAPS`].
    pub flags: RegionFlags,
    /// The request's value.
    pub index: u32,
    /// Size in bytes; 0 if the region is not there.
    pub size: u64,
    /// Where the region starts in the fd of the message, in bytes.
    pub offset: u64,
    /// Capabilities that we know.
    pub capabilities: Vec<RegionCapability>,
    /// Set in a reply that left its capabilities and fds out because the `argsz` of the request was
    /// too small: the `argsz` to ask again with. It is the claim of the peer: bound it before use.
    pub needed_argsz: Option<u32>,
}

impl RegionInfo {
    /// Size of the payload with all capabilities, in bytes.
    pub fn full_size(&self) -> u32 {
        let caps = self.capabilities.iter().map(RegionCapability::size).sum();
        len32(caps).saturating_add(REGION_SIZE)
    }

    /// Reads the payload. Whether the areas lie in the region is still to be checked.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a short payload or `argsz`, and for a broken chain of capabilities.
    pub fn parse(payload: &[u8]) -> Result<RegionInfo, Errno> {
        let (raw, _) = take::<RawRegion>(payload)?;
        let argsz = raw.argsz.get();
        need(argsz, REGION_SIZE.into())?;
        let flags = RegionFlags::from_bits_retain(raw.flags.get());
        let has_caps = flags.contains(RegionFlags::CAPS);
        let capabilities = if has_caps {
            parse_chain(payload, REGION_SIZE as usize, raw.cap_offset.get())?
        } else {
            Vec::new()
        };
        let is_cut = !has_caps && argsz > len32(payload.len());
        Ok(RegionInfo {
            flags: flags.without(RegionFlags::CAPS),
            index: raw.index.get(),
            size: raw.size.get(),
            offset: raw.offset.get(),
            capabilities,
            needed_argsz: is_cut.then_some(argsz),
        })
    }

    /// Appends the payload with all capabilities; without them if `needed_argsz` is set.
    pub fn emit(&self, out: &mut Vec<u8>) {
        self.emit_for(u32::MAX, out);
    }

    /// Appends the payload for a request with this `argsz`. If that is too small for the
    /// capabilities, only the fixed 32 bytes are sent, and the client asks again with more.
    ///
    /// Returns true if the reply is complete. Only then may it carry the region's fds.
    pub fn emit_for(&self, argsz: u32, out: &mut Vec<u8>) -> bool {
        let full_size = self.needed_argsz.unwrap_or_else(|| self.full_size());
        let is_complete = argsz >= full_size && self.needed_argsz.is_none();
        let with_caps = is_complete && !self.capabilities.is_empty();
        let flags = self.flags.without(RegionFlags::CAPS);
        let flags = if with_caps { flags | RegionFlags::CAPS } else { flags };
        put(
            out,
            &RawRegion {
                argsz: full_size.into(),
                flags: flags.bits().into(),
                index: self.index.into(),
                cap_offset: if with_caps { REGION_SIZE } else { 0 }.into(),
                size: self.size.into(),
                offset: self.offset.into(),
            },
        );
        if with_caps {
            emit_chain(&self.capabilities, REGION_SIZE as usize, out);
        }
        is_complete
    }
}
