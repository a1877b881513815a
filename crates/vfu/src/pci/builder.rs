//! The description of a function, and how it becomes a configuration space.

use super::bar::{Bar, Bars};
use super::caps::{Known, Placed, msi, msix, pcie, pm};
use super::header::{self, Identity};
use super::registers::Registers;
use super::{ConfigSpace, Msi, MsixAt, PciError, regs};

/// The size of configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSize {
    /// 256 bytes.
    Conventional,
    /// 4096 bytes, with room for extended capabilities.
    Extended,
}

impl ConfigSize {
    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Conventional => 256,
            Self::Extended => 4096,
        }
    }
}

/// The interrupt pin of a function, as the Interrupt Pin register names it (PCI 6.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Pin {
    /// INTA#, the pin of every function that has no neighbours.
    A = 1,
    /// INTB#.
    B = 2,
    /// INTC#.
    C = 3,
    /// INTD#.
    D = 4,
}

#[derive(Clone, Debug)]
enum Asked {
    Pm,
    Msi(Msi),
    Msix(u16, Option<MsixAt>),
    Pcie,
    Raw { id: u8, body: Vec<u8>, mask: Vec<u8> },
}

#[derive(Clone, Debug)]
struct AskedExtended {
    id: u16,
    version: u8,
    body: Vec<u8>,
    mask: Vec<u8>,
}

/// Describes a PCI function; [`build`](Self::build) checks it. Capabilities are placed from 0x40
/// up, each at a multiple of 4, and linked in the order of the calls.
#[derive(Clone, Debug)]
#[must_use]
pub struct Pci {
    id: Identity,
    bars: Vec<(usize, Bar)>,
    capabilities: Vec<Asked>,
    extended: Vec<AskedExtended>,
    size: Option<ConfigSize>,
}

impl Pci {
    /// A function with a type 0 header. Everything else starts as 0: revision, class code,
    /// subsystem ids; no BARs, no interrupt pin, no capabilities.
    pub fn endpoint(vendor: u16, device: u16) -> Self {
        Self {
            id: Identity { vendor, device, ..Identity::default() },
            bars: Vec::new(),
            capabilities: Vec::new(),
            extended: Vec::new(),
            size: None,
        }
    }

    /// Sets Revision ID.
    pub fn revision(mut self, revision: u8) -> Self {
        self.id.revision = revision;
        self
    }

    /// Sets the 24-bit Class Code: base class, sub-class, programming interface, as in
    /// `0x05_80_00`.
    pub fn class(mut self, class: u32) -> Self {
        self.id.class = class;
        self
    }

    /// Sets Subsystem Vendor ID and Subsystem ID.
    pub fn subsystem(mut self, vendor: u16, id: u16) -> Self {
        self.id.subsystem_vendor = vendor;
        self.id.subsystem = id;
        self
    }

    /// Adds a BAR at `index`, 0 to 5.
    pub fn bar(mut self, index: usize, bar: Bar) -> Self {
        self.bars.push((index, bar));
        self
    }

    /// Sets Interrupt Pin: the function can signal INTx.
    pub fn intx(mut self, pin: Pin) -> Self {
        self.id.pin = Some(pin);
        self
    }

    /// Adds PCI Power Management, 8 bytes: D0 and D3hot, no PME#, registers survive D3hot.
    pub fn pm(mut self) -> Self {
        self.capabilities.push(Asked::Pm);
        self
    }

    /// Adds MSI with `vectors` vectors (1, 2, 4, 8, 16 or 32), a 64-bit address and no per-vector
    /// masks; 14 bytes.
    pub fn msi(self, vectors: u8) -> Self {
        self.msi_with(Msi { vectors, address64: true, per_vector_mask: false })
    }

    /// Adds MSI in one of its four forms; 10, 14, 20 or 24 bytes.
    pub fn msi_with(mut self, msi: Msi) -> Self {
        self.capabilities.push(Asked::Msi(msi));
        self
    }

    /// Adds MSI-X with 1 to 2048 vectors; 12 bytes. Table and PBA get a 32-bit memory BAR of their
    /// own, at the lowest index that no other BAR of this description uses; see
    /// [`ConfigSpace::msix_bar`].
    pub fn msix(mut self, vectors: u16) -> Self {
        self.capabilities.push(Asked::Msix(vectors, None));
        self
    }

    /// Adds MSI-X with 1 to 2048 vectors and table and PBA inside BARs of the device.
    pub fn msix_at(mut self, vectors: u16, at: MsixAt) -> Self {
        self.capabilities.push(Asked::Msix(vectors, Some(at)));
        self
    }

    /// Adds PCI Express as an endpoint with Function Level Reset on a 2.5 GT/s x1 link, 60 bytes.
    /// Configuration space becomes 4096 bytes unless [`config_size`](Self::config_size) says
    /// otherwise.
    pub fn pcie_endpoint(mut self) -> Self {
        self.capabilities.push(Asked::Pcie);
        self
    }

    /// Adds a read-only vendor specific capability. `bytes` follow the length byte, which is filled
    /// in.
    pub fn vendor_capability(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        // A body too long for the length byte is too long for the space as well: build() says so.
        let len = u8::try_from(bytes.len() + 3).unwrap_or(u8::MAX);
        let mut body = vec![len];
        body.extend_from_slice(bytes);
        self.capability(regs::CAP_VENDOR, body, [])
    }

    /// Adds a capability by its bytes: `body` follows the two bytes of id and next pointer, and a
    /// bit of `write_mask` makes the bit of `body` writable (a short mask leaves the rest
    /// read-only).
    ///
    /// Power Management, MSI, MSI-X and PCI Express keep their rules when they are given this way:
    /// reserved power states are discarded, MSI-X must lie in its BARs, Initiate FLR reads 0.
    pub fn capability(
        mut self,
        id: u8,
        body: impl Into<Vec<u8>>,
        write_mask: impl Into<Vec<u8>>,
    ) -> Self {
        self.capabilities.push(Asked::Raw { id, body: body.into(), mask: write_mask.into() });
        self
    }

    /// Adds an extended capability from 0x100 up (PCIe 7.6.3): `body` follows the four bytes of its
    /// header; `write_mask` as for [`capability`](Self::capability). Needs a 4096-byte space.
    pub fn extended_capability(
        mut self,
        id: u16,
        version: u8,
        body: impl Into<Vec<u8>>,
        write_mask: impl Into<Vec<u8>>,
    ) -> Self {
        let (body, mask) = (body.into(), write_mask.into());
        self.extended.push(AskedExtended { id, version, body, mask });
        self
    }

    /// Sets the size of configuration space. The default is 4096 bytes with PCI Express, else 256.
    pub fn config_size(mut self, size: ConfigSize) -> Self {
        self.size = Some(size);
        self
    }

    /// Checks the description and makes the space, in its state after power-on.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, as [`PciError`].
    pub fn build(&self) -> Result<ConfigSpace, PciError> {
        if self.id.vendor == 0xffff {
            return Err(PciError::VendorId);
        }
        if self.id.class >> 24 != 0 {
            return Err(PciError::Class { class: self.id.class });
        }
        let mut bars = Bars::new(&self.bars)?;
        let mut msix_bar = None;
        let mut bodies = Vec::with_capacity(self.capabilities.len());
        for asked in &self.capabilities {
            bodies.push(asked.registers(&mut bars, &mut msix_bar)?);
        }
        let express = bodies.iter().any(|body| body.u8(0) == regs::CAP_PCIE);
        let default = if express { ConfigSize::Extended } else { ConfigSize::Conventional };
        let size = self.size.unwrap_or(default).bytes();
        let extended = self.extended.iter().map(AskedExtended::registers);
        let extended = extended.collect::<Result<Vec<_>, _>>()?;
        // Past the last extended capability, the space is empty and need not be stored.
        let stored = extended.iter().map(|body| body.len().next_multiple_of(4)).sum::<usize>();
        let stored = size.min(ConfigSize::Conventional.bytes() + stored);

        let mut registers = Registers::reserved(stored);
        header::define(&mut registers, &self.id, &bars, express);
        let list = link(&mut registers, &bodies)?;
        let extended = link_extended(&mut registers, &extended, size)?;
        let known = Known::bind(&mut registers, &list, &bars)?;
        Ok(ConfigSpace::new(size, registers, bars, msix_bar, known, list, extended))
    }
}

impl Asked {
    fn registers(
        &self,
        bars: &mut Bars,
        msix_bar: &mut Option<usize>,
    ) -> Result<Registers, PciError> {
        match self {
            Self::Pm => Ok(pm::registers()),
            Self::Msi(asked) => msi::registers(*asked),
            Self::Msix(vectors, at) => {
                msix::check_vectors(*vectors)?;
                let at = match at {
                    Some(at) => *at,
                    None if msix_bar.is_some() => {
                        return Err(PciError::CapabilityTwice { id: regs::CAP_MSIX });
                    }
                    None => {
                        let (index, at) = msix::place(*vectors, bars)?;
                        *msix_bar = Some(index);
                        at
                    }
                };
                msix::registers(*vectors, at)
            }
            Self::Pcie => Ok(pcie::registers()),
            Self::Raw { id, body, mask } => {
                check_mask(u16::from(*id), body, mask)?;
                let mut cap = Registers::reserved(2 + body.len());
                cap.set_u8(0, *id, 0);
                cap.set_bytes(2, body, mask);
                Ok(cap)
            }
        }
    }
}

impl AskedExtended {
    fn registers(&self) -> Result<Registers, PciError> {
        check_mask(self.id, &self.body, &self.mask)?;
        if self.version > 15 {
            return Err(PciError::ExtendedVersion { id: self.id, version: self.version });
        }
        let mut cap = Registers::reserved(4 + self.body.len());
        cap.set_u16(0, self.id, 0);
        cap.set_u16(2, u16::from(self.version), 0);
        cap.set_bytes(4, &self.body, &self.mask);
        Ok(cap)
    }
}

fn check_mask(id: u16, body: &[u8], mask: &[u8]) -> Result<(), PciError> {
    if mask.len() > body.len() {
        return Err(PciError::WriteMask { id, body: body.len(), mask: mask.len() });
    }
    Ok(())
}

/// Places the capabilities and links them from the Capabilities Pointer (PCI 6.7).
fn link(registers: &mut Registers, bodies: &[Registers]) -> Result<Vec<Placed>, PciError> {
    let end = ConfigSize::Conventional.bytes();
    let mut list = Vec::with_capacity(bodies.len());
    let mut pointer = regs::CAPABILITIES_POINTER;
    let mut at = regs::DEVICE_DEPENDENT;
    for body in bodies {
        let (id, len, left) = (body.u8(0), body.len(), end - at);
        if len > left {
            return Err(PciError::CapabilityRoom { id, len, left });
        }
        registers.paste(at, body);
        registers.set_u8(pointer, at as u8, 0);
        list.push(Placed { id: u16::from(id), offset: at as u16, len: len as u16 });
        pointer = at + 1;
        at += len.next_multiple_of(4);
    }
    if !list.is_empty() {
        registers.set_u16(regs::STATUS, regs::STATUS_CAPABILITIES, 0);
        registers.set_rw1c(regs::STATUS, regs::STATUS_ERRORS);
    }
    Ok(list)
}

/// Places and links the extended capabilities: no pointer leads to them, the first is at 0x100, and
/// bits 31:20 of a header hold the offset of the next (PCIe 7.6.3).
fn link_extended(
    registers: &mut Registers,
    bodies: &[Registers],
    size: usize,
) -> Result<Vec<Placed>, PciError> {
    let mut list: Vec<Placed> = Vec::with_capacity(bodies.len());
    let mut at = regs::EXTENDED;
    for body in bodies {
        let (id, len, left) = (body.u16(0), body.len(), size - at);
        if len > left {
            return Err(PciError::ExtendedRoom { id, len, left });
        }
        registers.paste(at, body);
        if let Some(last) = list.last() {
            let upper = usize::from(last.offset) + 2;
            registers.set_u16(upper, registers.u16(upper) | (at as u16) << 4, 0);
        }
        list.push(Placed { id, offset: at as u16, len: len as u16 });
        at += len.next_multiple_of(4);
    }
    Ok(list)
}
