//! Capabilities, decoded.

use std::fmt;

use vfu::pci::regs;

use vfu::pci::names;

/// An entry of the capability list (PCI 6.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Capability ID.
    pub id: u8,
    /// Where it begins in configuration space, in bytes.
    pub offset: u16,
    /// What the id stands for; "Unknown" if the kit does not know.
    pub name: &'static str,
    /// What it says.
    pub detail: Detail,
}

/// What a capability says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Power Management (PM 3.2).
    PowerManagement {
        /// Version of the specification.
        version: u8,
        /// The power state: 0 for D0 to 3 for D3hot.
        state: u8,
    },
    /// MSI (PCI 6.8.1).
    Msi {
        /// Vectors that the device asks for.
        vectors: u8,
        /// The message address has 64 bits.
        address64: bool,
        /// Each vector can be masked.
        per_vector_mask: bool,
        /// MSI Enable.
        enabled: bool,
    },
    /// MSI-X (PCI 6.8.2).
    Msix {
        /// Vectors in the table.
        vectors: u16,
        /// BAR and offset in bytes of the table.
        table: (u8, u32),
        /// BAR and offset in bytes of the Pending Bit Array.
        pba: (u8, u32),
        /// MSI-X Enable.
        enabled: bool,
        /// Function Mask.
        function_mask: bool,
    },
    /// PCI Express (PCIe 7.5.3).
    Express {
        /// Version of the structure.
        version: u8,
        /// Device/Port Type.
        kind: u8,
        /// Function Level Reset is there.
        flr: bool,
    },
    /// Vendor Specific.
    Vendor {
        /// Its length in bytes, as it says itself.
        len: u8,
    },
    /// Something else, which is not looked into.
    Other,
}

impl Capability {
    /// Decodes what is at `offset`. Bytes past the end of `config` read as 0.
    pub(crate) fn decode(config: &[u8], offset: u8) -> Capability {
        let at = usize::from(offset);
        let u8_at = |i: usize| config.get(at + i).copied().unwrap_or(0);
        let u16_at = |i| u16::from_le_bytes([u8_at(i), u8_at(i + 1)]);
        let u32_at = |i| u32::from(u16_at(i)) | u32::from(u16_at(i + 2)) << 16;
        let place = |raw: u32| ((raw & 7) as u8, raw & !7);
        let control = u16_at(regs::MESSAGE_CONTROL);
        let id = u8_at(0);
        let detail = match id {
            regs::CAP_PM => Detail::PowerManagement {
                version: (u16_at(regs::PM_CAPABILITIES) & 7) as u8,
                state: (u16_at(regs::PM_CONTROL) & 3) as u8,
            },
            regs::CAP_MSI => Detail::Msi {
                vectors: 1 << (control >> 1 & 7).min(5),
                address64: control & 1 << 7 != 0,
                per_vector_mask: control & 1 << 8 != 0,
                enabled: control & 1 != 0,
            },
            regs::CAP_MSIX => Detail::Msix {
                vectors: (control & 0x7ff) + 1,
                table: place(u32_at(regs::MSIX_TABLE)),
                pba: place(u32_at(regs::MSIX_PBA)),
                enabled: control & 1 << 15 != 0,
                function_mask: control & 1 << 14 != 0,
            },
            regs::CAP_PCIE => Detail::Express {
                version: (u16_at(regs::PCIE_CAPABILITIES) & 0xf) as u8,
                kind: (u16_at(regs::PCIE_CAPABILITIES) >> 4 & 0xf) as u8,
                flr: u32_at(regs::DEVICE_CAPABILITIES) & regs::DEVICE_CAPABILITIES_FLR != 0,
            },
            regs::CAP_VENDOR => Detail::Vendor { len: u8_at(2) },
            _ => Detail::Other,
        };
        Capability { id, offset: u16::from(offset), name: names::capability(id), detail }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:02x}] {}", self.offset, self.name)?;
        match self.detail {
            Detail::PowerManagement { version, state } => write!(f, " v{version}: D{state}"),
            Detail::Msi { vectors, address64, per_vector_mask, enabled } => {
                write!(f, ": {}", vectors_of(vectors.into()))?;
                let bits = if address64 { 64 } else { 32 };
                write!(f, ", {bits}-bit address")?;
                f.write_str(if per_vector_mask { ", maskable" } else { "" })?;
                f.write_str(on(enabled))
            }
            Detail::Msix { vectors, table, pba, enabled, function_mask } => {
                write!(f, ": {}, table BAR{}+{:#x}", vectors_of(vectors), table.0, table.1)?;
                write!(f, ", PBA BAR{}+{:#x}{}", pba.0, pba.1, on(enabled))?;
                f.write_str(if function_mask { ", masked" } else { "" })
            }
            Detail::Express { version, kind, flr } => {
                write!(f, " v{version}: {}", names::express_type(kind))?;
                f.write_str(if flr { ", Function Level Reset" } else { "" })
            }
            Detail::Vendor { len } => write!(f, ": {len} bytes"),
            Detail::Other => write!(f, " (id {:#04x})", self.id),
        }
    }
}

fn vectors_of(n: u16) -> String {
    if n == 1 { "1 vector".into() } else { format!("{n} vectors") }
}

fn on(enabled: bool) -> &'static str {
    if enabled { ", enabled" } else { ", disabled" }
}

/// An entry of the extended capability list (PCIe 7.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedCapability {
    /// Capability ID.
    pub id: u16,
    /// Capability version.
    pub version: u8,
    /// Where it begins in configuration space, in bytes.
    pub offset: u16,
    /// What the id stands for; "Unknown" if the kit does not know.
    pub name: &'static str,
}

impl ExtendedCapability {
    /// From the 4 bytes of its header.
    pub(crate) fn decode(header: u32, offset: u16) -> ExtendedCapability {
        let id = (header & 0xffff) as u16;
        let version = (header >> 16 & 0xf) as u8;
        ExtendedCapability { id, version, offset, name: names::extended_capability(id) }
    }
}

impl fmt::Display for ExtendedCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:03x}] {} v{} (id {:#06x})", self.offset, self.name, self.version, self.id)
    }
}
