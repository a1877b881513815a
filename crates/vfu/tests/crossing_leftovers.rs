//! The last stress scenario (s5): what sessions leave behind, counted before and after. Alone in its
//! process, for the descriptors of other tests would be counted, too.

mod crossing;

use std::future::Future;
use std::task::{Context, Waker};
use std::thread;
use std::time::Instant;

use crossing::*;
use vfu::IrqIndex;
use vfu::dma::Direction;
use vfu::wire::Command;
use vfu_testkit::{DEADLINE, fd_count};

/// Mappings of files in this process that sessions make.
fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("memfd:ram")).count()
}

/// A session with something of everything under way when it ends.
fn session(bench: &Bench, twin: bool, how: usize) {
    let peer = bench.peer(twin);
    let _ram = [peer.share(0x1000, 0x1000), peer.share(0x10000, 0x2000)];
    let _interrupts = [peer.interrupt(IrqIndex::Msix), peer.interrupt(IrqIndex::Intx)];
    let lease = bench.handle.dma().lease(0x1000, 16, Direction::Read).unwrap();
    let mut pending = Vec::new();
    for face in FACES {
        pending.push(face.read(&bench.handle, BASE, 100));
        peer.asked();
    }
    let writes = FACES.map(|face| {
        let write = face.write(&bench.handle, BASE, vec![1; 100]);
        peer.told();
        write
    });
    bench.handle.vector(0).trigger().unwrap();
    let dma = bench.handle.dma();
    let mut forgotten = [0; 8];
    {
        let mut read = Box::pin(dma.read_async(BASE, &mut forgotten));
        assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    peer.asked();
    match how {
        0 => {}
        1 => {
            peer.main.send(&reset(1)).unwrap();
            done(&peer.main, 1, Command::DeviceReset);
        }
        2 => peer.main.send(&unmap(1, 0x1000, 0x1000)).unwrap(),
        _ => peer.main.send(&reg_read(1, 0, 4)[..20]).unwrap(),
    }
    let lost = bench.log.count("reset ConnectionLost");
    drop(peer);
    bench.log.wait_for("reset ConnectionLost", lost + 1);
    assert!(pending.into_iter().all(|read| read.end().is_err()));
    assert!(writes.into_iter().all(|write| write.end().is_err()));
    drop(lease);
}

#[test]
fn s5_sessions_leave_nothing_behind() {
    for style in STYLES {
        let bench = Bench::plain(style, forever());
        let rounds = |n: usize| {
            for round in 0..n {
                session(&bench, round % 2 == 1, round / 2 % 4);
            }
        };
        rounds(8);
        settled(&bench, || mappings() == 0);
        let before = fd_count();
        rounds(80);
        // The first count may have been made while a descriptor was still on its way out.
        settled(&bench, || mappings() == 0 && fd_count() <= before);
    }
}

/// Waits until nobody is connected and `check` agrees: a thread that has just ended a session may
/// still hold its descriptors for a moment.
fn settled(bench: &Bench, check: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while bench.handle.is_connected() || !check() {
        assert!(Instant::now() < deadline, "{} descriptors, {} mappings", fd_count(), mappings());
        thread::yield_now();
    }
}
