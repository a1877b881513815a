//! Registers as an author describes them: a value after power-on, and a rule for each bit.

/// A register of 32 bits or fewer: its value after power-on, and who may change which bit of it.
///
/// The rules have the names of PCIe 7.4, table "Register and Register Bit-Field Types". A bit that is
/// in no mask is read-only (RO, HwInit).
///
/// ```
/// use vfu::pci::Field;
/// // 15 RW1CS, 8 RWS, 1:0 RW; 3 reads 1.
/// let pmcsr = Field::new(0x0008).rw(0x0103).rw1c(0x8000).sticky(0x8100);
/// # let _ = pmcsr;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Field {
    pub(crate) reset: u32,
    pub(crate) rw: u32,
    pub(crate) rw1c: u32,
    pub(crate) sticky: u32,
    pub(crate) driven: u32,
}

impl Field {
    /// A read-only register that holds `reset`.
    pub const fn new(reset: u32) -> Self {
        Self { reset, rw: 0, rw1c: 0, sticky: 0, driven: 0 }
    }

    /// Bits that take the written value (RW).
    pub const fn rw(mut self, bits: u32) -> Self {
        self.rw = bits;
        self
    }

    /// Bits that a written 1 clears (RW1C). The device sets them with
    /// [`ConfigSpace::raise`](super::ConfigSpace::raise).
    pub const fn rw1c(mut self, bits: u32) -> Self {
        self.rw1c = bits;
        self
    }

    /// Bits that keep their value over Function Level Reset and the soft reset from D3hot to D0, and
    /// lose it at power-on only (the "S" of RWS, RW1CS and ROS). It goes with one of the other rules.
    pub const fn sticky(mut self, bits: u32) -> Self {
        self.sticky = bits;
        self
    }

    /// Bits that are read-only for software and change by
    /// [`ConfigSpace::drive`](super::ConfigSpace::drive): status that the device keeps, logs.
    pub const fn driven(mut self, bits: u32) -> Self {
        self.driven = bits;
        self
    }
}

/// A capability by its bytes and the rules of their bits. The body starts behind the header: two
/// bytes for a capability, four for an extended one.
///
/// A mask may be shorter than the body; what it does not cover is 0. A bit may be in one of
/// `writable`, `write_one_to_clear` and `driven`, and in `sticky` besides;
/// [`Pci::build`](super::Pci::build) checks it.
///
/// ```
/// use vfu::pci::{Field, Pci, RawCapability};
///
/// // A control register, then a status register with an error bit that survives FLR.
/// let mailbox = RawCapability::new([0; 8])
///     .field(0, 4, Field::new(0x10).rw(0xff))
///     .field(4, 4, Field::new(0).rw1c(1 << 31).sticky(1 << 31).driven(1));
/// let space = Pci::endpoint(0x1234, 1).pcie_endpoint().vendor_extended(0x42, 1, mailbox).build()?;
/// # let _ = space;
/// # Ok::<(), vfu::pci::PciError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct RawCapability {
    pub(crate) body: Vec<u8>,
    pub(crate) writable: Vec<u8>,
    pub(crate) write_one_to_clear: Vec<u8>,
    pub(crate) sticky: Vec<u8>,
    pub(crate) driven: Vec<u8>,
}

impl RawCapability {
    /// A read-only capability.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// Bits that take the written value.
    pub fn writable(mut self, mask: impl Into<Vec<u8>>) -> Self {
        self.writable = mask.into();
        self
    }

    /// Bits that a written 1 clears.
    pub fn write_one_to_clear(mut self, mask: impl Into<Vec<u8>>) -> Self {
        self.write_one_to_clear = mask.into();
        self
    }

    /// Bits that survive all resets but power-on.
    pub fn sticky(mut self, mask: impl Into<Vec<u8>>) -> Self {
        self.sticky = mask.into();
        self
    }

    /// Bits that the device changes and software only reads.
    pub fn driven(mut self, mask: impl Into<Vec<u8>>) -> Self {
        self.driven = mask.into();
        self
    }

    /// Defines the register of `width` bytes (up to 4) at `at` of the body, little-endian: its value
    /// and all its rules. The body grows if it ends before.
    pub fn field(mut self, at: usize, width: usize, field: Field) -> Self {
        let width = width.min(4);
        let Self { body, writable, write_one_to_clear, sticky, driven } = &mut self;
        let len = body.len().max(at + width);
        for (bytes, value) in [
            (body, field.reset),
            (writable, field.rw),
            (write_one_to_clear, field.rw1c),
            (sticky, field.sticky),
            (driven, field.driven),
        ] {
            if bytes.len() < len {
                bytes.resize(len, 0);
            }
            let value = value.to_le_bytes();
            for (to, from) in bytes.iter_mut().skip(at).zip(&value[..width]) {
                *to = *from;
            }
        }
        self
    }
}
