//! Registers as data: a row of bytes, each with its reset value and who may change which bit.

use super::{Field, RawCapability};

/// One byte of register space.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cell {
    /// What a read returns.
    pub(crate) now: u8,
    /// What power-on puts there.
    reset: u8,
    /// Bits that take the written value.
    rw: u8,
    /// Bits that a written 1 clears.
    rw1c: u8,
    /// Bits that a reset of the function leaves as they are.
    sticky: u8,
    /// Bits that change from the device's side only.
    driven: u8,
}

impl Cell {
    /// The byte after `value` is written, by the masks alone.
    pub(crate) fn written(self, value: u8) -> u8 {
        ((self.now & !self.rw) | (value & self.rw)) & !(value & self.rw1c)
    }

    /// Bits that a write can change.
    pub(crate) fn writable(self) -> u8 {
        self.rw | self.rw1c
    }

    /// Bits that change from the device's side only.
    pub(crate) fn driven(self) -> u8 {
        self.driven
    }
}

/// A run of registers. Bytes that nobody defined read 0 and ignore writes.
#[derive(Clone)]
pub(crate) struct Registers {
    cells: Box<[Cell]>,
}

impl Registers {
    /// `len` bytes, all reserved: read-only zero.
    pub(crate) fn reserved(len: usize) -> Self {
        Self { cells: vec![Cell::default(); len].into_boxed_slice() }
    }

    pub(crate) fn len(&self) -> usize {
        self.cells.len()
    }

    pub(crate) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    pub(crate) fn cells_mut(&mut self) -> &mut [Cell] {
        &mut self.cells
    }

    /// Defines one byte: its reset value and its writable bits. For building only, as the other
    /// `set_*` functions: panics outside the run.
    pub(crate) fn set_u8(&mut self, at: usize, reset: u8, rw: u8) {
        self.cells[at] = Cell { now: reset, reset, rw, ..Cell::default() };
    }

    /// Defines two bytes, little-endian.
    pub(crate) fn set_u16(&mut self, at: usize, reset: u16, rw: u16) {
        self.set_bytes(at, &reset.to_le_bytes(), &rw.to_le_bytes());
    }

    /// Defines four bytes, little-endian.
    pub(crate) fn set_u32(&mut self, at: usize, reset: u32, rw: u32) {
        self.set_bytes(at, &reset.to_le_bytes(), &rw.to_le_bytes());
    }

    /// Defines a run of bytes; where `rw` is shorter than `reset`, the rest is read-only.
    pub(crate) fn set_bytes(&mut self, at: usize, reset: &[u8], rw: &[u8]) {
        for (i, &value) in reset.iter().enumerate() {
            self.set_u8(at + i, value, rw.get(i).copied().unwrap_or(0));
        }
    }

    /// Defines the first `width` bytes of a register, 4 at most.
    pub(crate) fn set_field(&mut self, at: usize, width: usize, field: Field) {
        let [reset, rw, rw1c, sticky, driven] =
            [field.reset, field.rw, field.rw1c, field.sticky, field.driven].map(u32::to_le_bytes);
        for i in 0..width {
            self.cells[at + i] = Cell {
                now: reset[i],
                reset: reset[i],
                rw: rw[i],
                rw1c: rw1c[i],
                sticky: sticky[i],
                driven: driven[i],
            };
        }
    }

    /// Defines what an author gave as bytes and masks.
    pub(crate) fn set_raw(&mut self, at: usize, raw: &RawCapability) {
        let byte = |mask: &[u8], i: usize| mask.get(i).copied().unwrap_or(0);
        for (i, &value) in raw.body.iter().enumerate() {
            self.cells[at + i] = Cell {
                now: value,
                reset: value,
                rw: byte(&raw.writable, i),
                rw1c: byte(&raw.write_one_to_clear, i),
                sticky: byte(&raw.sticky, i),
                driven: byte(&raw.driven, i),
            };
        }
    }

    /// Makes bits of a defined 16-bit register sticky.
    pub(crate) fn set_sticky(&mut self, at: usize, bits: u16) {
        for (i, bits) in bits.to_le_bytes().into_iter().enumerate() {
            self.cells[at + i].sticky |= bits;
        }
    }

    /// Makes bits of a defined register the device's own.
    pub(crate) fn set_driven(&mut self, at: usize, bits: u32) {
        for (i, bits) in bits.to_le_bytes().into_iter().enumerate().filter(|(_, bits)| *bits != 0) {
            let cell = &mut self.cells[at + i];
            cell.rw &= !bits;
            cell.rw1c &= !bits;
            cell.driven |= bits;
        }
    }

    /// Changes the writable bits of a defined byte, and clears those that no longer are. Not only for
    /// building: a resized BAR does it.
    pub(crate) fn remask(&mut self, at: usize, rw: u8) {
        if let Some(cell) = self.cells.get_mut(at) {
            cell.now &= !(cell.rw & !rw);
            cell.rw = rw;
        }
    }

    /// Makes bits of a defined 16-bit register "write 1 to clear".
    pub(crate) fn set_rw1c(&mut self, at: usize, bits: u16) {
        for (i, bits) in bits.to_le_bytes().into_iter().enumerate() {
            self.cells[at + i].rw &= !bits;
            self.cells[at + i].rw1c |= bits;
        }
    }

    /// Makes bits of a defined 16-bit register read-only.
    pub(crate) fn set_read_only(&mut self, at: usize, bits: u16) {
        for (i, bits) in bits.to_le_bytes().into_iter().enumerate() {
            self.cells[at + i].rw &= !bits;
            self.cells[at + i].rw1c &= !bits;
        }
    }

    /// Copies a whole run to `at`.
    pub(crate) fn paste(&mut self, at: usize, other: &Registers) {
        self.cells[at..at + other.len()].copy_from_slice(&other.cells);
    }

    /// The value now; 0 past the end.
    pub(crate) fn u8(&self, at: usize) -> u8 {
        self.cells.get(at).map_or(0, |cell| cell.now)
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.u8(at), self.u8(at + 1)])
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    /// Drives bits from the device's side, whatever the masks say.
    pub(crate) fn drive(&mut self, at: usize, bits: u8, set: bool) {
        if let Some(cell) = self.cells.get_mut(at) {
            cell.now = if set { cell.now | bits } else { cell.now & !bits };
        }
    }

    /// Sets those of `bits` that a written 1 clears.
    pub(crate) fn raise(&mut self, at: usize, bits: u8) {
        if let Some(cell) = self.cells.get_mut(at) {
            cell.now |= bits & cell.rw1c;
        }
    }

    /// Back to the values at power-on.
    pub(crate) fn reset(&mut self) {
        for cell in &mut self.cells {
            cell.now = cell.reset;
        }
    }

    /// Back to the values at power-on, but for sticky bits.
    pub(crate) fn reset_function(&mut self) {
        for cell in &mut self.cells {
            cell.now = cell.now & cell.sticky | cell.reset & !cell.sticky;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte with all three sorts of bits: 7-6 read-only, 5-3 RW, 2-0 RW1C.
    fn mixed() -> Registers {
        let mut registers = Registers::reserved(2);
        registers.set_u16(0, 0b1010_1000, 0b0011_1111);
        registers.set_rw1c(0, 0b0000_0111);
        registers
    }

    #[test]
    fn every_bit_follows_its_mask() {
        let mut registers = mixed();
        for value in 0..=u8::MAX {
            for raised in 0..=u8::MAX {
                registers.reset();
                registers.raise(0, raised);
                let got = registers.cells()[0].written(value);
                let expected = 0b1000_0000 | value & 0b0011_1000 | raised & !value & 0b111;
                assert_eq!(got, expected, "{value:#010b} over {raised:#010b}");
            }
        }
    }

    #[test]
    fn a_bit_has_one_rule() {
        let mut registers = mixed();
        assert_eq!(registers.cells()[0].rw & registers.cells()[0].rw1c, 0);
        registers.set_read_only(0, 0b0000_1001);
        assert_eq!(registers.cells()[0].writable(), 0b0011_0110);
    }

    #[test]
    fn a_sticky_bit_ends_at_power_on() {
        let mut registers = Registers::reserved(4);
        let field = Field::new(0xf0).rw(0x0c).rw1c(0x03).sticky(0x05).driven(0x0100);
        registers.set_field(0, 4, field);
        registers.raise(0, 0xff);
        let written = registers.cells()[0].written(0x0c);
        registers.cells_mut()[0].now = written;
        assert_eq!(registers.u32(0), 0xff);
        registers.reset_function();
        assert_eq!(registers.u32(0), 0xf5);
        registers.reset();
        assert_eq!(registers.u32(0), 0xf0);
        assert_eq!((registers.cells()[1].driven(), registers.cells()[1].writable()), (1, 0));
    }

    #[test]
    fn the_device_drives_what_software_cannot() {
        let mut registers = mixed();
        registers.drive(0, 0b0100_0000, true);
        assert_eq!(registers.u8(0), 0b1110_1000);
        registers.drive(0, 0b1100_0000, false);
        assert_eq!(registers.u8(0), 0b0010_1000);
        registers.reset();
        assert_eq!(registers.u8(0), 0b1010_1000);
        registers.drive(9, 0xff, true);
        registers.raise(9, 0xff);
        assert_eq!(registers.u32(9), 0, "outside is nothing");
    }
}
