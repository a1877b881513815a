//! Bringing a device to rest before something changes under it.

use std::sync::{Arc, PoisonError, Weak};

use vfu_proto::wire::Errno;

use crate::link::Link;
use crate::sync::Mutex;

/// A request to come to rest: see [`Device::quiesce`](crate::Device::quiesce).
#[derive(Debug)]
pub struct Quiesce<'a> {
    link: &'a Arc<Link>,
    taken: Option<Arc<Pending>>,
    at_rest: bool,
}

/// Whether a device has come to rest.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<Option<Result<(), Errno>>>);

impl Pending {
    /// What the device said, once it has.
    pub(crate) fn result(&self) -> Option<Result<(), Errno>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, result: Result<(), Errno>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(result);
    }
}

impl<'a> Quiesce<'a> {
    pub(crate) fn new(link: &'a Arc<Link>) -> Self {
        Quiesce { link, taken: None, at_rest: false }
    }

    /// The device needs time. What it returns now does not matter; it says later, with the token,
    /// that it has come to rest.
    pub fn later(&mut self) -> Quiescing {
        let pending = self.taken.get_or_insert_default().clone();
        self.link.attended();
        Quiescing { pending, link: Arc::downgrade(self.link) }
    }

    /// The device has come to rest already: DMA is refused from now on, until it is resumed.
    pub fn now(&mut self) {
        self.at_rest = true;
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.at_rest
    }

    pub(crate) fn into_pending(self) -> Option<Arc<Pending>> {
        self.taken
    }
}

/// A device on its way to rest. From any thread it says that it has come there; dropped, too.
#[derive(Debug)]
pub struct Quiescing {
    pending: Arc<Pending>,
    link: Weak<Link>,
}

impl Quiescing {
    /// The device has come to rest. It starts no DMA until it is resumed.
    pub fn done(self) {
        self.pending.set(Ok(()));
    }

    /// It can't: the client's command fails with `errno`.
    pub fn failed(self, errno: Errno) {
        self.pending.set(Err(errno));
    }
}

impl Drop for Quiescing {
    fn drop(&mut self) {
        self.pending.set(Ok(()));
        if let Some(link) = self.link.upgrade() {
            link.kick();
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
