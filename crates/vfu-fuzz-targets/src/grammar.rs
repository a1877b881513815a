//! Commands as a client would send them, with fields that mostly mean something.

use vfu_proto::wire::{Capabilities, Command, Feature, TwinSocket};

use crate::script::Script;

/// The payload of a message, word by word.
#[derive(Default)]
pub(crate) struct Payload(pub(crate) Vec<u8>);

impl Payload {
    pub(crate) fn u16(mut self, word: u16) -> Self {
        self.0.extend_from_slice(&word.to_le_bytes());
        self
    }

    pub(crate) fn u32(mut self, word: u32) -> Self {
        self.0.extend_from_slice(&word.to_le_bytes());
        self
    }

    pub(crate) fn u64(mut self, word: u64) -> Self {
        self.0.extend_from_slice(&word.to_le_bytes());
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// `argsz`: mostly enough.
fn argsz(script: &mut Script<'_>) -> u32 {
    if script.one_in(12) { script.number() as u32 } else { 256 }
}

/// An address at which there may be a mapping.
pub(crate) fn address(script: &mut Script<'_>) -> u64 {
    if script.one_in(6) { script.number() } else { (script.below(16) as u64) << 12 }
}

/// How much: a few pages, or anything.
fn size(script: &mut Script<'_>) -> u64 {
    if script.one_in(6) { script.number() } else { (1 + script.below(4) as u64) << 12 }
}

/// A region, an offset in it, and a length in bytes.
fn place(script: &mut Script<'_>) -> (u32, u64, u32) {
    let region = script.pick(&[0, 7, 0, 7, 1, 2, 4, 6, 8, 9, 10]);
    let offset = match script.below(8) {
        0 => script.number(),
        1 => script.u16().into(),
        _ if region == 0 => 0x100 + 4 * script.below(16) as u64,
        _ => script.u8().into(),
    };
    let len = if script.one_in(16) { script.number() as u32 } else { script.pick(&[4, 1, 2, 8]) };
    (region, offset, len)
}

pub(crate) fn version(script: &mut Script<'_>) -> Vec<u8> {
    let twin = TwinSocket { supported: script.one_in(2), fd_index: None };
    let mut caps = Capabilities {
        max_msg_fds: Some(script.pick(&[16, 1, 0, 253])),
        twin_socket: Some(twin),
        write_multiple: Some(true),
        sparse_mmap_fds: Some(script.one_in(2)),
        ..Capabilities::default()
    };
    if script.one_in(4) {
        caps.max_data_xfer_size = Some(script.number().max(1));
    }
    let mut json = Vec::new();
    caps.emit(&mut json);
    let (major, minor) = if script.one_in(16) { (script.u16(), script.u16()) } else { (0, 1) };
    Payload::default().u16(major).u16(minor).bytes(&json).0
}

/// A command and its payload.
pub(crate) fn command(script: &mut Script<'_>) -> (u16, Vec<u8>) {
    let command = script.pick(Command::ALL);
    let p = Payload::default();
    let payload = match command {
        Command::Version => Payload(version(script)),
        Command::DmaMap => {
            let flags = if script.one_in(8) {
                script.u8().into()
            } else {
                script.pick(&[3, 3, 1, 2, 7, 11])
            };
            let offset = if script.one_in(4) { script.number() } else { 0 };
            p.u32(32).u32(flags).u64(offset).u64(address(script)).u64(size(script))
        }
        Command::DmaUnmap => match script.below(8) {
            0 => p.u32(argsz(script)).u32(2).u64(0).u64(0),
            1 => {
                let (at, size) = (address(script), size(script));
                let p = p.u32(argsz(script)).u32(1).u64(at).u64(size);
                p.u64(4096).u64(size.div_ceil(4096).div_ceil(64).wrapping_mul(8))
            }
            _ => p.u32(argsz(script)).u32(0).u64(address(script)).u64(size(script)),
        },
        Command::DeviceGetInfo => p.u32(argsz(script)).u32(0).u32(0).u32(0),
        Command::DeviceGetRegionInfo => {
            p.u32(argsz(script)).u32(0).u32(script.below(12) as u32).u32(0).u64(0).u64(0)
        }
        Command::DeviceGetRegionIoFds => {
            p.u32(argsz(script)).u32(0).u32(script.below(12) as u32).u32(0)
        }
        Command::DeviceGetIrqInfo => p.u32(argsz(script)).u32(0).u32(script.below(6) as u32).u32(0),
        Command::DeviceSetIrqs => {
            let data = script.pick(&[4, 1, 2, 0]);
            let action = script.pick(&[0x20, 0x08, 0x10, 0x38]);
            let (index, start) = (script.below(6) as u32, script.below(5) as u32);
            let count =
                if script.one_in(8) { script.number() as u32 } else { script.below(4) as u32 };
            let bytes = if data == 2 { script.bytes(count.min(64) as usize) } else { &[] };
            p.u32(20).u32(data | action).u32(index).u32(start).u32(count).bytes(bytes)
        }
        Command::RegionRead => {
            let (region, offset, len) = place(script);
            p.u64(offset).u32(region).u32(len)
        }
        Command::RegionWrite => {
            let (region, offset, len) = place(script);
            let p = p.u64(offset).u32(region).u32(len);
            match len {
                4 => p.u32(script.number() as u32),
                len => p.bytes(script.bytes(len.min(64) as usize)),
            }
        }
        Command::DmaRead => p.u64(address(script)).u64(size(script)),
        Command::DmaWrite => p.u64(address(script)).u64(4).bytes(&[0; 4]),
        Command::DeviceReset => p,
        Command::RegionWriteMulti => {
            let count = script.below(4) as u64;
            (0..count).fold(p.u64(count), |p, _| {
                let (region, offset, len) = place(script);
                p.u64(offset).u32(region).u32(len).u64(script.number())
            })
        }
        Command::DeviceFeature => return (command.as_u16(), feature(script)),
        Command::MigDataRead => p.u32(8).u32(script.pick(&[0x1_0000, 1, 16, 0x10_0000])),
        Command::MigDataWrite => {
            let bytes = script.bytes(32);
            p.u32(8).u32(bytes.len() as u32).bytes(bytes)
        }
    };
    (command.as_u16(), payload.0)
}

fn feature(script: &mut Script<'_>) -> Vec<u8> {
    const GET: u32 = 1 << 16;
    const SET: u32 = 1 << 17;
    const PROBE: u32 = 1 << 18;
    let feature = script.pick(&Feature::ALL);
    let number = u32::from(feature.as_u16());
    let p = Payload::default();
    if script.one_in(8) {
        return p.u32(argsz(script)).u32(number | PROBE | GET | SET).0;
    }
    match feature {
        Feature::Migration => p.u32(argsz(script)).u32(number | GET),
        Feature::DeviceState if script.one_in(4) => p.u32(argsz(script)).u32(number | GET),
        Feature::DeviceState => {
            p.u32(argsz(script)).u32(number | SET).u32(script.below(8) as u32).u32(0)
        }
        Feature::LoggingStart => {
            let ranges = script.below(3) as u32;
            let p = p.u32(argsz(script)).u32(number | SET).u64(4096).u32(ranges).u32(0);
            (0..ranges).fold(p, |p, _| p.u64(address(script)).u64(size(script)))
        }
        Feature::LoggingStop => p.u32(argsz(script)).u32(number | SET),
        Feature::LoggingReport => {
            let p = p.u32(argsz(script)).u32(number | GET);
            p.u64(address(script)).u64(size(script)).u64(script.pick(&[4096, 1, 1 << 20]))
        }
    }
    .0
}

/// SET of the migration state.
pub(crate) fn set_state(state: u32) -> (u16, Vec<u8>) {
    let number = u32::from(Feature::DeviceState.as_u16());
    let payload = Payload::default().u32(256).u32(number | 1 << 17).u32(state).u32(0);
    (Command::DeviceFeature.as_u16(), payload.0)
}
