//! What a probe finds: the structure that `--json` prints.
//!
//! It is a promise to scripts. Fields may be added; a change of what a field means, or its loss,
//! comes with a higher `format`. Sizes, offsets and addresses are in bytes; all numbers are JSON
//! integers, up to 64 bits. Sets of flags are lists of names. What the device does not have is
//! `null` where it is one thing, and left out of the list where there may be many.

use serde::Serialize;
use vfu::wire::Capabilities;

use super::extended::ExtendedDetail;

/// The number of this format.
pub(super) const FORMAT: u32 = 1;

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// [`FORMAT`].
    pub(super) format: u32,
    /// The path that was probed.
    pub(super) socket: String,
    /// What both sides agreed on.
    pub(super) session: Session,
    /// The reply to DEVICE_GET_INFO.
    pub(super) device: Device,
    /// How the device can be moved; `null` if it can't.
    pub(super) moving: Option<Moving>,
    /// The server can log which pages the device writes.
    pub(super) dma_logging: bool,
    /// The regions that the server names, those of size 0 included.
    pub(super) regions: Vec<Region>,
    /// The interrupt types that the server names, those without vectors included.
    pub(super) interrupts: Vec<Interrupt>,
    /// Configuration space, decoded. `null` if the server has none that can be read.
    pub(super) config: Option<Config>,
    /// What is wrong with the device's description, in words.
    pub(super) problems: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Moving {
    /// `stop_copy`, `pre_copy`, `p2p`.
    pub(super) ways: Vec<&'static str>,
    /// The migration state: `running`, or another.
    pub(super) state: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Session {
    /// Version of the protocol, `major.minor`.
    pub(super) version: String,
    /// The server's VERSION capabilities, by the names of the specification; only those it sent.
    pub(super) server: Capabilities,
    /// A second socket carries the server's commands.
    pub(super) twin_socket: bool,
    /// The most data in one message, the smaller of both sides' values.
    pub(super) max_transfer: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Device {
    /// The device says that it is a PCI device.
    pub(super) pci: bool,
    /// DEVICE_RESET is supported.
    pub(super) reset: bool,
    /// All the ways to reset it: of `device` (DEVICE_RESET), `flr`, `d3hot_to_d0`.
    pub(super) resets: Vec<&'static str>,
    pub(super) num_regions: u32,
    pub(super) num_irqs: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Region {
    /// VFIO's number.
    pub(super) index: u32,
    /// `BAR0` to `BAR5`, `ROM`, `config`, `VGA`, or `region<index>`.
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// What can be mapped of it through a file descriptor.
    pub(super) mmap: Option<Mmap>,
    /// Type and subtype of a device-specific region.
    pub(super) device_specific: Option<(u32, u32)>,
}

#[derive(Debug, Serialize)]
pub(super) struct Mmap {
    /// Where the region begins in the file.
    pub(super) file_offset: u64,
    /// The areas, from the region's start; one area over all of it if there is no sparse list.
    pub(super) areas: Vec<Area>,
}

#[derive(Debug, Serialize)]
pub(super) struct Area {
    pub(super) offset: u64,
    pub(super) size: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Interrupt {
    /// VFIO's number.
    pub(super) index: u32,
    /// `INTx`, `MSI`, `MSI-X`, `ERR` or `REQ`.
    pub(super) name: &'static str,
    /// How many vectors.
    pub(super) count: u32,
    /// Of `eventfd`, `maskable`, `automasked`, `noresize`.
    pub(super) flags: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct Config {
    /// 256 or 4096, as the server says.
    pub(super) size: usize,
    pub(super) vendor: u16,
    pub(super) device: u16,
    /// `null` in the header of a bridge.
    pub(super) subsystem: Option<Subsystem>,
    pub(super) revision: u8,
    pub(super) class: Class,
    /// Of `io`, `memory`, `bus_master`, `special_cycle`, `write_invalidate`, `vga_snoop`, `parity`,
    /// `serr`, `fast_back_to_back`, `intx_disable`.
    pub(super) command: Register,
    /// Of `interrupt`, `capabilities`, `66mhz`, `fast_back_to_back`, `master_parity_error`,
    /// `signaled_target_abort`, `received_target_abort`, `received_master_abort`,
    /// `signaled_system_error`, `parity_error`.
    pub(super) status: Register,
    /// The layout: 0 is a device, 1 a bridge.
    pub(super) header_type: u8,
    pub(super) multifunction: bool,
    pub(super) interrupt_line: u8,
    /// `A` to `D`.
    pub(super) interrupt_pin: Option<char>,
    pub(super) bars: Vec<Bar>,
    pub(super) rom: Option<Rom>,
    pub(super) capabilities: Vec<Capability>,
    pub(super) extended_capabilities: Vec<Extended>,
    /// All bytes, two hexadecimal digits each.
    #[serde(serialize_with = "as_hex")]
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug, Serialize)]
pub(super) struct Subsystem {
    pub(super) vendor: u16,
    pub(super) device: u16,
}

#[derive(Debug, Serialize)]
pub(super) struct Class {
    /// The three bytes: base class, sub-class, programming interface.
    pub(super) code: u32,
    pub(super) name: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Register {
    pub(super) value: u16,
    pub(super) flags: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BarKind {
    Io,
    Memory32,
    Memory64,
    /// A type that PCI reserves.
    Reserved,
}

#[derive(Debug, Serialize)]
pub(super) struct Bar {
    /// The first register; a 64-bit BAR takes the next one too.
    pub(super) index: u32,
    pub(super) kind: BarKind,
    pub(super) prefetchable: bool,
    /// What the register holds now; 0 is most often "not assigned".
    pub(super) address: u64,
    /// From DEVICE_GET_REGION_INFO: nothing is written to the device to find it.
    pub(super) size: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Rom {
    pub(super) address: u32,
    pub(super) enabled: bool,
    pub(super) size: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Capability {
    pub(super) offset: u8,
    pub(super) id: u8,
    /// `unknown` if it has no name here.
    pub(super) name: &'static str,
    #[serde(flatten)]
    pub(super) detail: Detail,
}

/// What a capability says, with the `kind` that tells its fields.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Detail {
    PowerManagement {
        version: u8,
        /// 0 to 3: D0 to D3hot.
        state: u8,
        no_soft_reset: bool,
        /// The states besides D0 and D3hot: of `D1`, `D2`.
        states: Vec<&'static str>,
        /// From which states it can assert PME#: of `D0`, `D1`, `D2`, `D3hot`, `D3cold`.
        pme: Vec<&'static str>,
    },
    Msi {
        enabled: bool,
        /// How many the device can use.
        vectors: u16,
        /// How many it was given.
        vectors_enabled: u16,
        address_64: bool,
        maskable: bool,
    },
    MsiX {
        enabled: bool,
        function_masked: bool,
        vectors: u16,
        table: Place,
        pba: Place,
    },
    Express {
        version: u8,
        /// Such as `endpoint`.
        port_type: &'static str,
        /// Function Level Reset is supported.
        flr: bool,
        /// The largest payload of a packet that the device can take.
        max_payload: u32,
    },
    Vendor {
        /// As the capability says, its header included.
        length: u8,
    },
    Other,
}

/// Where the table or the pending bits of MSI-X are.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Place {
    pub(super) bar: u8,
    pub(super) offset: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Extended {
    pub(super) offset: u16,
    pub(super) id: u16,
    pub(super) version: u8,
    /// `unknown` if it has no name here.
    pub(super) name: &'static str,
    #[serde(flatten)]
    pub(super) detail: ExtendedDetail,
}

fn as_hex<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Into a String: nothing can fail.
        let _ = write!(text, "{byte:02x}");
    }
    to.serialize_str(&text)
}
