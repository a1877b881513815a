//! Nothing grows: 200 000 transfers by message, with the memory counted at the allocator.

mod crossing;

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use crossing::*;
use vfu::{Client, DmaError, Limits, Server};
use vfu_testkit::{TestDevice, Vmm};

/// A session of so many reads and writes: what the thread that runs the device has allocated, and
/// what the one that asks.
fn session(twin: bool, transfers: u32) -> (AllocationInfo, AllocationInfo) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let bound = Server::builder(TestDevice::pci()).limits(forever()).fd(theirs.into()).unwrap();
    let mut server = bound.serve(|handle| Gadget::new(handle, Log::default())).unwrap();
    let handle = server.handle();
    let server = thread::spawn(move || measure(|| server.run().unwrap()));
    let client = Client::builder().timeout(None).twin_socket(twin).connect_fd(ours.into()).unwrap();
    let vmm = Vmm::over(client);
    vmm.set_bus_master(true).unwrap();
    let ram = vmm.message_ram(BASE, 0x1000).unwrap();
    let asker = thread::spawn(move || {
        let dma = handle.dma();
        let mut data = [0; 64];
        let mut both = |turn: u32| {
            let at = BASE + u64::from(turn % 32) * 64;
            dma.write(at, &turn.to_le_bytes()).unwrap();
            dma.read(at, &mut data).unwrap();
            assert_eq!(data[..4], turn.to_le_bytes());
        };
        (0..100).for_each(&mut both);
        measure(|| (0..transfers / 2).for_each(&mut both))
    });
    // The driver goes on meanwhile.
    while !asker.is_finished() {
        vmm.read32(0, 0).unwrap();
    }
    let asker = asker.join().unwrap();
    assert_eq!(ram.writes(), u64::from(transfers / 2 + 100));
    drop(vmm);
    (server.join().unwrap(), asker)
}

#[test]
fn nothing_grows_in_200_000_transfers() {
    for twin in [false, true] {
        let (short, _) = session(twin, 2_000);
        let (long, asker) = session(twin, 100_000);
        // A table may grow once, by chance, where many are under way.
        assert!(asker.bytes_max < 64 << 10, "twin {twin}: {asker:?}");
        assert!(asker.bytes_current < 64 << 10, "twin {twin}: {asker:?}");
        let most = short.bytes_max + (64 << 10);
        assert!(long.bytes_max < most, "twin {twin}: {long:?} after {short:?}");
        assert!(long.bytes_current < short.bytes_current + (64 << 10), "{long:?}");
    }
}

/// What is given up, and comes late, leaves nothing either.
#[test]
fn nothing_grows_where_replies_come_late() {
    let limits = Limits { reply_timeout: Some(Duration::from_millis(1)), ..Limits::default() };
    let bench = Bench::plain(Style::Run, limits);
    let peer = bench.peer(false);
    let dma = bench.handle.dma();
    let (turn, turns) = std::sync::mpsc::channel::<u32>();
    let (ended, ends) = std::sync::mpsc::channel();
    let asker = thread::spawn(move || {
        let mut data = vec![0; 4096];
        let mut late = |turn: u32| {
            let read = match turn % 2 {
                0 => dma.read(BASE, &mut data),
                _ => block_on(dma.read_async(BASE, &mut data)),
            };
            assert!(matches!(read, Err(DmaError::TimedOut)), "{read:?}");
            ended.send(()).unwrap();
        };
        turns.iter().take(50).for_each(&mut late);
        measure(|| turns.iter().for_each(&mut late))
    });
    for i in 0..1000 {
        turn.send(i).unwrap();
        let (asked, at, _) = peer.asked();
        ends.recv().unwrap();
        peer.give(&asked, &read_reply(at, &[1; 4096]));
    }
    drop(turn);
    let info = asker.join().unwrap();
    assert!(info.bytes_current < 16 << 10, "{info:?}");
    peer.is_quiet();
    assert_eq!(bench.handle.counters().unwrap().late_replies, 1000);
}
