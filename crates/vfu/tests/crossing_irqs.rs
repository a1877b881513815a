//! Crossing traffic, interrupts: what is held back or coalesced waits for the writes before it all the
//! same (C11c), and is not lost.

mod crossing;

use std::time::Duration;

use crossing::*;
use vfu::wire::{IrqAction, IrqData, Request, SetIrqs};
use vfu::{Coalescing, IrqIndex};

fn set(peer: &Peer, index: IrqIndex, action: IrqAction) {
    let (data, index) = (IrqData::None, index as u32);
    let request = Request::DeviceSetIrqs(SetIrqs { index, start: 0, count: 1, action, data });
    assert_eq!(peer.main.call(9, &request).unwrap().errno(), None);
}

#[test]
fn unmasking_does_not_overtake_writes() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let msix = peer.interrupt(IrqIndex::Msix);
        for face in FACES {
            set(&peer, IrqIndex::Msix, IrqAction::Mask);
            let write = face.write(&bench.handle, BASE, vec![1; 8]);
            let (told, ..) = peer.told();
            bench.handle.vector(0).trigger().unwrap();
            set(&peer, IrqIndex::Msix, IrqAction::Unmask);
            peer.is_quiet();
            assert_eq!(msix.count_now(0).unwrap(), 0, "unmasked before the write ended");
            peer.ack(&told, BASE, 8);
            assert_eq!((write.end(), msix.wait(0).unwrap()), (Ok(()), 1), "{face:?}");

            set(&peer, IrqIndex::Msix, IrqAction::Mask);
            let write = face.write(&bench.handle, BASE, vec![1; 8]);
            let (told, ..) = peer.told();
            bench.handle.vector(0).trigger().unwrap();
            peer.ack(&told, BASE, 8);
            assert_eq!(write.end(), Ok(()));
            peer.is_quiet();
            assert_eq!(msix.count_now(0).unwrap(), 0, "masked when the write ended");
            set(&peer, IrqIndex::Msix, IrqAction::Unmask);
            assert_eq!(msix.wait(0).unwrap(), 1, "{face:?}");
        }
    }
}

#[test]
fn err_waits_for_writes() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let err = peer.interrupt(IrqIndex::Err);
        for face in FACES {
            let write = face.write(&bench.handle, BASE, vec![1; 8]);
            let (told, ..) = peer.told();
            bench.handle.err().trigger().unwrap();
            peer.is_quiet();
            assert_eq!(err.count_now(0).unwrap(), 0);
            peer.ack(&told, BASE, 8);
            assert_eq!((write.end(), err.wait(0).unwrap()), (Ok(()), 1), "{face:?}");
        }
    }
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn coalescing_holds_so_many_and_no_more() {
    let rule = Coalescing::every(LONG).max_held(3);
    let settings = |builder: vfu::server::Builder| builder.coalesce(rule);
    let bench = Bench::with(Style::Run, settings, |gadget| gadget);
    let peer = bench.peer(false);
    let msix = peer.interrupt(IrqIndex::Msix);
    let vector = bench.handle.vector(0);
    let raise = || {
        vector.trigger().unwrap();
        msix.count_now(0).unwrap()
    };
    assert_eq!([raise(), raise(), raise(), raise()], [1, 0, 0, 1]);
    assert_eq!([raise(), raise(), raise(), raise()], [0, 0, 1, 0]);
    // Another rule: what is held is signalled.
    vector.coalesce(None);
    assert_eq!(msix.count_now(0).unwrap(), 1);
    assert_eq!([raise(), raise()], [1, 1]);

    // What is held goes on being held in a mask, and comes when that is gone.
    vector.coalesce(Some(Coalescing::every(LONG)));
    assert_eq!([raise(), raise()], [1, 0]);
    set(&peer, IrqIndex::Msix, IrqAction::Mask);
    set(&peer, IrqIndex::Msix, IrqAction::Unmask);
    assert_eq!(msix.count_now(0).unwrap(), 1);
    assert_eq!(raise(), 0);
    bench.handle.vector(1).coalesce(None);
    assert_eq!(msix.count_now(0).unwrap(), 0, "another vector's rule");
}

/// Nobody raises it again, and the client sends nothing: the end of the interval brings it.
#[test]
fn the_last_interrupt_comes_when_the_interval_ends() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let msix = peer.interrupt(IrqIndex::Msix);
        let vector = bench.handle.vector(0);
        vector.coalesce(Some(Coalescing::every(Duration::from_millis(20))));
        for turn in 0..3 {
            vector.trigger().unwrap();
            assert_eq!(msix.wait(0).unwrap(), 1);
            vector.trigger().unwrap();
            assert_eq!(msix.wait(0).unwrap(), 1, "{style:?} {twin} {turn}");
        }
    }
}
