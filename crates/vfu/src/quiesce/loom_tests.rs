//! The executor learns that the device has come to rest.

use std::sync::Arc;

use loom::thread;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vfu_proto::session::{Limits, Role};
use vfu_proto::wire::Errno;

use super::Quiesce;
use crate::link::Link;

/// It looks once when it puts the command off, and after that only when it is kicked.
#[test]
fn rest_is_seen_or_kicks() {
    loom::model(|| {
        let flags = SocketFlags::CLOEXEC;
        let (ours, _theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let link = Arc::new(Link::new(ours, Role::Server, Limits::default()));
        let mut quiesce = Quiesce::new(&link);
        let token = quiesce.later();
        let pending = quiesce.into_pending().unwrap();
        let device = thread::spawn(move || token.failed(Errno::EBUSY));
        let early = pending.result();
        device.join().unwrap();
        assert_eq!(pending.result(), Some(Err(Errno::EBUSY)), "the first word counts");
        assert!(early.is_some() || link.take_kick(), "it came to rest and nobody looks");
    });
}
