//! The payload of any command.

use super::{
    Command, DeviceInfoRequest, DmaMap, DmaReadRequest, DmaUnmapRequest, DmaWriteRequest, Errno,
    FeatureRequest, IoFdsRequest, IrqInfoRequest, MigDataReadRequest, MigDataWriteRequest,
    RegionInfoRequest, RegionReadRequest, RegionWriteRequest, SetIrqs, Version, WriteMulti,
};

/// What a command asks for. Bulk data is borrowed from the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// VERSION.
    Version(Version),
    /// DMA_MAP.
    DmaMap(DmaMap),
    /// DMA_UNMAP.
    DmaUnmap(DmaUnmapRequest),
    /// DEVICE_GET_INFO.
    DeviceGetInfo(DeviceInfoRequest),
    /// DEVICE_GET_REGION_INFO.
    DeviceGetRegionInfo(RegionInfoRequest),
    /// DEVICE_GET_REGION_IO_FDS.
    DeviceGetRegionIoFds(IoFdsRequest),
    /// DEVICE_GET_IRQ_INFO.
    DeviceGetIrqInfo(IrqInfoRequest),
    /// DEVICE_SET_IRQS.
    DeviceSetIrqs(SetIrqs<'a>),
    /// REGION_READ.
    RegionRead(RegionReadRequest),
    /// REGION_WRITE.
    RegionWrite(RegionWriteRequest<'a>),
    /// DMA_READ.
    DmaRead(DmaReadRequest),
    /// DMA_WRITE.
    DmaWrite(DmaWriteRequest<'a>),
    /// DEVICE_RESET.
    DeviceReset,
    /// REGION_WRITE_MULTI.
    RegionWriteMulti(WriteMulti<'a>),
    /// DEVICE_FEATURE.
    DeviceFeature(FeatureRequest<'a>),
    /// MIG_DATA_READ.
    MigDataRead(MigDataReadRequest),
    /// MIG_DATA_WRITE.
    MigDataWrite(MigDataWriteRequest<'a>),
}

impl<'a> Request<'a> {
    /// Reads the payload of a command. Whose command it is, is not looked at; see
    /// [`Command::is_from_server`].
    ///
    /// # Errors
    /// The error to reply with, nearly always [`Errno::EINVAL`]; see the `parse` of each type.
    pub fn parse(command: Command, payload: &'a [u8]) -> Result<Request<'a>, Errno> {
        Ok(match command {
            Command::Version => Request::Version(Version::parse(payload)?),
            Command::DmaMap => Request::DmaMap(DmaMap::parse(payload)?),
            Command::DmaUnmap => Request::DmaUnmap(DmaUnmapRequest::parse(payload)?),
            Command::DeviceGetInfo => Request::DeviceGetInfo(DeviceInfoRequest::parse(payload)?),
            Command::DeviceGetRegionInfo => {
                Request::DeviceGetRegionInfo(RegionInfoRequest::parse(payload)?)
            }
            Command::DeviceGetRegionIoFds => {
                Request::DeviceGetRegionIoFds(IoFdsRequest::parse(payload)?)
            }
            Command::DeviceGetIrqInfo => Request::DeviceGetIrqInfo(IrqInfoRequest::parse(payload)?),
            Command::DeviceSetIrqs => Request::DeviceSetIrqs(SetIrqs::parse(payload)?),
            Command::RegionRead => Request::RegionRead(RegionReadRequest::parse(payload)?),
            Command::RegionWrite => Request::RegionWrite(RegionWriteRequest::parse(payload)?),
            Command::DmaRead => Request::DmaRead(DmaReadRequest::parse(payload)?),
            Command::DmaWrite => Request::DmaWrite(DmaWriteRequest::parse(payload)?),
            Command::DeviceReset => Request::DeviceReset,
            Command::RegionWriteMulti => Request::RegionWriteMulti(WriteMulti::parse(payload)?),
            Command::DeviceFeature => Request::DeviceFeature(FeatureRequest::parse(payload)?),
            Command::MigDataRead => Request::MigDataRead(MigDataReadRequest::parse(payload)?),
            Command::MigDataWrite => Request::MigDataWrite(MigDataWriteRequest::parse(payload)?),
        })
    }

    /// The command that this is the payload of.
    pub fn command(&self) -> Command {
        match self {
            Request::Version(_) => Command::Version,
            Request::DmaMap(_) => Command::DmaMap,
            Request::DmaUnmap(_) => Command::DmaUnmap,
            Request::DeviceGetInfo(_) => Command::DeviceGetInfo,
            Request::DeviceGetRegionInfo(_) => Command::DeviceGetRegionInfo,
            Request::DeviceGetRegionIoFds(_) => Command::DeviceGetRegionIoFds,
            Request::DeviceGetIrqInfo(_) => Command::DeviceGetIrqInfo,
            Request::DeviceSetIrqs(_) => Command::DeviceSetIrqs,
            Request::RegionRead(_) => Command::RegionRead,
            Request::RegionWrite(_) => Command::RegionWrite,
            Request::DmaRead(_) => Command::DmaRead,
            Request::DmaWrite(_) => Command::DmaWrite,
            Request::DeviceReset => Command::DeviceReset,
            Request::RegionWriteMulti(_) => Command::RegionWriteMulti,
            Request::DeviceFeature(_) => Command::DeviceFeature,
            Request::MigDataRead(_) => Command::MigDataRead,
            Request::MigDataWrite(_) => Command::MigDataWrite,
        }
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Request::Version(request) => request.emit(out),
            Request::DmaMap(request) => request.emit(out),
            Request::DmaUnmap(request) => request.emit(out),
            Request::DeviceGetInfo(request) => request.emit(out),
            Request::DeviceGetRegionInfo(request) => request.emit(out),
            Request::DeviceGetRegionIoFds(request) => request.emit(out),
            Request::DeviceGetIrqInfo(request) => request.emit(out),
            Request::DeviceSetIrqs(request) => request.emit(out),
            Request::RegionRead(request) => request.emit(out),
            Request::RegionWrite(request) => request.emit(out),
            Request::DmaRead(request) => request.emit(out),
            Request::DmaWrite(request) => request.emit(out),
            Request::DeviceReset => {}
            Request::RegionWriteMulti(request) => request.emit(out),
            Request::DeviceFeature(request) => request.emit(out),
            Request::MigDataRead(request) => request.emit(out),
            Request::MigDataWrite(request) => request.emit(out),
        }
    }
}
