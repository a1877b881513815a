//! What a register is: the words of a description.

use std::borrow::Cow;

use serde::Serialize;

/// What reading and writing does to a bit.
///
/// A partial access touches the bits of its own bytes only: a byte read from a register of
/// [`Rc`](Self::Rc) bits clears that byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum BitAccess {
    /// Reads; writes are ignored.
    Ro,
    /// Reads and writes.
    Rw,
    /// Takes writes, reads 0. A read of a register that has only such bits is
    /// [`Fault::Unmodelled`](crate::Fault::Unmodelled).
    Wo,
    /// Reads; writing 1 clears it.
    W1c,
    /// Reads; writing 1 sets it.
    W1s,
    /// Reads; writing 1 inverts it.
    W1t,
    /// Reads; writing 0 clears it.
    W0c,
    /// Reads, and is cleared by that; writes are ignored.
    Rc,
    /// Reads 0, ignores writes. The device may keep a state of its own in it, with
    /// [`RegisterBank::set`](super::RegisterBank::set) or by what
    /// [`on_write`](super::RegisterDevice::on_write) returns.
    #[serde(rename = "RAZ/WI")]
    Raz,
}

impl BitAccess {
    /// The short form that data sheets use: `RO`, `RW`, `WO`, `W1C`, `W1S`, `W1T`, `W0C`, `RC`,
    /// `RAZ/WI`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ro => "RO",
            Self::Rw => "RW",
            Self::Wo => "WO",
            Self::W1c => "W1C",
            Self::W1s => "W1S",
            Self::W1t => "W1T",
            Self::W0c => "W0C",
            Self::Rc => "RC",
            Self::Raz => "RAZ/WI",
        }
    }
}

impl std::fmt::Display for BitAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Some neighbouring bits of a register that have a name.
#[derive(Clone, Debug)]
#[must_use]
pub struct Field {
    pub(super) mask: u64,
    pub(super) name: Cow<'static, str>,
    pub(super) access: Option<BitAccess>,
    pub(super) about: Cow<'static, str>,
    pub(super) values: Vec<(u64, Cow<'static, str>)>,
}

impl Field {
    /// The bits that are 1 in `mask`, which must be neighbours: the same constant that the
    /// device's code uses. They are accessed as the register is, unless
    /// [`access`](Self::access) says otherwise.
    pub fn new(mask: u64, name: impl Into<Cow<'static, str>>) -> Self {
        let about = Cow::Borrowed("");
        Field { mask, name: name.into(), access: None, about, values: Vec::new() }
    }

    /// Sets what reading and writing does to these bits.
    pub fn access(mut self, access: BitAccess) -> Self {
        self.access = Some(access);
        self
    }

    /// Says what it is, for the documentation.
    pub fn about(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.about = text.into();
        self
    }

    /// Names a value of the field, counted from its lowest bit.
    pub fn value(mut self, value: u64, name: impl Into<Cow<'static, str>>) -> Self {
        self.values.push((value, name.into()));
        self
    }

    /// The number of the lowest bit. 64 if the field is empty.
    pub(super) fn low(&self) -> u32 {
        self.mask.trailing_zeros()
    }

    /// The number of the highest bit.
    pub(super) fn high(&self) -> u32 {
        63_u32.saturating_sub(self.mask.leading_zeros())
    }

    /// The field's value in a register's.
    pub(super) fn of(&self, register: u64) -> u64 {
        (register & self.mask).checked_shr(self.low()).unwrap_or(0)
    }
}

/// A register, or an array of equal ones.
///
/// Its offset is also its id: what the device's hooks are told, and what
/// [`RegisterBank::get`](super::RegisterBank::get) asks for.
#[derive(Clone, Debug)]
#[must_use]
pub struct Register {
    pub(super) name: Cow<'static, str>,
    pub(super) offset: u64,
    pub(super) width: u8,
    pub(super) access: BitAccess,
    pub(super) reset: u64,
    /// How many, and how far apart; not an array if there is none.
    pub(super) array: Option<(u32, u64)>,
    pub(super) widths: Option<Vec<u8>>,
    pub(super) zero_extend: bool,
    pub(super) fields: Vec<Field>,
    pub(super) about: Cow<'static, str>,
    pub(super) on_read: Cow<'static, str>,
    pub(super) on_write: Cow<'static, str>,
}

macro_rules! kinds {
    ($($name:ident: $access:ident, $doc:literal;)*) => {$(
        #[doc = $doc]
        /// `offset` is in bytes from the start of the BAR, `width` is 1, 2, 4 or 8 bytes.
        pub fn $name(offset: u64, width: u8, name: impl Into<Cow<'static, str>>) -> Self {
            Self::new(offset, width, name, BitAccess::$access)
        }
    )*};
}

impl Register {
    /// A register whose bits are accessed in this way, those of [fields](Self::field) excepted
    /// that have a way of their own. Its value after a reset is 0.
    ///
    /// `offset` is in bytes from the start of the BAR, `width` is 1, 2, 4 or 8 bytes.
    pub fn new(
        offset: u64,
        width: u8,
        name: impl Into<Cow<'static, str>>,
        access: BitAccess,
    ) -> Self {
        Register {
            name: name.into(),
            offset,
            width,
            access,
            reset: 0,
            array: None,
            widths: None,
            zero_extend: false,
            fields: Vec::new(),
            about: Cow::Borrowed(""),
            on_read: Cow::Borrowed(""),
            on_write: Cow::Borrowed(""),
        }
    }

    kinds! {
        ro: Ro, "A register that ignores writes.";
        rw: Rw, "A register that is read and written.";
        wo: Wo, "A register that can't be read.";
        w1c: W1c, "A register in which writing ones clears bits.";
        w1s: W1s, "A register in which writing ones sets bits.";
        rc: Rc, "A register that reading clears, and that ignores writes.";
        raz: Raz, "A register that reads 0 and ignores what is written: for side effects, or reserved.";
    }

    /// Sets the value after a reset.
    pub fn reset(mut self, value: u64) -> Self {
        self.reset = value;
        self
    }

    /// Makes it an array of `count` registers, which begin `stride` bytes apart.
    pub fn array(mut self, count: u32, stride: u64) -> Self {
        self.array = Some((count, stride));
        self
    }

    /// Adds a field.
    pub fn field(mut self, field: Field) -> Self {
        self.fields.push(field);
        self
    }

    /// Allows accesses of these widths only, in bytes, and only from the register's start. See
    /// [`RegisterMapBuilder::widths`](super::RegisterMapBuilder::widths).
    pub fn widths(mut self, widths: &[u8]) -> Self {
        self.widths = Some(widths.to_vec());
        self
    }

    /// A write that is narrower than the register writes zeros to the rest of it, instead of
    /// leaving it alone.
    pub fn zero_extend(mut self) -> Self {
        self.zero_extend = true;
        self
    }

    /// Says what it is, for the documentation.
    pub fn about(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.about = text.into();
        self
    }

    /// Says what the device does on a read ([`RegisterDevice::on_read`](super::RegisterDevice)),
    /// for the documentation.
    pub fn on_read(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.on_read = text.into();
        self
    }

    /// Says what the device does on a write ([`RegisterDevice::on_write`](super::RegisterDevice)),
    /// for the documentation.
    pub fn on_write(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.on_write = text.into();
        self
    }

    /// How many registers it stands for.
    pub(super) fn count(&self) -> u32 {
        self.array.map_or(1, |(count, _)| count)
    }

    /// How far apart they begin.
    pub(super) fn stride(&self) -> u64 {
        self.array.map_or(0, |(_, stride)| stride)
    }
}
