//! Message Signaled Interrupts (PCI 6.8.1).

use super::super::registers::Registers;
use super::super::{PciError, regs};

/// The description of an MSI capability, for [`Pci::msi_with`](super::super::Pci::msi_with).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Vectors asked for: 1, 2, 4, 8, 16 or 32.
    pub vectors: u8,
    /// Whether the message address has 64 bits. A PCI Express function must say yes.
    pub address64: bool,
    /// Whether there are Mask and Pending Bits for each vector.
    pub per_vector_mask: bool,
}

/// The MSI capability as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiState {
    /// MSI Enable. While set, the function must not use INTx.
    pub enabled: bool,
    /// Vectors the function asked for (Multiple Message Capable).
    pub vectors_supported: u8,
    /// Vectors the software granted (Multiple Message Enable); counts only while enabled.
    pub vectors_enabled: u8,
    /// 64-bit Address Capable.
    pub address64: bool,
    /// Per-Vector Masking Capable.
    pub per_vector_mask: bool,
    /// The message address of vector 0.
    pub address: u64,
    /// The message data; the low bits are replaced by the vector's number.
    pub data: u16,
    /// Mask Bits, one bit per vector; 0 without per-vector masking.
    pub masked: u32,
    /// Pending Bits, one bit per vector; 0 without per-vector masking.
    pub pending: u32,
}

const ENABLE: u16 = 1 << 0;
const MULTIPLE_ENABLE: u16 = 0b111 << 4;
const ADDRESS_64: u16 = 1 << 7;
const PER_VECTOR_MASK: u16 = 1 << 8;

/// Multiple Message Capable, as a power of two.
fn capable(control: u16) -> u16 {
    control >> 1 & 0b111
}

/// Multiple Message Enable, as a power of two.
fn granted(control: u16) -> u16 {
    control >> 4 & 0b111
}

/// Where the registers of one of the four forms of the capability are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) at: usize,
    pub(crate) len: usize,
    data: usize,
    mask: Option<usize>,
}

impl Layout {
    fn new(at: usize, control: u16) -> Self {
        let data = if control & ADDRESS_64 != 0 { 0x0c } else { 0x08 };
        if control & PER_VECTOR_MASK != 0 {
            Self { at, len: data + 12, data: at + data, mask: Some(at + data + 4) }
        } else {
            Self { at, len: data + 2, data: at + data, mask: None }
        }
    }

    /// The layout that the Message Control at `at` asks for.
    pub(crate) fn of(registers: &Registers, at: usize) -> Result<Self, PciError> {
        let control = registers.u16(at + regs::MESSAGE_CONTROL);
        if capable(control) > 5 {
            return Err(PciError::MsiVectors { vectors: 1 << capable(control) });
        }
        Ok(Self::new(at, control))
    }

    pub(crate) fn state(&self, registers: &Registers) -> MsiState {
        let control = registers.u16(self.at + regs::MESSAGE_CONTROL);
        let address64 = control & ADDRESS_64 != 0;
        let high = if address64 { registers.u32(self.at + 8) } else { 0 };
        MsiState {
            enabled: control & ENABLE != 0,
            vectors_supported: 1 << capable(control),
            vectors_enabled: 1 << granted(control),
            address64,
            per_vector_mask: control & PER_VECTOR_MASK != 0,
            address: u64::from(registers.u32(self.at + 4)) | u64::from(high) << 32,
            data: registers.u16(self.data),
            masked: self.mask.map_or(0, |at| registers.u32(at)),
            pending: self.mask.map_or(0, |at| registers.u32(at + 4)),
        }
    }

    /// The byte of Pending Bits that holds `vector`, and its bit. None without them.
    pub(crate) fn pending_bit(&self, vector: u8) -> Option<(usize, u8)> {
        let at = self.mask? + 4;
        (vector < 32).then(|| (at + usize::from(vector / 8), 1 << (vector % 8)))
    }

    /// Pending Bits are the device's, one for each vector that there is.
    pub(crate) fn own_rules(&self, registers: &mut Registers) {
        if let Some(mask) = self.mask {
            let vectors = u32::from(self.state(registers).vectors_supported);
            registers.set_driven(mask + 4, u32::MAX >> (32 - vectors));
        }
    }
}

/// The registers. Mask Bits of vectors that are not there are reserved.
pub(crate) fn registers(msi: Msi) -> Result<Registers, PciError> {
    let vectors = u32::from(msi.vectors);
    if !vectors.is_power_of_two() || vectors > 32 {
        return Err(PciError::MsiVectors { vectors: usize::from(msi.vectors) });
    }
    let mut control = (vectors.trailing_zeros() as u16) << 1;
    if msi.address64 {
        control |= ADDRESS_64;
    }
    if msi.per_vector_mask {
        control |= PER_VECTOR_MASK;
    }
    let layout = Layout::new(0, control);
    let mut cap = Registers::reserved(layout.len);
    cap.set_u8(0, regs::CAP_MSI, 0);
    cap.set_u16(regs::MESSAGE_CONTROL, control, ENABLE | MULTIPLE_ENABLE);
    cap.set_u32(4, 0, !0b11);
    if msi.address64 {
        cap.set_u32(8, 0, !0);
    }
    cap.set_u16(layout.data, 0, !0);
    if let Some(mask) = layout.mask {
        cap.set_u32(mask, 0, u32::MAX >> (32 - vectors));
    }
    Ok(cap)
}

/// The low byte of Message Control after a write: no more vectors granted than asked for. PCI
/// 6.8.1.3 leaves other values undefined; here they mean "all".
pub(crate) fn settle(new: u8) -> u8 {
    let control = u16::from(new);
    let granted = granted(control).min(capable(control));
    (control & !MULTIPLE_ENABLE | granted << 4) as u8
}
