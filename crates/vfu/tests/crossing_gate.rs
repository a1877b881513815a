//! Crossing traffic: when a device may not start DMA at all (C12, C21, C22). C5d, a device that
//! the client has stopped, is in `migration.rs`; a device at rest is in `crossing_quiesce.rs`.

mod crossing;

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};

use crossing::*;
use vfu::dma::Direction;
use vfu::wire::{Command, Errno};
use vfu::{DmaError, Handle, IrqError, IrqIndex};
use vfu_testkit::RawPeer;

/// What each way to ask comes to on this very thread, which may not wait.
fn tried_here(handle: &Handle, address: u64) -> Vec<Result<(), DmaError>> {
    let dma = handle.dma();
    let mut byte = [0];
    let mut results = vec![dma.read(address, &mut byte), dma.write(address, &byte)];
    {
        let mut future = pin!(dma.read_async(address, &mut byte));
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => results.push(result),
            Poll::Pending => panic!("it waits"),
        }
    }
    let (done, result) = channel();
    let also_done = done.clone();
    dma.read_then(address, 1, move |read| done.send(read.map(drop)).unwrap());
    dma.write_then(address, vec![1], move |written| also_done.send(written).unwrap());
    results.extend([result.try_recv().unwrap(), result.try_recv().unwrap()]);
    results.push(dma.lease(address, 1, Direction::Read).map(drop));
    results.push(dma.pin(|memory| memory.slice(address, 1, Direction::Read).map(drop)));
    results
}

fn all_are(results: &[Result<(), DmaError>], expected: &DmaError) {
    assert_eq!(results.len(), 7);
    assert!(results.iter().all(|result| result.as_ref() == Err(expected)), "{results:?}");
}

#[test]
fn c12a_without_bus_master_enable_nothing_is_sent() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        let ram = peer.share(0x1000, 0x1000);
        let msix = peer.interrupt(IrqIndex::Msix);
        let pin = peer.interrupt(IrqIndex::Intx);
        peer.set_command(2);
        for at in [BASE, 0x1000] {
            all_are(&tried_here(&bench.handle, at), &DmaError::BusMasterDisabled);
        }
        assert_eq!(DmaError::BusMasterDisabled.errno(), Errno::EACCES);
        assert_eq!(ram.bytes(0x1000, 1).unwrap(), [0]);
        assert_eq!(bench.handle.vector(0).trigger(), Err(IrqError::BusMasterDisabled));
        assert_eq!(msix.count_now(0).unwrap(), 0);
        // The pin is no memory write.
        bench.handle.intx().raise();
        assert_eq!(pin.wait(0).unwrap(), 1);
        peer.is_quiet();
        peer.set_command(6);
        peer.dma_works(&bench.handle);
        bench.handle.vector(0).trigger().unwrap();
        assert_eq!(msix.wait(0).unwrap(), 1);
    }
}

#[test]
fn c12b_what_is_under_way_when_it_is_cleared_completes() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        let peer = bench.peer(twin);
        for face in FACES {
            let read = face.read(&bench.handle, BASE, 4);
            let (asked, at, _) = peer.asked();
            let write = face.write(&bench.handle, BASE, vec![1; 4]);
            let (told, ..) = peer.told();
            peer.set_command(0);
            peer.give(&asked, &read_reply(at, b"good"));
            peer.ack(&told, BASE, 4);
            assert_eq!(read.end(), Ok(b"good".to_vec()), "{face:?}");
            assert_eq!(write.end(), Ok(()), "{face:?}");
            peer.set_command(6);
        }
    }
}

#[test]
fn c12c_the_gate_can_be_left_open() {
    for (style, twin) in worlds() {
        let bench = Bench::with(
            style,
            |builder| builder.limits(forever()).bus_master_gate(false),
            |gadget| gadget,
        );
        let peer = bench.peer(twin);
        let msix = peer.interrupt(IrqIndex::Msix);
        peer.set_command(0);
        peer.dma_works(&bench.handle);
        bench.handle.vector(0).trigger().unwrap();
        assert_eq!(msix.wait(0).unwrap(), 1);
    }
}

#[test]
fn c21_before_version_and_before_a_map() {
    for (style, twin) in worlds() {
        let bench = Bench::plain(style, forever());
        all_are(&tried_here(&bench.handle, BASE), &DmaError::NotConnected);
        let silent = RawPeer::connect(&bench.path).unwrap();
        all_are(&tried_here(&bench.handle, BASE), &DmaError::NotConnected);
        assert!(!silent.has_input().unwrap());
        drop(silent);
        let peer = bench.bare_peer(twin, 4096);
        peer.is_quiet();
        all_are(&tried_here(&bench.handle, BASE), &DmaError::BusMasterDisabled);
        peer.main.enable_bus_master().unwrap();
        all_are(&tried_here(&bench.handle, BASE), &DmaError::NotMapped { address: BASE });
        peer.is_quiet();
        peer.map(BASE, SIZE);
        peer.dma_works(&bench.handle);
    }
}

#[test]
fn c22_a_callback_may_not_ask() {
    for (style, twin) in worlds() {
        let (told, tells) = channel();
        let bench = Bench::of(style, forever(), |gadget| {
            gadget.on_notice(move |handle, what| {
                told.send((what.to_owned(), tried_here(handle, BASE))).unwrap();
            })
        });
        let peer = bench.peer(twin);
        peer.map(0x1000, 0x1000);
        peer.main.send(&[unmap(1, 0x1000, 0x1000), reset(2)].concat()).unwrap();
        done(&peer.main, 1, Command::DmaUnmap);
        done(&peer.main, 2, Command::DeviceReset);
        peer.is_quiet();
        let tells: Vec<_> = tells.try_iter().collect();
        let expected = [
            "mapped",
            "resume",
            "mapped",
            "resume",
            "unmapping",
            "unmapped",
            "resume",
            "reset",
            "resume",
        ];
        assert_eq!(tells.iter().map(|(what, _)| what).collect::<Vec<_>>(), expected);
        for (what, results) in tells {
            assert!(
                results.len() == 7 && results.iter().all(|r| *r == Err(DmaError::Busy)),
                "{what}: {results:?}"
            );
        }
        peer.main.enable_bus_master().unwrap();
        peer.dma_works(&bench.handle);
    }
}
