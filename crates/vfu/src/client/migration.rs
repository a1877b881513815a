//! Moving a device, from the client's side (specification, "VFIO_USER_DEVICE_FEATURE",
//! "VFIO_USER_MIG_DATA_READ", "VFIO_USER_MIG_DATA_WRITE").

use vfu_proto::wire::{
    Command, DeviceState, Errno, FeatureOp, FeatureRequest, FeatureResult, MigDataReadRequest,
    MigDataWriteRequest, MigrationFlags, Reply, Request,
};

use super::{Client, ClientError};

impl Client {
    /// The ways in which the device can be moved; `None` if it can't be.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn migration(&self) -> Result<Option<MigrationFlags>, ClientError> {
        match self.feature(FeatureOp::GetMigration, |result| match result {
            FeatureResult::GetMigration { flags } => Some(flags),
            _ => None,
        }) {
            Ok(flags) => Ok(Some(flags)),
            Err(ClientError::Refused { errno: Errno::EINVAL | Errno::ENOTTY, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The migration state of the device.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn device_state(&self) -> Result<DeviceState, ClientError> {
        self.feature(FeatureOp::GetDeviceState, |result| match result {
            FeatureResult::GetDeviceState { state, .. } => Some(state),
            _ => None,
        })
    }

    /// Brings the device to a migration state. It is there when this returns.
    ///
    /// # Errors
    /// See [`ClientError`]. The device may have come to a state on the way, or to
    /// [`DeviceState::Error`], from which only a reset leads.
    pub fn set_device_state(&self, state: DeviceState) -> Result<(), ClientError> {
        let data_fd = u32::MAX; // none
        self.feature(FeatureOp::SetDeviceState { state, data_fd }, |result| match result {
            FeatureResult::SetDeviceState { state: reached, .. } => {
                (reached == state).then_some(())
            }
            _ => None,
        })
    }

    pub(super) fn feature<T>(
        &self,
        op: FeatureOp<'_>,
        pick: impl FnOnce(FeatureResult<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        let reply = self.call(&Request::DeviceFeature(FeatureRequest::new(op)), &[])?;
        self.parse(Command::DeviceFeature, &reply, |reply| match reply {
            Reply::DeviceFeature(reply) => pick(reply.result),
            _ => None,
        })
    }

    /// Appends the next bytes of the device's state to `to`. Gives how many came: 0 at the end of
    /// what there is for now.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn read_state(&self, to: &mut Vec<u8>) -> Result<usize, ClientError> {
        let size = u32::try_from(self.max_transfer()).unwrap_or(u32::MAX);
        let reply = self.call(&Request::MigDataRead(MigDataReadRequest { size }), &[])?;
        self.parse(Command::MigDataRead, &reply, |reply| match reply {
            Reply::MigDataRead(reply) if reply.data.len() <= size as usize => {
                to.extend_from_slice(reply.data);
                Some(reply.data.len())
            }
            _ => None,
        })
    }

    /// Gives the device more of a state that was saved, in as many messages as it takes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn write_state(&self, bytes: &[u8]) -> Result<(), ClientError> {
        for data in bytes.chunks(self.max_transfer()) {
            let reply = self.call(&Request::MigDataWrite(MigDataWriteRequest { data }), &[])?;
            self.recycle(reply);
        }
        Ok(())
    }
}
