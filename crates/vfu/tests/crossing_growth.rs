//! Nothing grows: 200 000 DMA messages, with the memory counted at the allocator.

mod crossing;

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use crossing::*;
use vfu::{Client, DmaError, Limits, Server};
use vfu_testkit::{TestDevice, Vmm};

/// Messages that each transfer of 64 bytes takes.
const PIECES: u32 = 16;

/// A session of so many DMA messages: the most that the thread that runs the device, and the one
/// that asks, had allocated at once, in bytes; and what both together have in the end. (A reply that
/// was held back is allocated by the one and freed by the other.)
fn session(twin: bool, messages: u32) -> ([i64; 2], i64) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let bound = Server::builder(TestDevice::pci()).limits(forever()).fd(theirs.into()).unwrap();
    let mut server = bound.serve(|handle| Gadget::new(handle, Log::default())).unwrap();
    let handle = server.handle();
    let server = thread::spawn(move || measure(|| server.run().unwrap()));
    let client = Client::builder().timeout(None).twin_socket(twin).max_transfer(4);
    let vmm = Vmm::over(client.connect_fd(ours.into()).unwrap());
    vmm.set_bus_master(true).unwrap();
    let ram = vmm.message_ram(BASE, 0x1000).unwrap();
    let turns = messages / PIECES / 2;
    let asker = thread::spawn(move || {
        let dma = handle.dma();
        measure(|| {
            for turn in 0..turns {
                let at = BASE + u64::from(turn % 32) * 64;
                let (written, mut data) = ([turn as u8; 64], [0; 64]);
                dma.write(at, &written).unwrap();
                dma.read(at, &mut data).unwrap();
                assert_eq!(data, written);
            }
        })
    });
    // The driver goes on meanwhile.
    while !asker.is_finished() {
        vmm.read32(0, 0).unwrap();
    }
    let asker: AllocationInfo = asker.join().unwrap();
    assert_eq!(ram.writes() + ram.reads(), u64::from(turns * PIECES * 2));
    drop(vmm);
    let server = server.join().unwrap();
    // What one thread frees for the other makes its own count lower than it is, never higher.
    let most = [server.bytes_max as i64, asker.bytes_max as i64];
    (most, server.bytes_current + asker.bytes_current)
}

#[test]
fn nothing_grows_in_200_000_messages() {
    for twin in [false, true] {
        let (short, _) = session(twin, 2_000);
        let (long, left) = session(twin, 100_000);
        // A table, or the buffer of a socket, may grow once, by chance, where many are under way: that
        // to 64 KiB, beside the message that has the small one.
        let room = 72 << 10;
        assert!(left < room, "twin {twin}: {left}");
        assert!(long[1] < short[1] + room, "twin {twin}: {long:?} after {short:?}");
        if !twin {
            // On two sockets replies are held back, and freed by the other thread.
            assert!(long[0] < short[0] + room, "{long:?} after {short:?}");
        }
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
