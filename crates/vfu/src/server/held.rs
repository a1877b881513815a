//! Replies that wait for memory to be written.

use std::sync::{Arc, PoisonError};
use std::task::{Wake, Waker};

use super::executor::Call;
use crate::link::Link;
use crate::sync::Mutex;
use vfu_proto::wire::Header;

/// A reply to a register read that may not overtake the DMA_WRITEs before it. On a single socket
/// the stream keeps them in order; on two nothing does but waiting.
#[derive(Debug)]
pub(super) struct Held {
    link: Arc<Link>,
    header: Header,
    out: Mutex<Vec<u8>>,
}

impl Held {
    /// Holds the reply in `out` back until the writes under way are acknowledged, or given up. False
    /// if there is nothing to wait for.
    pub(super) fn behind_writes(call: Call<'_>, out: &mut Vec<u8>) -> bool {
        if !call.link.has_twin() || call.header.wants_no_reply() {
            return false;
        }
        let (link, header) = (call.link.clone(), call.header);
        call.link.wake_after_writes(|| {
            Waker::from(Arc::new(Held { link, header, out: Mutex::new(std::mem::take(out)) }))
        })
    }
}

impl Wake for Held {
    fn wake(self: Arc<Self>) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _closed = Call { link: &self.link, header: self.header }.reply(&mut out, &[]);
        self.link.nudge_if_unsent();
    }
}
