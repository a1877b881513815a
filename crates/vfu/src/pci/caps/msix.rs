//! MSI-X (PCI 6.8.2): the capability. Its table is [`MsixTable`](super::super::MsixTable).

use super::super::bar::{Bar, BarKind, Bars};
use super::super::msix_table::{pba_len, table_len};
use super::super::registers::Registers;
use super::super::{MsixPart, PciError, regs};

/// The length of the capability in bytes.
pub(crate) const LEN: usize = 12;

/// Where an author puts the MSI-X structures: BAR index and offset in bytes, a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixAt {
    /// The MSI-X Table, 16 bytes per vector.
    pub table: (usize, u64),
    /// The Pending Bit Array, 8 bytes per 64 vectors, rounded up.
    pub pba: (usize, u64),
}

/// The MSI-X capability as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixState {
    /// Vectors in the table, 1 to 2048.
    pub vectors: u16,
    /// MSI-X Enable. While set, the function must not use INTx or MSI.
    pub enabled: bool,
    /// Function Mask: all vectors are masked, whatever their own mask bits say.
    pub function_mask: bool,
    /// The table: BAR index and offset in bytes.
    pub table: (usize, u64),
    /// The Pending Bit Array: BAR index and offset in bytes.
    pub pba: (usize, u64),
}

impl MsixState {
    /// The length of the table in bytes.
    pub fn table_len(&self) -> u64 {
        table_len(self.vectors)
    }

    /// The length of the Pending Bit Array in bytes.
    pub fn pba_len(&self) -> u64 {
        pba_len(self.vectors)
    }
}

const TABLE_SIZE: u16 = 0x07ff;
const FUNCTION_MASK: u16 = 1 << 14;
const ENABLE: u16 = 1 << 15;
/// BIR: the low bits of an offset register name the BAR.
const BIR: u32 = 0b111;

/// Adds a BAR for `vectors` vectors: the table, then the PBA in a page of its own, so that a peer
/// can trap the one without the other (PCI 6.8.2, the note on 4 KiB isolation).
pub(crate) fn place(vectors: u16, bars: &mut Bars) -> Result<(usize, MsixAt), PciError> {
    const PAGE: u64 = 4096;
    let pba = table_len(vectors).next_multiple_of(PAGE);
    let bar = Bar::mem32((pba + pba_len(vectors)).next_power_of_two());
    let index = bars.add(bar).ok_or(PciError::MsixNoFreeBar)?;
    Ok((index, MsixAt { table: (index, 0), pba: (index, pba) }))
}

/// Whether MSI-X can have as many vectors.
pub(crate) fn check_vectors(vectors: u16) -> Result<(), PciError> {
    if (1..=2048).contains(&vectors) {
        Ok(())
    } else {
        Err(PciError::MsixVectors { vectors: usize::from(vectors) })
    }
}

/// The registers. [`check`] looks at the places once the list is laid out; what the registers
/// cannot even hold is refused here.
pub(crate) fn registers(vectors: u16, at: MsixAt) -> Result<Registers, PciError> {
    let mut cap = Registers::reserved(LEN);
    cap.set_u8(0, regs::CAP_MSIX, 0);
    cap.set_u16(regs::MESSAGE_CONTROL, vectors - 1, ENABLE | FUNCTION_MASK);
    for (part, register, (bar, offset), len) in [
        (MsixPart::Table, regs::MSIX_TABLE, at.table, table_len(vectors)),
        (MsixPart::Pba, regs::MSIX_PBA, at.pba, pba_len(vectors)),
    ] {
        if bar >= super::super::BARS {
            return Err(PciError::MsixBar { part, bar });
        }
        if offset % 8 != 0 {
            return Err(PciError::MsixUnaligned { part, bar, offset });
        }
        let Ok(low) = u32::try_from(offset) else {
            return Err(PciError::MsixOutside { part, bar, offset, len, size: 1 << 32 });
        };
        cap.set_u32(register, low | bar as u32, 0);
    }
    Ok(cap)
}

/// Checks that table and PBA lie inside memory BARs, at their smallest size, and apart from each
/// other.
pub(crate) fn check(registers: &Registers, at: usize, bars: &Bars) -> Result<(), PciError> {
    let MsixState { vectors, table, pba, .. } = state(registers, at);
    let (table_len, pba_len) = (table_len(vectors), pba_len(vectors));
    for (part, (bar, offset), len) in
        [(MsixPart::Table, table, table_len), (MsixPart::Pba, pba, pba_len)]
    {
        let size = match bars.get(bar) {
            Some(found) if found.kind != BarKind::Io => bars.min_size(bar).unwrap_or(found.size),
            _ => return Err(PciError::MsixBar { part, bar }),
        };
        if offset + len > size {
            return Err(PciError::MsixOutside { part, bar, offset, len, size });
        }
    }
    if table.0 == pba.0 && table.1 < pba.1 + pba_len && pba.1 < table.1 + table_len {
        return Err(PciError::MsixOverlap {
            bar: table.0,
            table: table.1,
            table_len,
            pba: pba.1,
            pba_len,
        });
    }
    Ok(())
}

pub(crate) fn state(registers: &Registers, at: usize) -> MsixState {
    let control = registers.u16(at + regs::MESSAGE_CONTROL);
    let place = |register| {
        let value = registers.u32(at + register);
        ((value & BIR) as usize, u64::from(value & !BIR))
    };
    MsixState {
        vectors: (control & TABLE_SIZE) + 1,
        enabled: control & ENABLE != 0,
        function_mask: control & FUNCTION_MASK != 0,
        table: place(regs::MSIX_TABLE),
        pba: place(regs::MSIX_PBA),
    }
}
