//! What a command asks for, so what its reply may be.

use vfu_proto::wire::Command;

use crate::layout;

/// The bounds of a successful reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Fewest bytes of payload.
    pub(crate) least: u64,
    /// Most bytes of payload.
    pub(crate) most: u64,
    /// Whether descriptors may come.
    pub(crate) fds: bool,
    /// Whether it can be successful at all.
    pub(crate) possible: bool,
}

/// The bounds for a command with this payload, as a server sees them.
pub(crate) fn asked(command: u16, payload: &[u8]) -> Asked {
    let len = payload.len() as u64;
    let fixed: usize = layout::fields(command).iter().map(|field| field.size).sum();
    let u32_at = |at: usize| {
        let bytes = payload.get(at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
    };
    let exactly = |size| Asked { least: size, most: size, fds: false, possible: true };
    let from_to = |least: u64, most: u64| Asked { most: most.max(least), ..exactly(least) };
    let Some(known) = Command::from_u16(command) else {
        return Asked { possible: false, ..exactly(0) };
    };
    let bounds = match known {
        Command::Version => {
            let twin = payload.windows(11).any(|bytes| bytes == b"twin_socket");
            Asked { fds: twin, ..from_to(4, 64 << 10) }
        }
        Command::DmaMap | Command::DeviceSetIrqs | Command::DeviceReset | Command::MigDataWrite => {
            exactly(0)
        }
        Command::DmaUnmap => from_to(24, u32_at(0)),
        Command::DeviceGetInfo | Command::DeviceGetIrqInfo => from_to(16, u32_at(0)),
        Command::DeviceGetRegionInfo => Asked { fds: true, ..from_to(32, u32_at(0)) },
        Command::DeviceGetRegionIoFds => Asked { fds: true, ..from_to(16, u32_at(0)) },
        // libvfio-user answers an access of 0 bytes with nothing, others repeat the request.
        Command::RegionRead | Command::RegionWrite if u32_at(12) == 0 => from_to(0, 16),
        Command::RegionRead => exactly(16 + u32_at(12)),
        Command::RegionWrite => exactly(16),
        Command::RegionWriteMulti => exactly(8),
        Command::DeviceFeature => from_to(8, u32_at(0).max(len)),
        // libvfio-user pads what it has to what was asked.
        Command::MigDataRead => from_to(8, len + u32_at(4)),
        Command::DmaRead | Command::DmaWrite => Asked { possible: false, ..exactly(16) },
    };
    let needed =
        fixed as u64 + if known == Command::DeviceFeature { data_of(u32_at(4)) } else { 0 };
    Asked { possible: bounds.possible && len >= needed, ..bounds }
}

/// How many bytes of data the request for a feature has at least.
fn data_of(flags: u64) -> u64 {
    const GET: u64 = 1 << 16;
    const SET: u64 = 1 << 17;
    const PROBE: u64 = 1 << 18;
    match (flags & 0xffff, flags & (GET | SET | PROBE)) {
        (2, SET) => 8,
        (6, SET) => 16,
        (8, GET) => 24,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_get_what_they_ask() {
        let mut payload = [0; 16];
        payload[12] = 4;
        let asked_now = asked(Command::RegionRead.as_u16(), &payload);
        assert_eq!((asked_now.least, asked_now.most, asked_now.possible), (20, 20, true));
        assert!(!asked(Command::RegionRead.as_u16(), &payload[..15]).possible);
    }

    #[test]
    fn a_feature_needs_its_data() {
        let get_report = [[40, 0, 0, 0], [8, 0, 1, 0]].concat();
        assert!(!asked(Command::DeviceFeature.as_u16(), &get_report).possible);
        let get_migration = [[16, 0, 0, 0], [1, 0, 1, 0]].concat();
        let migration = asked(Command::DeviceFeature.as_u16(), &get_migration);
        assert_eq!((migration.least, migration.most, migration.possible), (8, 16, true));
    }

    #[test]
    fn what_is_no_command_of_a_client_can_not_succeed() {
        for command in [0, 11, 12, 14, 19, 0xffff] {
            assert!(!asked(command, &[0; 64]).possible, "{command}");
        }
    }
}
