//! Interrupts that are held for a while: the end of the interval finds somebody.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use shuttle::thread;
use vfu_proto::wire::{IrqAction, IrqData, Request, SetIrqs};

use super::peer::Peer;
use super::server::server;
use super::{check, no_timeouts};
use crate::sync::clock::advance;
use crate::sync::kernel::poll;
use crate::{Coalescing, Handle};

const INTERVAL: Duration = Duration::from_secs(1);

fn set(peer: &mut Peer, action: IrqAction, eventfd: Option<&OwnedFd>) {
    let data = if eventfd.is_some() { IrqData::EventFd } else { IrqData::None };
    let request = SetIrqs { index: 2, start: 0, count: 1, action, data };
    let fds: Vec<_> = eventfd.iter().map(AsFd::as_fd).collect();
    let id = peer.ask_with(&Request::DeviceSetIrqs(request), &fds);
    peer.reply_to(id, &mut Vec::new());
}

/// How often it was signalled since the last look.
fn count(eventfd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(eventfd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}

fn wait(eventfd: &OwnedFd) {
    poll(&mut [PollFd::new(eventfd, PollFlags::IN)], None).unwrap();
    assert_ne!(count(eventfd), 0);
}

/// A server at work, and time that passes after `meanwhile`.
fn held(meanwhile: impl Fn(&Handle, &mut Peer, &OwnedFd) + Clone + Send + Sync + 'static) {
    check(move || {
        let (mut server, _, mut peer) = server(no_timeouts());
        let (handle, stopper) = (server.handle(), server.stopper());
        let serving = thread::spawn(move || server.run().unwrap());
        peer.begin();
        let irq = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        set(&mut peer, IrqAction::Trigger, Some(&irq));
        handle.vector(0).coalesce(Some(Coalescing::every(INTERVAL)));
        handle.vector(0).trigger().unwrap();
        assert_eq!(count(&irq), 1);
        handle.vector(0).trigger().unwrap();
        assert_eq!(count(&irq), 0);
        meanwhile(&handle, &mut peer, &irq);
        peer.hang_up();
        stopper.stop();
        serving.join().unwrap();
    });
}

/// Whatever the server's thread does when the interval begins: nobody else will wake it.
#[test]
fn the_end_of_an_interval_is_noticed() {
    held(|_, _, irq| {
        advance(INTERVAL);
        wait(irq);
    });
}

/// One is held again while the end of the interval before it is being noticed.
#[test]
fn one_more_at_the_end_of_an_interval() {
    held(|handle, _, irq| {
        let vector = handle.vector(0);
        let raising = thread::spawn(move || vector.trigger().unwrap());
        advance(INTERVAL);
        raising.join().unwrap();
        wait(irq);
        // It may have been part of that, or be held.
        advance(INTERVAL);
        handle.vector(0).trigger().unwrap();
        wait(irq);
    });
}

/// The client masks and unmasks the vector just then.
#[test]
fn a_mask_at_the_end_of_an_interval() {
    held(|_, peer, irq| {
        let clock = thread::spawn(|| advance(INTERVAL));
        set(peer, IrqAction::Mask, None);
        set(peer, IrqAction::Unmask, None);
        clock.join().unwrap();
        assert_eq!(count(irq), 1, "signalled before the mask, or when it went");
    });
}
