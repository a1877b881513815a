//! How much of this process's address space a peer may take by what it has us map.

use std::sync::Arc;

use rustix::io::Errno;

use crate::sync::atomic::{AtomicU64, Ordering};

/// The default, in bytes: an eighth of what a process has.
const MOST: u64 = 16 << 40;

/// Addresses that are left, in bytes.
#[derive(Debug)]
pub(crate) struct Addresses {
    left: AtomicU64,
}

/// Addresses that are taken. They are given back with it.
#[derive(Debug)]
pub(crate) struct Taken {
    from: Arc<Addresses>,
    bytes: u64,
}

impl Default for Addresses {
    fn default() -> Self {
        Addresses { left: AtomicU64::new(MOST) }
    }
}

impl Addresses {
    /// Another limit. Nothing may be taken yet.
    pub(crate) fn limit(&self, bytes: u64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// # Errors
    /// `ENOSPC`: so many are not left.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Result<Taken, Errno> {
        let order = (Ordering::SeqCst, Ordering::SeqCst);
        let taken = self.left.fetch_update(order.0, order.1, |left| left.checked_sub(bytes));
        taken.map(|_| Taken { from: self.clone(), bytes }).map_err(|_| Errno::NOSPC)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.from.left.fetch_add(self.bytes, Ordering::SeqCst);
    }
}
