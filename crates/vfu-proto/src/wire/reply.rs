//! The payload of any successful reply.

use super::{
    Command, DeviceInfo, DmaReadReply, DmaUnmapReply, DmaWriteReply, Errno, FeatureReply,
    IoFdsReply, IrqInfo, MigDataReadReply, RegionInfo, RegionReadReply, RegionWriteReply, Version,
    WriteMultiReply,
};

/// What a successful reply says. Bulk data is borrowed from the payload. An error reply has no
/// payload; one that has some all the same says nothing by it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply<'a> {
    /// To VERSION.
    Version(Version),
    /// To DMA_MAP.
    DmaMap,
    /// To DMA_UNMAP.
    DmaUnmap(DmaUnmapReply<'a>),
    /// To DEVICE_GET_INFO.
    DeviceGetInfo(DeviceInfo),
    /// To DEVICE_GET_REGION_INFO.
    DeviceGetRegionInfo(RegionInfo),
    /// To DEVICE_GET_REGION_IO_FDS.
    DeviceGetRegionIoFds(IoFdsReply),
    /// To DEVICE_GET_IRQ_INFO.
    DeviceGetIrqInfo(IrqInfo),
    /// To DEVICE_SET_IRQS.
    DeviceSetIrqs,
    /// To REGION_READ.
    RegionRead(RegionReadReply<'a>),
    /// To REGION_WRITE.
    RegionWrite(RegionWriteReply),
    /// To DMA_READ.
    DmaRead(DmaReadReply<'a>),
    /// To DMA_WRITE.
    DmaWrite(DmaWriteReply),
    /// To DEVICE_RESET.
    DeviceReset,
    /// To REGION_WRITE_MULTI.
    RegionWriteMulti(WriteMultiReply),
    /// To DEVICE_FEATURE.
    DeviceFeature(FeatureReply<'a>),
    /// To MIG_DATA_READ.
    MigDataRead(MigDataReadReply<'a>),
    /// To MIG_DATA_WRITE.
    MigDataWrite,
}

impl<'a> Reply<'a> {
    /// Reads the payload of a successful reply to `command`. Whether it fits what was asked is for
    /// the asker to check.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a payload that is none of this command; see the `parse` of each type.
    pub fn parse(command: Command, payload: &'a [u8]) -> Result<Reply<'a>, Errno> {
        Ok(match command {
            Command::Version => Reply::Version(Version::parse(payload)?),
            Command::DmaMap => Reply::DmaMap,
            Command::DmaUnmap => Reply::DmaUnmap(DmaUnmapReply::parse(payload)?),
            Command::DeviceGetInfo => Reply::DeviceGetInfo(DeviceInfo::parse(payload)?),
            Command::DeviceGetRegionInfo => Reply::DeviceGetRegionInfo(RegionInfo::parse(payload)?),
            Command::DeviceGetRegionIoFds => {
                Reply::DeviceGetRegionIoFds(IoFdsReply::parse(payload)?)
            }
            Command::DeviceGetIrqInfo => Reply::DeviceGetIrqInfo(IrqInfo::parse(payload)?),
            Command::DeviceSetIrqs => Reply::DeviceSetIrqs,
            Command::RegionRead => Reply::RegionRead(RegionReadReply::parse(payload)?),
            Command::RegionWrite => Reply::RegionWrite(RegionWriteReply::parse(payload)?),
            Command::DmaRead => Reply::DmaRead(DmaReadReply::parse(payload)?),
            Command::DmaWrite => Reply::DmaWrite(DmaWriteReply::parse(payload)?),
            Command::DeviceReset => Reply::DeviceReset,
            Command::RegionWriteMulti => Reply::RegionWriteMulti(WriteMultiReply::parse(payload)?),
            Command::DeviceFeature => Reply::DeviceFeature(FeatureReply::parse(payload)?),
            Command::MigDataRead => Reply::MigDataRead(MigDataReadReply::parse(payload)?),
            Command::MigDataWrite => Reply::MigDataWrite,
        })
    }

    /// The command that this answers.
    pub fn command(&self) -> Command {
        match self {
            Reply::Version(_) => Command::Version,
            Reply::DmaMap => Command::DmaMap,
            Reply::DmaUnmap(_) => Command::DmaUnmap,
            Reply::DeviceGetInfo(_) => Command::DeviceGetInfo,
            Reply::DeviceGetRegionInfo(_) => Command::DeviceGetRegionInfo,
            Reply::DeviceGetRegionIoFds(_) => Command::DeviceGetRegionIoFds,
            Reply::DeviceGetIrqInfo(_) => Command::DeviceGetIrqInfo,
            Reply::DeviceSetIrqs => Command::DeviceSetIrqs,
            Reply::RegionRead(_) => Command::RegionRead,
            Reply::RegionWrite(_) => Command::RegionWrite,
            Reply::DmaRead(_) => Command::DmaRead,
            Reply::DmaWrite(_) => Command::DmaWrite,
            Reply::DeviceReset => Command::DeviceReset,
            Reply::RegionWriteMulti(_) => Command::RegionWriteMulti,
            Reply::DeviceFeature(_) => Command::DeviceFeature,
            Reply::MigDataRead(_) => Command::MigDataRead,
            Reply::MigDataWrite => Command::MigDataWrite,
        }
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Version(reply) => reply.emit(out),
            Reply::DmaUnmap(reply) => reply.emit(out),
            Reply::DeviceGetInfo(reply) => reply.emit(out),
            Reply::DeviceGetRegionInfo(reply) => reply.emit(out),
            Reply::DeviceGetRegionIoFds(reply) => reply.emit(out),
            Reply::DeviceGetIrqInfo(reply) => reply.emit(out),
            Reply::RegionRead(reply) => reply.emit(out),
            Reply::RegionWrite(reply) => reply.emit(out),
            Reply::DmaRead(reply) => reply.emit(out),
            Reply::DmaWrite(reply) => reply.emit(out),
            Reply::RegionWriteMulti(reply) => reply.emit(out),
            Reply::DeviceFeature(reply) => reply.emit(out),
            Reply::MigDataRead(reply) => reply.emit(out),
            Reply::DmaMap | Reply::DeviceSetIrqs | Reply::DeviceReset | Reply::MigDataWrite => {}
        }
    }
}
