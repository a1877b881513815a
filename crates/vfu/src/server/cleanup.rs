//! The end of a session.

use std::sync::Arc;

use super::executor::Executor;
use crate::context::{self, Inside};
use crate::device::{Device, Reset};
use crate::irq;
use crate::link::Link;
use crate::shared::{Gate, Shared};

/// Takes back all that the client gave, and tells the device: mappings, eventfds, the session
/// itself. The device's state stays for the next client.
pub(super) fn disconnect<D: Device + ?Sized>(
    shared: &Shared,
    executor: &Executor,
    device: &mut D,
    link: &Arc<Link>,
) {
    shared.set_live(None);
    irq::abandon(shared);
    executor.stop_logging();
    executor.unmap_all(device, link);
    shared.irqs.disconnect();
    shared.regions.disconnect();
    executor.disconnect_migration();
    shared.set_gate(Gate::Open);
    context::run(shared, Inside::Callback, || device.reset(Reset::ConnectionLost));
    shared.seldom.tell_rest(false);
}
