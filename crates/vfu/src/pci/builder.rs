//! The description of a function, and how it becomes a configuration space.

use std::sync::Arc;

use super::bar::{Bar, Bars};
use super::caps::{Known, msi, msix, pcie, pm};
use super::extended::AskedExtended;
use super::header::{self, Identity};
use super::layout::{self, Body};
use super::registers::Registers;
use super::rom::Rom;
use super::space::Parts;
use super::{ConfigSpace, Msi, MsixAt, PciError, Pm, RawCapability, regs};

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
    Pm(Pm),
    Msi(Msi),
    Msix(u16, Option<MsixAt>),
    Pcie,
    Raw { id: u8, raw: RawCapability, at: Option<usize> },
}

/// Describes a PCI function; [`build`](Self::build) checks it. Capabilities are placed from 0x40
/// up, each at a multiple of 4 and at the lowest place that is free, and linked in the order of the
/// calls; [`capability_at`](Self::capability_at) chooses the place.
#[derive(Clone, Debug)]
#[must_use]
pub struct Pci {
    id: Identity,
    bars: Vec<(usize, Bar)>,
    capabilities: Vec<Asked>,
    pub(super) extended: Vec<AskedExtended>,
    pub(super) resizable: Vec<(usize, Vec<u64>)>,
    rom: Option<Arc<[u8]>>,
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
            resizable: Vec::new(),
            rom: None,
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

    /// Adds an expansion ROM with this image, 1 byte to 16 MiB (PCI 6.2.5.2). Its BAR has the next power
    /// of two, 2048 bytes at least; behind the image it reads 0xff, as erased flash does. A server
    /// shows it as VFIO's region 6, read-only: what is written there is dropped.
    ///
    /// The image may be anything, unless it has a header that says that it is longer: then
    /// [`build`](Self::build) refuses it. Hardware does not look at it, and neither does QEMU when it loads
    /// one; but firmware and Linux ignore an image that does not begin with 0x55 0xaa (PCI 6.3.1.1).
    /// [`RomInfo::has_signature`](super::RomInfo::has_signature) tells, and a server warns in its log.
    ///
    /// ```no_run
    /// # use vfu::pci::Pci;
    /// let pci = Pci::endpoint(0x8086, 0x100e).rom(std::fs::read("e1000.rom")?);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn rom(mut self, image: impl Into<Arc<[u8]>>) -> Self {
        self.rom = Some(image.into());
        self
    }

    /// Sets Interrupt Pin: the function can signal INTx.
    pub fn intx(mut self, pin: Pin) -> Self {
        self.id.pin = Some(pin);
        self
    }

    /// Adds PCI Power Management, 8 bytes: D0 and D3hot, no PME#, registers survive D3hot.
    pub fn pm(self) -> Self {
        self.pm_with(Pm::default())
    }

    /// Adds PCI Power Management with the states and the behaviour of `pm`, 8 bytes.
    pub fn pm_with(mut self, pm: Pm) -> Self {
        self.capabilities.push(Asked::Pm(pm));
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
    /// [`ConfigSpace::msix_bar`]. A server answers for all of it: no access to it reaches the device.
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
        self,
        id: u8,
        body: impl Into<Vec<u8>>,
        write_mask: impl Into<Vec<u8>>,
    ) -> Self {
        self.raw_capability(id, RawCapability::new(body).writable(write_mask))
    }

    /// Adds a capability by its bytes and the rule of each bit. See
    /// [`capability`](Self::capability) for what holds besides.
    pub fn raw_capability(mut self, id: u8, raw: RawCapability) -> Self {
        self.capabilities.push(Asked::Raw { id, raw, at: None });
        self
    }

    /// As [`raw_capability`](Self::raw_capability), at `offset`: a multiple of 4 from 0x40 to 0xfc. The
    /// capabilities without an offset of their own are placed around it.
    pub fn capability_at(mut self, offset: usize, id: u8, raw: RawCapability) -> Self {
        self.capabilities.push(Asked::Raw { id, raw, at: Some(offset) });
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
        let rom = self.rom.as_ref().map(Rom::new).transpose()?;
        let mut bars = Bars::new(&self.bars)?;
        let mut msix_bar = None;
        let mut bodies: Vec<Body> = Vec::with_capacity(self.capabilities.len());
        for asked in &self.capabilities {
            bodies.push((asked.registers(&mut bars, &mut msix_bar)?, asked.offset()));
        }
        let express = bodies.iter().any(|(body, _)| body.u8(0) == regs::CAP_PCIE);
        let default = if express { ConfigSize::Extended } else { ConfigSize::Conventional };
        let size = self.size.unwrap_or(default).bytes();
        let extended = self.extended_bodies(&mut bars)?;
        let places = layout::place_extended(&extended, size)?;
        // Past the last extended capability, the space is empty and need not be stored.
        let ends = extended.iter().zip(&places).map(|((body, _), at)| at + body.len());
        let stored = ends.fold(ConfigSize::Conventional.bytes(), usize::max);

        let mut registers = Registers::reserved(stored.next_multiple_of(4));
        header::define(&mut registers, &self.id, &bars, rom.as_ref(), express);
        let list = layout::link(&mut registers, &bodies)?;
        let extended = layout::link_extended(&mut registers, &extended, &places);
        if let Some(cap) = extended.iter().find(|cap| cap.id == regs::EXT_REBAR) {
            bars.place_size_controls(cap.offset.into());
        }
        let known = Known::bind(&mut registers, &list, &extended, &bars)?;
        let parts = Parts { size, registers, bars, rom, msix_bar, known };
        Ok(ConfigSpace::new(parts, list, extended))
    }
}

impl Asked {
    fn registers(
        &self,
        bars: &mut Bars,
        msix_bar: &mut Option<usize>,
    ) -> Result<Registers, PciError> {
        match self {
            Self::Pm(asked) => pm::registers(*asked),
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
            Self::Raw { id, raw, .. } => {
                check_rules(u16::from(*id), raw)?;
                let mut cap = Registers::reserved(2 + raw.body.len());
                cap.set_u8(0, *id, 0);
                cap.set_raw(2, raw);
                Ok(cap)
            }
        }
    }

    /// The offset that the author chose.
    fn offset(&self) -> Option<usize> {
        if let Self::Raw { at, .. } = self { *at } else { None }
    }
}

/// Whether the masks fit the body, and each bit has one rule.
pub(super) fn check_rules(id: u16, raw: &RawCapability) -> Result<(), PciError> {
    let RawCapability { body, writable, write_one_to_clear, sticky, driven } = raw;
    for mask in [writable, write_one_to_clear, sticky, driven] {
        if mask.len() > body.len() {
            return Err(PciError::WriteMask { id, body: body.len(), mask: mask.len() });
        }
    }
    for at in 0..body.len() {
        let [rw, rw1c, driven] =
            [writable, write_one_to_clear, driven].map(|mask| mask.get(at).copied().unwrap_or(0));
        let bits = rw & rw1c | rw & driven | rw1c & driven;
        if bits != 0 {
            return Err(PciError::RuleConflict { id, at, bits });
        }
    }
    Ok(())
}
