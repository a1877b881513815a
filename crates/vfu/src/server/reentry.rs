//! Executing commands while a handler waits.

use std::sync::Arc;

use super::executor::Executor;
use crate::link::{Claim, Link, Message, Reenter};
use crate::reentrant::{Reentrant, SharedDevice};

/// A device that may be called again, and what calls it.
pub(super) struct Reentry<D> {
    pub(super) executor: Arc<Executor>,
    pub(super) device: Reentrant<D>,
}

impl<D: SharedDevice> Reenter for Reentry<D> {
    fn claim(&self, link: &Link) -> Option<Claim<'_>> {
        // The handler that waits is in the thread that executes: nobody else does.
        (!self.executor.is_paused(link)).then(Claim::default)
    }

    fn reenter(&self, link: &Arc<Link>, command: Message) {
        let done = self.executor.execute(&mut self.device.clone(), link, command);
        link.recycle(done);
    }
}
