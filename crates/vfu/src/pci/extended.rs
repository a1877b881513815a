//! The extended capabilities of a description.

use super::bar::Bars;
use super::builder::check_rules;
use super::caps::{self, aer, ats, pasid, rebar, serial, sriov, vsec};
use super::layout::Body;
use super::registers::Registers;
use super::{Ats, Pasid, Pci, PciError, RawCapability, Sriov, regs};

#[derive(Clone, Debug)]
pub(super) enum AskedExtended {
    Aer,
    Serial(u64),
    Ats(Ats),
    Pasid(Pasid),
    Sriov(Sriov),
    Rebar,
    Vendor { id: u16, revision: u8, raw: RawCapability },
    Raw { id: u16, version: u8, raw: RawCapability, at: Option<usize> },
}

/// Extended capabilities, which lie from 0x100 up and need a 4096-byte space. They are linked in the
/// order of the calls, but for the one at 0x100, which is first.
impl Pci {
    /// Adds Advanced Error Reporting, 44 bytes (PCIe 7.8.4): the errors of an endpoint, with the masks
    /// and severities that the specification gives them at power-on, and one logged header. All of it
    /// is sticky. [`ConfigSpace::raise_uncorrectable`](super::ConfigSpace::raise_uncorrectable) and
    /// [`raise_correctable`](super::ConfigSpace::raise_correctable) log an error.
    pub fn aer(self) -> Self {
        self.push(AskedExtended::Aer)
    }

    /// Adds Device Serial Number, 12 bytes (PCIe 7.9.3): an EUI-64.
    pub fn serial_number(self, eui64: u64) -> Self {
        self.push(AskedExtended::Serial(eui64))
    }

    /// Adds Address Translation Services, 8 bytes (ATS 1.1, 5.1), as a layout.
    pub fn ats(self, ats: Ats) -> Self {
        self.push(AskedExtended::Ats(ats))
    }

    /// Adds Process Address Space ID, 8 bytes (PCIe 7.8.8), as a layout.
    pub fn pasid(self, pasid: Pasid) -> Self {
        self.push(AskedExtended::Pasid(pasid))
    }

    /// Adds Single Root I/O Virtualization, 64 bytes (SR-IOV 1.1, 3.3), as a layout: no virtual
    /// function appears.
    pub fn sriov(self, sriov: Sriov) -> Self {
        self.push(AskedExtended::Sriov(sriov))
    }

    /// Lets software choose the size of memory BAR `index` from `sizes` (in bytes, powers of two from
    /// 1 MiB, one of them 512 GiB or less), by the Resizable BAR capability of 4 bytes and 8 for each
    /// such BAR (PCIe 7.8.6). The size that the BAR is described with must be one of them; it is the
    /// size after every reset.
    ///
    /// Resizing is for clients that keep configuration space themselves, such as simulators. VFIO tells
    /// the size of a region once (DEVICE_GET_REGION_INFO), so a server's region keeps the size at
    /// power-on: it does not grow with the BAR, and does not shrink either. QEMU shows its guest a
    /// capability with the current size as the only one. A device that wants a large BAR there describes
    /// the BAR with that size.
    pub fn resizable_bar(mut self, index: usize, sizes: impl Into<Vec<u64>>) -> Self {
        if self.resizable.is_empty() {
            self.extended.push(AskedExtended::Rebar);
        }
        self.resizable.push((index, sizes.into()));
        self
    }

    /// Adds a vendor specific extended capability (VSEC, PCIe 7.9.5): `body` follows its two headers of
    /// 4 bytes, which are filled in. `id` is the vendor's own number for it, `revision` is 0 to 15.
    pub fn vendor_extended(self, id: u16, revision: u8, body: RawCapability) -> Self {
        self.push(AskedExtended::Vendor { id, revision, raw: body })
    }

    /// Adds an extended capability from 0x100 up (PCIe 7.6.3): `body` follows the four bytes of its
    /// header; `write_mask` as for [`capability`](Self::capability). Needs a 4096-byte space.
    pub fn extended_capability(
        self,
        id: u16,
        version: u8,
        body: impl Into<Vec<u8>>,
        write_mask: impl Into<Vec<u8>>,
    ) -> Self {
        self.raw_extended(id, version, RawCapability::new(body).writable(write_mask))
    }

    /// Adds an extended capability by its bytes, which follow the four of its header, and the rule of
    /// each bit. AER that is given this way logs errors as that of [`aer`](Self::aer), in as much as
    /// its masks allow; the others are bytes with masks.
    pub fn raw_extended(self, id: u16, version: u8, raw: RawCapability) -> Self {
        self.push(AskedExtended::Raw { id, version, raw, at: None })
    }

    /// As [`raw_extended`](Self::raw_extended), at `offset`: a multiple of 4 from 0x100 to 0xffc. There
    /// must be a capability at 0x100, where software begins.
    pub fn extended_capability_at(
        self,
        offset: usize,
        id: u16,
        version: u8,
        raw: RawCapability,
    ) -> Self {
        self.push(AskedExtended::Raw { id, version, raw, at: Some(offset) })
    }

    fn push(mut self, asked: AskedExtended) -> Self {
        self.extended.push(asked);
        self
    }

    /// The registers of all of them.
    pub(super) fn extended_bodies(&self, bars: &mut Bars) -> Result<Vec<Body>, PciError> {
        let mut bodies: Vec<Body> = Vec::with_capacity(self.extended.len());
        for asked in &self.extended {
            let (body, at) = asked.registers(&self.resizable, bars)?;
            let id = body.u16(0);
            if SINGLE.contains(&id) && bodies.iter().any(|(other, _)| other.u16(0) == id) {
                return Err(PciError::ExtendedTwice { id });
            }
            bodies.push((body, at));
        }
        Ok(bodies)
    }
}

/// Of these a function has one at most.
const SINGLE: [u16; 6] = [
    regs::EXT_AER,
    regs::EXT_SERIAL,
    regs::EXT_ATS,
    regs::EXT_SRIOV,
    regs::EXT_REBAR,
    regs::EXT_PASID,
];

impl AskedExtended {
    fn registers(
        &self,
        resizable: &[(usize, Vec<u64>)],
        bars: &mut Bars,
    ) -> Result<Body, PciError> {
        let cap = match self {
            Self::Aer => aer::registers(),
            Self::Serial(number) => serial::registers(*number),
            Self::Ats(asked) => ats::registers(*asked)?,
            Self::Pasid(asked) => pasid::registers(*asked)?,
            Self::Sriov(asked) => sriov::registers(asked)?,
            Self::Rebar => rebar::registers(resizable, bars)?,
            Self::Vendor { id, revision, raw } => {
                check_rules(regs::EXT_VENDOR, raw)?;
                vsec::registers(*id, *revision, raw)?
            }
            Self::Raw { id, version, raw, at } => {
                return Ok((raw_registers(*id, *version, raw)?, *at));
            }
        };
        Ok((cap, None))
    }
}

fn raw_registers(id: u16, version: u8, raw: &RawCapability) -> Result<Registers, PciError> {
    check_rules(id, raw)?;
    if version > 15 {
        return Err(PciError::ExtendedVersion { id, version });
    }
    let mut cap = caps::extended(id, version, 4 + raw.body.len());
    cap.set_raw(4, raw);
    Ok(cap)
}
