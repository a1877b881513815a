//! The end of a session.

use super::executor::Executor;
use crate::device::{Device, Reset};
use crate::link::Link;
use crate::shared::Shared;

/// Takes back all that the client gave, and tells the device: mappings, eventfds, the session
/// itself. The device's state stays for the next client.
pub(super) fn disconnect<D: Device + ?Sized>(
    shared: &Shared,
    executor: &Executor,
    device: &mut D,
    link: &Link,
) {
    shared.set_live(None);
    for region in shared.table.remove_all() {
        executor.retire(device, link, &region);
    }
    shared.irqs.disconnect();
    device.reset(Reset::ConnectionLost);
}
