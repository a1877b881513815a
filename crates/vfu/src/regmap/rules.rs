//! What accesses do to a register's bits: its fields, boiled down to masks.

use super::register::{BitAccess, Register};

/// All ones in the low `width` bytes.
pub(super) const fn ones(width: usize) -> u64 {
    match width {
        0 => 0,
        1..8 => (1 << (8 * width)) - 1,
        _ => u64::MAX,
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Where the register, or its array, is declared.
    pub(super) offset: u64,
    /// In bytes.
    pub(super) width: u8,
    /// The allowed widths of access, as the sum of them; 0 allows everything.
    pub(super) widths: u8,
    pub(super) zero_extend: bool,
    /// All of its bits can only be written.
    pub(super) write_only: bool,
    /// The bits that it has.
    pub(super) ones: u64,
    /// Bits that read as they are; the others read 0.
    readable: u64,
    /// Bits that take what is written.
    plain: u64,
    one_clears: u64,
    one_sets: u64,
    one_toggles: u64,
    zero_clears: u64,
    read_clears: u64,
}

impl Rules {
    pub(super) fn new(register: &Register, widths: u8, zero_extend: bool) -> Self {
        let ones = ones(register.width.into());
        let fields = register.fields.iter().map(|f| (f.access.unwrap_or(register.access), f.mask));
        let named = register.fields.iter().fold(0, |all, field| all | field.mask);
        let rest = (register.access, ones & !named);
        let bits = |wanted: &[BitAccess]| {
            fields
                .clone()
                .chain([rest])
                .filter(|(access, _)| wanted.contains(access))
                .fold(0, |all, (_, mask)| all | mask)
        };
        use BitAccess::{Ro, Rw, W0c, W1c, W1s, W1t, Wo};
        Rules {
            offset: register.offset,
            width: register.width,
            widths,
            zero_extend,
            write_only: bits(&[Wo]) == ones,
            ones,
            readable: bits(&[Ro, Rw, W1c, W1s, W1t, W0c, BitAccess::Rc]),
            plain: bits(&[Rw, Wo]),
            one_clears: bits(&[W1c]),
            one_sets: bits(&[W1s]),
            one_toggles: bits(&[W1t]),
            zero_clears: bits(&[W0c]),
            read_clears: bits(&[BitAccess::Rc]),
        }
    }

    /// What a register that holds `value` reads.
    #[inline]
    pub(super) fn read(&self, value: u64) -> u64 {
        value & self.readable
    }

    /// What is left of `value` when the bits in `mask` have been read.
    #[inline]
    pub(super) fn after_read(&self, value: u64, mask: u64) -> u64 {
        value & !(self.read_clears & mask)
    }

    /// What becomes of `old` when `written` is written to the bits in `mask`.
    #[inline]
    pub(super) fn write(&self, old: u64, written: u64, mask: u64) -> u64 {
        let ones = written & mask;
        let zeros = !written & mask;
        let plain = self.plain & mask;
        let kept = ((old & !plain) | (ones & plain))
            & !(ones & self.one_clears)
            & !(zeros & self.zero_clears);
        (kept | (ones & self.one_sets)) ^ (ones & self.one_toggles)
    }
}
