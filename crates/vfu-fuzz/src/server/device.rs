//! The device that a hostile server has until it turns hostile: it answers as a good one.

use std::os::fd::OwnedFd;

use vfu_proto::wire::{
    Command, Errno, FeatureOp, FeatureRequest, MigDataReadRequest, RegionReadRequest,
    RegionWriteRequest, Request,
};

use crate::channel::Incoming;
use crate::descriptors::Descriptor;

/// The region with an area that can be mapped, its size, and the size of the area.
const MAPPED: (u64, u64, u64) = (2, 0x4000, 0x2000);

/// Vectors of INTx, MSI, MSI-X, ERR and REQ.
const VECTORS: [u32; 5] = [1, 0, 4, 1, 1];

/// The largest answer to a read.
const MOST: u32 = 1 << 20;

/// A well-behaved device.
#[derive(Debug)]
pub(super) struct Device {
    config: [u8; 256],
    state: u32,
    saved: usize,
}

/// A payload and its descriptors.
pub(super) type Answer = (Vec<u8>, Vec<OwnedFd>);

impl Device {
    pub(super) fn new() -> Device {
        let mut config = [0; 256];
        let known: [(usize, &[u8]); 6] = [
            (0x00, &[0x34, 0x12, 0xad, 0xba, 0, 0, 0x10, 0]), // with a list of capabilities
            (0x08, &[1, 0, 0, 0xff]),
            (0x2c, &[0x34, 0x12, 0x01, 0]),
            (0x34, &[0x40]),
            (0x3c, &[0, 1]),
            (0x40, &[0x11, 0, 3, 0, 0, 8, 0, 0, 0, 0x0c, 0, 0]), // MSI-X, 4 vectors, in BAR 0
        ];
        for (at, bytes) in known {
            config.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        }
        Device { config, state: 2, saved: 0 }
    }

    /// The answer to a command other than VERSION.
    pub(super) fn answer(&mut self, message: &Incoming) -> Result<Answer, Errno> {
        let command = Command::from_u16(message.header.command).ok_or(Errno::EINVAL)?;
        let payload = message.payload.as_slice();
        let bytes = |bytes| Ok((bytes, Vec::new()));
        match Request::parse(command, payload)? {
            Request::DeviceGetInfo(_) => bytes(words(&[16, 3, 9, 5])),
            Request::DeviceGetRegionInfo(request) => self.region_info(request.argsz, request.index),
            Request::DeviceGetRegionIoFds(request) => bytes(words(&[16, 0, request.index, 0])),
            Request::DeviceGetIrqInfo(request) => {
                let count = VECTORS.get(request.index as usize).ok_or(Errno::EINVAL)?;
                bytes(words(&[16, if request.index == 0 { 7 } else { 9 }, request.index, *count]))
            }
            Request::RegionRead(request) => bytes(self.read(&request)?),
            Request::RegionWrite(request) => {
                self.write(&request);
                bytes(payload.get(..16).unwrap_or_default().to_vec())
            }
            Request::RegionWriteMulti(_) => bytes(payload.get(..8).unwrap_or_default().to_vec()),
            Request::DmaUnmap(_) => bytes(payload.get(..24).unwrap_or_default().to_vec()),
            Request::DmaMap(_) | Request::DeviceSetIrqs(_) | Request::DeviceReset => bytes(vec![]),
            Request::DeviceFeature(request) => bytes(self.feature(&request, payload)?),
            Request::MigDataRead(request) => bytes(self.saved(&request)),
            Request::MigDataWrite(_) => bytes(Vec::new()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn region_info(&self, argsz: u32, index: u32) -> Result<Answer, Errno> {
        let info = |argsz: u32, flags: u32, cap: u32, size: u64| {
            let mut bytes = words(&[argsz, flags, index, cap]);
            bytes.extend(size.to_le_bytes());
            bytes.extend(0_u64.to_le_bytes());
            bytes
        };
        let (mapped, size, area) = MAPPED;
        match index {
            0 => Ok((info(32, 3, 0, 4096), Vec::new())),
            7 => Ok((info(32, 3, 0, 256), Vec::new())),
            _ if u64::from(index) == mapped && argsz >= 64 => {
                let mut bytes = info(64, 15, 32, size);
                bytes.extend(words(&[1 | 1 << 16, 0, 1, 0]));
                bytes.extend(0_u64.to_le_bytes());
                bytes.extend(area.to_le_bytes());
                let memory = Descriptor::Memfd(size).open(&mut Vec::new());
                Ok((bytes, memory.into_iter().collect()))
            }
            _ if u64::from(index) == mapped => Ok((info(64, 7, 0, size), Vec::new())),
            _ if index < 9 => Ok((info(32, 0, 0, 0), Vec::new())),
            _ => Err(Errno::EINVAL),
        }
    }

    fn read(&self, request: &RegionReadRequest) -> Result<Vec<u8>, Errno> {
        let count = request.count.min(MOST) as usize;
        let mut bytes = request.offset.to_le_bytes().to_vec();
        bytes.extend(words(&[request.region, count as u32]));
        let end = bytes.len() + count;
        if request.region == 7 {
            let from = usize::try_from(request.offset).map_err(|_| Errno::EINVAL)?;
            bytes.extend(self.config.iter().skip(from).take(count));
        }
        bytes.resize(end, 0);
        Ok(bytes)
    }

    fn write(&mut self, request: &RegionWriteRequest<'_>) {
        if request.region != 7 {
            return;
        }
        let from = usize::try_from(request.offset).unwrap_or(usize::MAX);
        for (byte, at) in request.data.iter().zip(from..) {
            // Command, the BARs by their sizes, interrupt line, and the control of MSI-X.
            let mask = match at {
                0x04 | 0x3c => 0xff,
                0x05 => 0x07,
                0x11 => 0xf0,
                0x19 => 0xc0,
                0x12 | 0x13 | 0x1a | 0x1b => 0xff,
                0x43 => 0xc0,
                _ => 0,
            };
            if let Some(to) = self.config.get_mut(at) {
                *to = *to & !mask | byte & mask;
            }
        }
    }

    fn feature(&mut self, request: &FeatureRequest<'_>, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let flags = payload.get(4..8).unwrap_or_default();
        let reply = |data: &[u8]| {
            let argsz = (8 + data.len()) as u32;
            [&argsz.to_le_bytes()[..], flags, data].concat()
        };
        match &request.op {
            FeatureOp::GetMigration => Ok(reply(&5_u64.to_le_bytes())),
            FeatureOp::GetDeviceState => Ok(reply(&words(&[self.state, 0]))),
            FeatureOp::SetDeviceState { .. } => {
                let state = payload.get(8..).and_then(|data| data.first_chunk::<4>());
                self.state = state.map_or(2, |state| u32::from_le_bytes(*state));
                self.saved = 0;
                Ok(payload.to_vec())
            }
            FeatureOp::GetLoggingReport { length, page_size, .. } => {
                let pages = length.div_ceil((*page_size).max(1));
                let bitmap = (pages.div_ceil(64) * 8).min(1 << 20) as usize;
                let head = payload.get(8..32).unwrap_or_default();
                Ok(reply(&[head, &vec![0; bitmap]].concat()))
            }
            _ => Ok(payload.to_vec()),
        }
    }

    /// A state of 100 bytes.
    fn saved(&mut self, request: &MigDataReadRequest) -> Vec<u8> {
        let n = (100 - self.saved.min(100)).min(request.size as usize);
        self.saved += n;
        let mut bytes = words(&[8 + n as u32, n as u32]);
        bytes.resize(8 + n, 0x5a);
        bytes
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
