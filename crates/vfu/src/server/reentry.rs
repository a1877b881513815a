//! Executing commands while a handler waits.

use std::sync::{Arc, Weak};

use super::executor::Executor;
use crate::link::{Claim, Link, Message, Reenter};
use crate::reentrant::{Reentrant, SharedDevice};

/// A device that may be called again, and what calls it. The server has both, and this is a part of what
/// they hold: it keeps neither of them.
pub(super) struct Reentry<D> {
    executor: Weak<Executor>,
    device: Weak<D>,
}

impl<D> Reentry<D> {
    pub(super) fn new(executor: &Arc<Executor>, device: &Reentrant<D>) -> Reentry<D> {
        Reentry { executor: Arc::downgrade(executor), device: Arc::downgrade(device.get()) }
    }
}

impl<D: SharedDevice> Reenter for Reentry<D> {
    fn claim(&self, link: &Link) -> Option<Claim<'_>> {
        // The handler that waits is in the thread that executes: nobody else does.
        (!self.executor.upgrade()?.is_paused(link)).then(Claim::default)
    }

    fn reenter(&self, link: &Arc<Link>, command: Message) {
        // A handler waits: the server is there.
        if let (Some(executor), Some(device)) = (self.executor.upgrade(), self.device.upgrade()) {
            let done = executor.execute(&mut Reentrant::of(device), link, command);
            link.recycle(done);
        }
    }
}
