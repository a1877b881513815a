//! What can be wrong with a register map.

/// Why [`RegisterMapBuilder::build`](super::RegisterMapBuilder::build) refused a description.
/// Sizes and offsets are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are the words of the message
pub enum RegisterMapError {
    /// Not a width that a register can have.
    #[error("register {register} is {width} bytes wide; registers have 1, 2, 4 or 8")]
    Width { register: String, width: u8 },
    /// Not at a multiple of its width.
    #[error(
        "register {register} of {width} bytes is at offset {offset:#x}; move it to a multiple of \
         {width}, such as {next:#x}"
    )]
    Misaligned { register: String, offset: u64, width: u8, next: u64 },
    /// It sticks out of the BAR.
    #[error(
        "register {register} of {width} bytes at offset {offset:#x} does not fit the BAR of \
         {size:#x} bytes; move it down or enlarge the BAR"
    )]
    Outside { register: String, offset: u64, width: u8, size: u64 },
    /// Two registers share bytes.
    #[error(
        "registers {first} (at {first_offset:#x}, {first_width} bytes) and {second} (at \
         {second_offset:#x}) overlap; move one of them"
    )]
    Overlap {
        first: String,
        first_offset: u64,
        first_width: u8,
        second: String,
        second_offset: u64,
    },
    /// Two registers have one name.
    #[error("two registers are called {register}; names tell them apart, rename one")]
    NameTwice { register: String },
    /// An array without elements.
    #[error("the array {register} has no elements; give it one or more, or drop it")]
    ArrayEmpty { register: String },
    /// An array whose elements are too close, or not aligned.
    #[error(
        "the array {register} has a stride of {stride}; its registers are {width} bytes wide, so \
         make it a multiple of {width}"
    )]
    ArrayStride { register: String, stride: u64, width: u8 },
    /// More registers than a map can have.
    #[error("the map has more than {max} registers, elements of arrays included; make it smaller")]
    TooMany { max: usize },
    /// The value after a reset has more bits than the register.
    #[error("register {register} of {width} bytes can't be reset to {reset:#x}, which is wider")]
    ResetTooWide { register: String, reset: u64, width: u8 },
    /// A width of access that does not exist.
    #[error("register {register} allows accesses of {width} bytes; possible are 1, 2, 4 and 8")]
    AccessWidth { register: String, width: u8 },
    /// All allowed widths are wider than the register.
    #[error(
        "register {register} of {width} bytes allows no width of access that it can have; add \
         {width} to its widths, or to those of the map"
    )]
    NoAccessWidth { register: String, width: u8 },
    /// The field has no bits.
    #[error("field {field} of register {register} has no bits; set the bits it has in its mask")]
    FieldEmpty { register: String, field: String },
    /// The field's bits are not neighbours.
    #[error(
        "field {field} of register {register} has the mask {mask:#x}, whose bits are not \
         neighbours; split it"
    )]
    FieldSplit { register: String, field: String, mask: u64 },
    /// The field has bits that the register has not.
    #[error(
        "field {field} ends at bit {high} and register {register} at bit {last}; shrink the field \
         or widen the register"
    )]
    FieldOutside { register: String, field: String, high: u32, last: u32 },
    /// Two fields share bits.
    #[error("fields {first} and {second} of register {register} share the bits {shared:#x}")]
    FieldOverlap { register: String, first: String, second: String, shared: u64 },
    /// Two fields of a register have one name.
    #[error("register {register} has two fields called {field}; rename one")]
    FieldNameTwice { register: String, field: String },
    /// A named value that the field can't have.
    #[error(
        "the value {value:#x} of field {field} in register {register} is wider than its {bits} \
         bits"
    )]
    FieldValue { register: String, field: String, value: u64, bits: u32 },
}
