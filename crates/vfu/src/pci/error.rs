//! What can be wrong with a description.

use super::BarKind;

/// Which of the two structures of MSI-X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsixPart {
    /// The MSI-X Table.
    Table,
    /// The Pending Bit Array.
    Pba,
}

impl std::fmt::Display for MsixPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Table => "MSI-X table",
            Self::Pba => "MSI-X PBA",
        })
    }
}

/// Why [`Pci::build`](super::Pci::build) refused a description. Sizes and offsets are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are the words of the message
pub enum PciError {
    /// The id that means "no device here".
    #[error("vendor id 0xffff means that no device is present; give the vendor's own id")]
    VendorId,
    /// The class code has more than 24 bits.
    #[error(
        "class code {class:#x} is wider than 24 bits; give base class, sub-class and programming \
         interface as 0xBBSSPP"
    )]
    Class { class: u32 },
    /// There is no such BAR.
    #[error("BAR {index} does not exist; use one of BARs 0 to 5")]
    BarIndex { index: usize },
    /// The same index again.
    #[error("BAR {index} is described twice; keep one, or move the other to a free index")]
    BarTwice { index: usize },
    /// Below the minimum of its kind.
    #[error(
        "BAR {index} of {size:#x} bytes is too small for {kind} space; make it {min:#x} or more"
    )]
    BarTooSmall { index: usize, kind: BarKind, size: u64, min: u64 },
    /// Above the maximum of its kind.
    #[error(
        "BAR {index} of {size:#x} bytes is too large for {kind} space, which ends at {max:#x}; \
         make it smaller, or use Bar::mem64 for more memory"
    )]
    BarTooLarge { index: usize, kind: BarKind, size: u64, max: u64 },
    /// BAR sizes are powers of two.
    #[error("BAR {index} of {size:#x} bytes is not a power of two; round it up to {next:#x}")]
    BarNotPowerOfTwo { index: usize, size: u64, next: u64 },
    /// I/O space has no prefetchable bit.
    #[error("BAR {index} is I/O space, which cannot be prefetchable; drop .prefetchable()")]
    BarPrefetchableIo { index: usize },
    /// A 64-bit BAR in the last register.
    #[error(
        "BAR {index} is 64-bit and needs BAR 6 too, which does not exist; use index 4 or lower"
    )]
    BarNoUpperHalf { index: usize },
    /// The register is the upper half of another BAR.
    #[error(
        "BAR {index} is the upper half of the 64-bit BAR {lower}; use another index, or make BAR \
         {lower} 32-bit"
    )]
    BarOverlap { lower: usize, index: usize },
    /// Two capabilities of which a function has one at most.
    #[error("capability {id:#04x} is added twice; a function has one at most, keep one")]
    CapabilityTwice { id: u8 },
    /// The capability is shorter than its registers.
    #[error(
        "capability {id:#04x} has {len} bytes with its two-byte header, and its registers need \
         {min}; give the whole body"
    )]
    CapabilityTooShort { id: u8, len: usize, min: usize },
    /// The list has outgrown the 192 bytes that it may use.
    #[error(
        "capability {id:#04x} needs {len} bytes and {left} are left of the 192 from 0x40 to 0xff; \
         shorten or drop a capability"
    )]
    CapabilityRoom { id: u8, len: usize, left: usize },
    /// There are extended capabilities from 0x100 up only.
    #[error(
        "extended capability {id:#06x} has no place in a configuration space of 256 bytes; make it \
         4096 bytes with ConfigSize::Extended, or add .pcie_endpoint()"
    )]
    ExtendedNoSpace { id: u16 },
    /// An extended capability of which a function has one at most.
    #[error("extended capability {id:#06x} is added twice; a function has one at most, keep one")]
    ExtendedTwice { id: u16 },
    /// Software begins at 0x100 and would find none.
    #[error(
        "the first extended capability is at {first:#x}, and software looks for it at 0x100; put \
         one of them there"
    )]
    ExtendedStart { first: usize },
    /// Not an offset that a capability can have.
    #[error(
        "capability {id:#04x} is placed at {offset:#x}; give a multiple of 4 from {start:#x} up and \
         below {end:#x}"
    )]
    CapabilityOffset { id: u16, offset: usize, start: usize, end: usize },
    /// Two capabilities share bytes.
    #[error(
        "capability {id:#04x} at {offset:#x} of {len} bytes overlaps capability {other:#04x} at \
         {other_offset:#x}; move one of them"
    )]
    CapabilityOverlap { id: u16, offset: usize, len: usize, other: u16, other_offset: usize },
    /// The extended list has outgrown its space.
    #[error(
        "extended capability {id:#06x} needs {len} bytes and {left} are left up to 0xfff; shorten \
         or drop one, and use ConfigSize::Extended (4096 bytes)"
    )]
    ExtendedRoom { id: u16, len: usize, left: usize },
    /// The version field of an extended capability has 4 bits.
    #[error("extended capability {id:#06x} has version {version}; use 0 to 15")]
    ExtendedVersion { id: u16, version: u8 },
    /// A mask for bytes that are not there.
    #[error(
        "capability {id:#04x} has a write mask of {mask} bytes for a body of {body}; make the mask \
         as long or shorter"
    )]
    WriteMask { id: u16, body: usize, mask: usize },
    /// Two rules for one bit.
    #[error(
        "capability {id:#04x}: the bits {bits:#04x} of body byte {at} are in two masks; keep them \
         in one of writable, write-one-to-clear and driven (sticky may come on top)"
    )]
    RuleConflict { id: u16, at: usize, bits: u8 },
    /// PME_Support names a state that the function does not have.
    #[error(
        "PME# is supported from states {pme_support:#07b} (bit 0 is D0, 4 is D3cold), and one of \
         them is D1 or D2 without support for that state, or no state; drop the bit or set d1 or d2"
    )]
    PmeState { pme_support: u8 },
    /// There is no image.
    #[error("the expansion ROM is empty; give its image, or leave it out")]
    RomEmpty,
    /// The image is larger than a ROM BAR can be.
    #[error(
        "the expansion ROM of {len:#x} bytes is larger than {max:#x}, which is the most; shorten the \
         image"
    )]
    RomTooLarge { len: usize, max: usize },
    /// The image's own header says that it is longer.
    #[error(
        "the expansion ROM has {len:#x} bytes, and its header says {claimed:#x}; the image is cut \
         short, give all of it"
    )]
    RomCutShort { len: usize, claimed: usize },
    /// Resizable BAR without the BAR.
    #[error("BAR {index} is made resizable and does not exist; add it with .bar()")]
    ResizableNoBar { index: usize },
    /// I/O space has no sizes to choose from.
    #[error("BAR {index} is I/O space, which cannot be resizable; make it a memory BAR")]
    ResizableIo { index: usize },
    /// The same index again.
    #[error("BAR {index} is made resizable twice; give all its sizes in one call")]
    ResizableTwice { index: usize },
    /// Not a size that the registers can say.
    #[error(
        "BAR {index} cannot have {size:#x} bytes; give a resizable BAR in {kind} space powers of \
         two from 0x100000 to {max:#x}"
    )]
    ResizableSize { index: usize, size: u64, kind: BarKind, max: u64 },
    /// The size at power-on is not one of those to choose from.
    #[error(
        "BAR {index} is described with {size:#x} bytes, which is not one of its sizes; add it to \
         them, or describe the BAR with one of them"
    )]
    ResizableDefault { index: usize, size: u64 },
    /// All sizes are so large that many systems could have none of them.
    #[error("BAR {index} is resizable to more than {max:#x} bytes only; offer a smaller size too")]
    ResizableTooLarge { index: usize, max: u64 },
    /// The queue depth has 5 bits.
    #[error("ATS cannot queue {depth} invalidate requests; use 1 to 32")]
    AtsQueue { depth: u8 },
    /// A PASID has 20 bits.
    #[error("PASIDs cannot have {width} bits; use 20 or fewer")]
    PasidWidth { width: u8 },
    /// The revision field has 4 bits.
    #[error("vendor specific capability {vsec:#06x} has revision {revision}; use 0 to 15")]
    VendorRevision { vsec: u16, revision: u8 },
    /// SR-IOV for nothing.
    #[error("SR-IOV needs one virtual function or more; give their number, or leave it out")]
    SriovNoVfs,
    /// The virtual functions would have no routing ids of their own.
    #[error(
        "{total} virtual functions from offset {first_offset} with stride {stride} do not get \
         routing ids of their own below 0x10000; use 1 or more for both, and fewer functions"
    )]
    SriovRouting { total: u16, first_offset: u16, stride: u16 },
    /// SR-IOV has no I/O BARs.
    #[error("VF BAR {index} is I/O space, which virtual functions do not have; use memory")]
    VfBarIo { index: usize },
    /// A BAR of the virtual functions is wrong.
    #[error("of the virtual functions: {0}")]
    VfBar(Box<PciError>),
    /// Not a number of vectors that MSI can have.
    #[error("MSI cannot have {vectors} vectors; use 1, 2, 4, 8, 16 or 32, or MSI-X")]
    MsiVectors { vectors: usize },
    /// Not a number of vectors that MSI-X can have.
    #[error("MSI-X cannot have {vectors} vectors; use 1 to 2048")]
    MsixVectors { vectors: usize },
    /// No register left for the BAR of table and PBA.
    #[error(
        "no BAR is free for the MSI-X table; free an index (a 64-bit BAR takes two), or place \
         table and PBA in one of the device's BARs with msix_at"
    )]
    MsixNoFreeBar,
    /// The BAR is not there, or not memory.
    #[error(
        "the {part} is placed in BAR {bar}, which is no memory BAR of this function; add one there, or \
         use another"
    )]
    MsixBar { part: MsixPart, bar: usize },
    /// The low three bits of the offset hold the BAR's index.
    #[error("the {part} is at offset {offset:#x} of BAR {bar}; use a multiple of 8")]
    MsixUnaligned { part: MsixPart, bar: usize, offset: u64 },
    /// It sticks out of the BAR, or starts beyond the 4 GiB that the register can name.
    #[error(
        "the {part} needs {len:#x} bytes at offset {offset:#x} and BAR {bar} has {size:#x}, of \
         which the first 4 GiB can be used; move it down or enlarge the BAR"
    )]
    MsixOutside { part: MsixPart, bar: usize, offset: u64, len: u64, size: u64 },
    /// Table and PBA share bytes.
    #[error(
        "the MSI-X table ({table_len:#x} bytes at {table:#x}) and the PBA ({pba_len:#x} bytes at \
         {pba:#x}) overlap in BAR {bar}; move one of them"
    )]
    MsixOverlap { bar: usize, table: u64, table_len: u64, pba: u64, pba_len: u64 },
}
