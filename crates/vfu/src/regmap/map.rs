//! The description of a BAR, and its checks.

use std::borrow::Cow;
use std::collections::HashSet;

use super::error::RegisterMapError as Error;
use super::register::Register;
use super::rules::{Rules, ones};

/// The most registers of a map, elements of arrays included.
pub const MAX_REGISTERS: usize = 1 << 16;

/// The limit of [`RegisterMapBuilder::spin_limit`] unless another is set.
pub const DEFAULT_SPIN_LIMIT: u32 = 10_000;

/// The longest index that a map may have.
const MAX_INDEX: u64 = 1 << 16;

/// No slot, in the index.
const NONE: u32 = u32::MAX;

/// What a BAR holds: checked, and ready for decoding.
#[derive(Debug)]
pub struct RegisterMap {
    pub(super) name: Cow<'static, str>,
    pub(super) size: u64,
    pub(super) registers: Box<[Register]>,
    /// As long as `registers`.
    pub(super) rules: Box<[Rules]>,
    /// The first byte of each slot, in ascending order.
    pub(super) starts: Box<[u64]>,
    /// As long as `starts`.
    pub(super) slots: Box<[Slot]>,
    /// For each granule of the BAR, up to the last register: its slot, or [`NONE`]. Empty if that
    /// would be large: then the slots are searched.
    index: Box<[u32]>,
    /// The size of a granule as a power of two: the narrowest register.
    granule: u32,
    pub(super) gaps_read_zero: bool,
    pub(super) spin_limit: u32,
}

/// One register of the map: an element of an array counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Its place in `registers`.
    pub(super) register: u32,
    /// Its place in the array.
    pub(super) index: u32,
}

/// Describes a BAR; [`build`](Self::build) checks it.
#[derive(Clone, Debug)]
#[must_use]
pub struct RegisterMapBuilder {
    name: Cow<'static, str>,
    size: u64,
    registers: Vec<Register>,
    widths: Option<Vec<u8>>,
    zero_extend: bool,
    gaps_read_zero: bool,
    spin_limit: u32,
}

impl RegisterMap {
    /// Begins the description of a BAR of `size` bytes. The name is for traces.
    pub fn builder(name: impl Into<Cow<'static, str>>, size: u64) -> RegisterMapBuilder {
        RegisterMapBuilder {
            name: name.into(),
            size,
            registers: Vec::new(),
            widths: None,
            zero_extend: false,
            gaps_read_zero: false,
            spin_limit: DEFAULT_SPIN_LIMIT,
        }
    }

    /// The name of the map.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The size of the BAR in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The slot that has the byte at `offset`, and where in the slot it is.
    #[inline]
    pub(super) fn find(&self, offset: u64) -> Option<(usize, usize)> {
        if self.index.is_empty() {
            return self.search(offset);
        }
        let granule = usize::try_from(offset >> self.granule).ok()?;
        match self.index.get(granule) {
            None | Some(&NONE) => None,
            Some(&slot) => {
                let slot = slot as usize;
                Some((slot, (offset - self.starts[slot]) as usize))
            }
        }
    }

    #[cold]
    fn search(&self, offset: u64) -> Option<(usize, usize)> {
        let slot = self.starts.partition_point(|start| *start <= offset).checked_sub(1)?;
        let at = offset - self.starts[slot];
        (at < u64::from(self.rules(slot).width)).then_some((slot, at as usize))
    }

    /// The slot that begins at `offset`.
    pub(super) fn find_start(&self, offset: u64) -> Option<usize> {
        self.starts.binary_search(&offset).ok()
    }

    #[inline]
    pub(super) fn rules(&self, slot: usize) -> &Rules {
        &self.rules[self.slots[slot].register as usize]
    }

    pub(super) fn register(&self, slot: usize) -> &Register {
        &self.registers[self.slots[slot].register as usize]
    }

    pub(super) fn reset_values(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().map(|slot| self.registers[slot.register as usize].reset)
    }
}

impl RegisterMapBuilder {
    /// Adds a register. The order does not matter, except for the documentation.
    pub fn register(mut self, register: Register) -> Self {
        self.registers.push(register);
        self
    }

    /// Demands accesses of these widths, in bytes, from the start of a register and not beyond its
    /// end: for all registers that have no [widths](Register::widths) of their own.
    ///
    /// Any other access is [`Fault::Width`](crate::Fault::Width), or
    /// [`Fault::Unmodelled`](crate::Fault::Unmodelled) if it begins in the middle of a register.
    /// Without this every access is possible: one that covers a part of a register does to that
    /// part what the register's bits say, and one that covers several is split.
    pub fn widths(mut self, widths: &[u8]) -> Self {
        self.widths = Some(widths.to_vec());
        self
    }

    /// As [`Register::zero_extend`], for all.
    pub fn zero_extend(mut self) -> Self {
        self.zero_extend = true;
        self
    }

    /// Places without a register read 0 and ignore writes. Without this an access that meets no
    /// register is [`Fault::Unmodelled`](crate::Fault::Unmodelled), and the bytes between
    /// registers read ones.
    pub fn gaps_read_zero(mut self) -> Self {
        self.gaps_read_zero = true;
        self
    }

    /// Warns, once a register, when it was read this often in a row and gave the same value each
    /// time: the driver may be waiting for a bit that never changes. 0 never warns.
    pub fn spin_limit(mut self, reads: u32) -> Self {
        self.spin_limit = reads;
        self
    }

    /// Checks the description.
    ///
    /// # Errors
    /// A [`RegisterMapError`](Error) that names the registers and says what to change.
    pub fn build(self) -> Result<RegisterMap, Error> {
        let mut names = HashSet::new();
        for register in &self.registers {
            if !names.insert(&register.name) {
                return Err(Error::NameTwice { register: register.name.to_string() });
            }
            check_place(register, self.size)?;
            check_bits(register)?;
        }
        let all: u64 = self.registers.iter().map(|register| u64::from(register.count())).sum();
        if all > MAX_REGISTERS as u64 {
            return Err(Error::TooMany { max: MAX_REGISTERS });
        }
        let mut rules = Vec::with_capacity(self.registers.len());
        for register in &self.registers {
            let widths = match register.widths.as_ref().or(self.widths.as_ref()) {
                Some(widths) => sum_of_widths(register, widths)?,
                None => 0,
            };
            rules.push(Rules::new(register, widths, register.zero_extend || self.zero_extend));
        }
        let (starts, slots): (Vec<_>, Vec<_>) = lay_out(&self.registers)?.into_iter().unzip();
        let (granule, index) = index(&self.registers, &starts, &slots);
        Ok(RegisterMap {
            index,
            granule,
            name: self.name,
            size: self.size,
            registers: self.registers.into(),
            rules: rules.into(),
            starts: starts.into(),
            slots: slots.into(),
            gaps_read_zero: self.gaps_read_zero,
            spin_limit: self.spin_limit,
        })
    }
}

fn check_place(register: &Register, size: u64) -> Result<(), Error> {
    let (offset, width) = (register.offset, register.width);
    let bytes = u64::from(width);
    let name = || register.name.to_string();
    if !matches!(width, 1 | 2 | 4 | 8) {
        return Err(Error::Width { register: name(), width });
    }
    if offset % bytes != 0 {
        let next = offset.checked_next_multiple_of(bytes).unwrap_or(0);
        return Err(Error::Misaligned { register: name(), offset, width, next });
    }
    let mut last = Some(offset);
    if let Some((count, stride)) = register.array {
        if count == 0 {
            return Err(Error::ArrayEmpty { register: name() });
        }
        if stride == 0 || stride % bytes != 0 {
            return Err(Error::ArrayStride { register: name(), stride, width });
        }
        let span = u64::from(count - 1).checked_mul(stride);
        last = span.and_then(|span| offset.checked_add(span));
    }
    match last.and_then(|last| last.checked_add(bytes)) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::Outside {
            register: element(register, register.count() - 1),
            offset: last.unwrap_or(u64::MAX),
            width,
            size,
        }),
    }
}

fn check_bits(register: &Register) -> Result<(), Error> {
    let bits = ones(register.width.into());
    let name = || register.name.to_string();
    if register.reset & !bits != 0 {
        let (reset, width) = (register.reset, register.width);
        return Err(Error::ResetTooWide { register: name(), reset, width });
    }
    for (n, field) in register.fields.iter().enumerate() {
        let field_name = || field.name.to_string();
        let count = field.mask.count_ones();
        if field.mask == 0 {
            return Err(Error::FieldEmpty { register: name(), field: field_name() });
        }
        if field.high() - field.low() + 1 != count {
            let mask = field.mask;
            return Err(Error::FieldSplit { register: name(), field: field_name(), mask });
        }
        if field.mask & !bits != 0 {
            let last = bits.count_ones() - 1;
            let (field, high) = (field_name(), field.high());
            return Err(Error::FieldOutside { register: name(), field, high, last });
        }
        if let Some((value, _)) = field.values.iter().find(|(v, _)| *v > field.mask >> field.low())
        {
            let (field, value) = (field_name(), *value);
            return Err(Error::FieldValue { register: name(), field, value, bits: count });
        }
        for other in &register.fields[..n] {
            if other.name == field.name {
                return Err(Error::FieldNameTwice { register: name(), field: field_name() });
            }
            let shared = other.mask & field.mask;
            if shared != 0 {
                let first = other.name.to_string();
                let (register, second) = (name(), field_name());
                return Err(Error::FieldOverlap { register, first, second, shared });
            }
        }
    }
    Ok(())
}

/// The widths that a register of this width can have.
fn sum_of_widths(register: &Register, widths: &[u8]) -> Result<u8, Error> {
    let mut sum = 0;
    for &width in widths {
        if !matches!(width, 1 | 2 | 4 | 8) {
            return Err(Error::AccessWidth { register: register.name.to_string(), width });
        }
        if width <= register.width {
            sum |= width;
        }
    }
    if sum == 0 {
        let (register, width) = (register.name.to_string(), register.width);
        return Err(Error::NoAccessWidth { register, width });
    }
    Ok(sum)
}

/// All registers with their offsets, in ascending order.
fn lay_out(registers: &[Register]) -> Result<Vec<(u64, Slot)>, Error> {
    let mut placed = Vec::new();
    for (n, register) in registers.iter().enumerate() {
        for index in 0..register.count() {
            let start = register.offset + u64::from(index) * register.stride();
            placed.push((start, Slot { register: n as u32, index }));
        }
    }
    placed.sort_by_key(|(start, _)| *start);
    for pair in placed.windows(2) {
        let [(first_offset, first), (second_offset, second)] = *pair else { continue };
        let [a, b] = [first, second].map(|slot| &registers[slot.register as usize]);
        if second_offset - first_offset < u64::from(a.width) {
            return Err(Error::Overlap {
                first: element(a, first.index),
                first_offset,
                first_width: a.width,
                second: element(b, second.index),
                second_offset,
            });
        }
    }
    Ok(placed)
}

/// Which slot is where, if that is not too long. Registers are aligned, so no granule of the
/// narrowest width has two of them, nor a part of one.
fn index(registers: &[Register], starts: &[u64], slots: &[Slot]) -> (u32, Box<[u32]>) {
    let granule = registers.iter().map(|one| one.width.trailing_zeros()).min().unwrap_or(0);
    let width = |slot: &Slot| u64::from(registers[slot.register as usize].width);
    let end = starts.last().zip(slots.last()).map_or(0, |(start, slot)| start + width(slot));
    let length = end >> granule;
    if length > MAX_INDEX {
        return (granule, Box::default());
    }
    let mut index = vec![NONE; length as usize];
    for (n, (start, slot)) in starts.iter().zip(slots).enumerate() {
        let first = (start >> granule) as usize;
        let granules = (width(slot) >> granule) as usize;
        index[first..first + granules].fill(n as u32);
    }
    (granule, index.into())
}

/// The name of one register of an array.
pub(super) fn element(register: &Register, index: u32) -> String {
    match register.array {
        Some(_) => format!("{}[{index}]", register.name),
        None => register.name.to_string(),
    }
}
