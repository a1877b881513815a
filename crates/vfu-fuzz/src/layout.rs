//! The fields of each command, by the names that scripts use.

use vfu_proto::wire::Command;

/// A field of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    /// Size in bytes: 2, 4 or 8.
    pub(crate) size: usize,
}

const fn f(name: &'static str, size: usize) -> Field {
    Field { name, size }
}

const VERSION: &[Field] = &[f("major", 2), f("minor", 2)];
const MAP: &[Field] =
    &[f("argsz", 4), f("flags", 4), f("offset", 8), f("address", 8), f("size", 8)];
const UNMAP: &[Field] = &[f("argsz", 4), f("flags", 4), f("address", 8), f("size", 8)];
const INFO: &[Field] = &[f("argsz", 4), f("flags", 4), f("num_regions", 4), f("num_irqs", 4)];
const REGION_INFO: &[Field] = &[
    f("argsz", 4),
    f("flags", 4),
    f("index", 4),
    f("cap_offset", 4),
    f("size", 8),
    f("offset", 8),
];
const INDEXED: &[Field] = &[f("argsz", 4), f("flags", 4), f("index", 4), f("count", 4)];
const SET_IRQS: &[Field] =
    &[f("argsz", 4), f("flags", 4), f("index", 4), f("start", 4), f("count", 4)];
const ACCESS: &[Field] = &[f("offset", 8), f("region", 4), f("count", 4)];
const DMA: &[Field] = &[f("address", 8), f("count", 8)];
const MULTI: &[Field] = &[f("wr_cnt", 8)];
const FEATURE: &[Field] = &[f("argsz", 4), f("flags", 4)];
const MIG_DATA: &[Field] = &[f("argsz", 4), f("size", 4)];

/// The fixed part of a command's payload. A number that is no command has none.
pub(crate) fn fields(command: u16) -> &'static [Field] {
    match Command::from_u16(command) {
        Some(Command::Version) => VERSION,
        Some(Command::DmaMap) => MAP,
        Some(Command::DmaUnmap) => UNMAP,
        Some(Command::DeviceGetInfo) => INFO,
        Some(Command::DeviceGetRegionInfo) => REGION_INFO,
        Some(Command::DeviceGetRegionIoFds | Command::DeviceGetIrqInfo) => INDEXED,
        Some(Command::DeviceSetIrqs) => SET_IRQS,
        Some(Command::RegionRead | Command::RegionWrite) => ACCESS,
        Some(Command::DmaRead | Command::DmaWrite) => DMA,
        Some(Command::RegionWriteMulti) => MULTI,
        Some(Command::DeviceFeature) => FEATURE,
        Some(Command::MigDataRead | Command::MigDataWrite) => MIG_DATA,
        Some(Command::DeviceReset) | None => &[],
    }
}

/// How a script calls a command: its name, or its number if it has none.
pub(crate) fn name(command: u16) -> String {
    Command::from_u16(command).map_or_else(|| command.to_string(), |known| known.name().to_owned())
}

/// The command of that name or number.
pub(crate) fn number(name: &str) -> Option<u16> {
    let known = Command::ALL.iter().find(|known| known.name() == name);
    known.map(|known| known.as_u16()).or_else(|| name.parse().ok())
}
