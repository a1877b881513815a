//! A PCI function as its driver sees it.

use std::fmt;

use vfu::pci::BarKind;

use crate::size::size;
use crate::{Capability, Detail, ExtendedCapability};
use vfu::pci::names;

/// What enumeration found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem Vendor ID; 0 if there is none.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class Code: base class, sub-class and programming interface in 24 bits.
    pub class: u32,
    /// Header Type, without its multi-function bit.
    pub header_type: u8,
    /// The multi-function bit.
    pub multi_function: bool,
    /// Interrupt Pin: 1 to 4 for INTA to INTD, 0 for none.
    pub interrupt_pin: u8,
    /// The Command register when the function was read.
    pub command: u16,
    /// The Status register when the function was read.
    pub status: u16,
    /// The BARs that are there, in order.
    pub bars: Vec<FunctionBar>,
    /// Size of the expansion ROM in bytes; 0 if there is none.
    pub rom_size: u64,
    /// The capability list, in the order of its links.
    pub capabilities: Vec<Capability>,
    /// The extended capability list, in the order of its links.
    pub extended: Vec<ExtendedCapability>,
    /// All of configuration space when the function was read: 256 or 4096 bytes.
    pub config: Vec<u8>,
}

/// A BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionBar {
    /// 0 to 5. A 64-bit BAR takes the next index too.
    pub index: usize,
    /// What it decodes.
    pub kind: BarKind,
    /// Whether it is prefetchable memory.
    pub prefetchable: bool,
    /// Its size in bytes.
    pub size: u64,
    /// Its address; 0 if none has been assigned.
    pub address: u64,
}

impl Function {
    /// The first capability with this id.
    pub fn capability(&self, id: u8) -> Option<&Capability> {
        self.capabilities.iter().find(|capability| capability.id == id)
    }

    /// The BAR of this index.
    pub fn bar(&self, index: usize) -> Option<&FunctionBar> {
        self.bars.iter().find(|bar| bar.index == index)
    }

    /// The number of MSI-X vectors; 0 without MSI-X.
    pub fn msix_vectors(&self) -> u16 {
        self.capabilities
            .iter()
            .find_map(|capability| match capability.detail {
                Detail::Msix { vectors, .. } => Some(vectors),
                _ => None,
            })
            .unwrap_or(0)
    }

    /// The number of MSI vectors; 0 without MSI.
    pub fn msi_vectors(&self) -> u8 {
        self.capabilities
            .iter()
            .find_map(|capability| match capability.detail {
                Detail::Msi { vectors, .. } => Some(vectors),
                _ => None,
            })
            .unwrap_or(0)
    }
}

impl fmt::Display for FunctionBar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BAR{}: {}, {}", self.index, self.kind, size(self.size))?;
        if self.prefetchable {
            f.write_str(", prefetchable")?;
        }
        match self.address {
            0 => f.write_str(", not assigned"),
            address => write!(f, ", at {address:#x}"),
        }
    }
}

/// A tree, one line for each part.
impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vendor, device, class) = (self.vendor, self.device, names::class(self.class));
        write!(f, "{vendor:04x}:{device:04x} {class} [class {:06x}]", self.class)?;
        write!(f, " (rev {:02x})", self.revision)?;
        let mut lines = Vec::new();
        if self.subsystem_vendor != 0 {
            lines.push(format!("subsystem {:04x}:{:04x}", self.subsystem_vendor, self.subsystem));
        }
        lines.extend(self.bars.iter().map(FunctionBar::to_string));
        if self.rom_size > 0 {
            lines.push(format!("expansion ROM: {}", size(self.rom_size)));
        }
        if let Some(pin) = (b'A'..=b'D').nth(usize::from(self.interrupt_pin).wrapping_sub(1)) {
            lines.push(format!("interrupt pin {}", char::from(pin)));
        }
        lines.extend(self.capabilities.iter().map(Capability::to_string));
        lines.extend(self.extended.iter().map(ExtendedCapability::to_string));
        let last = lines.len().saturating_sub(1);
        for (i, line) in lines.iter().enumerate() {
            let branch = if i == last { "`-" } else { "|-" };
            write!(f, "\n{branch} {line}")?;
        }
        Ok(())
    }
}
