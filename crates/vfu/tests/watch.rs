//! Doorbells in memory that the client maps.

use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vfu::client::{Client, MappedRegion, Rung};
use vfu::doorbell::{Ring, Watch, WatchBuilder, Watching};
use vfu::server::Shareable;
use vfu::{Access, Bar, Device, Doorbell, Fault, Handle, IoEventFd, Pci, Server, SharedMemory};
use vfu_testkit::{DEADLINE, Served, serve_in_process};

/// An interval that never ends in a test.
const NEVER: Duration = Duration::from_secs(3600);
/// The word that says that the device sleeps.
const FLAG: u64 = 0x800;

fn collect(watch: WatchBuilder) -> (Watching, Receiver<Ring>) {
    let (told, rings) = channel();
    let watching = watch.build().unwrap().spawn(move |ring| told.send(ring).unwrap());
    (watching.unwrap(), rings)
}

fn next(rings: &Receiver<Ring>) -> (u32, u64) {
    let ring = rings.recv_timeout(DEADLINE).expect("a ring was lost");
    (ring.index, ring.value)
}

struct Nothing;

impl Device for Nothing {
    fn region_read(&mut self, _: Access, _: &mut [u8]) -> Result<(), Fault> {
        Err(Fault::Unmodelled)
    }

    fn region_write(&mut self, _: Access, _: &[u8]) -> Result<(), Fault> {
        Err(Fault::Unmodelled)
    }
}

/// A page of doorbells at the start of BAR 0, an ioeventfd behind it.
fn serve() -> (Served<Nothing>, SharedMemory, Doorbell) {
    let page = rustix::param::page_size() as u64;
    let memory = SharedMemory::new(page).unwrap();
    let pci = Pci::endpoint(0x1234, 1).bar(0, Bar::mem64(2 * page));
    let builder = Server::builder(pci)
        .mmap(0, Shareable::from(memory.clone()).area(0, page))
        .ioeventfd(IoEventFd::at(0, page));
    let served = serve_in_process(builder, |_: Handle| Nothing).unwrap();
    let bell = served.handle().doorbell(0, page).unwrap();
    (served, memory, bell)
}

fn read32(region: &MappedRegion, at: u64) -> u32 {
    let mut bytes = [0; 4];
    region.read(at, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

#[test]
fn a_store_of_the_client_is_seen_without_a_message() {
    let (server, memory, _) = serve();
    let client = Client::connect(server.path()).unwrap();
    let region = client.map_region(0).unwrap();
    assert!(region.is_direct(0, 4));
    let sent = client.counters();
    let (_watching, rings) = collect(Watch::over(&memory, 0, 4));
    for round in 1..200u32 {
        region.write(u64::from(4 * (round % 4)), &round.to_le_bytes()).unwrap();
        assert_eq!(next(&rings), (round % 4, u64::from(round)));
    }
    assert_eq!(client.counters(), sent, "no message");
}

/// With a flag nothing wakes the device by itself: a lost ring would be lost for good.
#[test]
fn a_driver_that_looks_at_the_flag_wakes_it() {
    let (server, memory, bell) = serve();
    let client = Client::connect(server.path()).unwrap();
    let (region, doorbells) = (client.map_region(0).unwrap(), client.doorbells(0).unwrap());
    let page = rustix::param::page_size() as u64;
    for spin in [Duration::ZERO, Duration::from_micros(50)] {
        let watch = Watch::over(&memory, 0, 2).sleep_flag(FLAG).doorbell(&bell).spin(spin);
        let (watching, rings) = collect(watch);
        let mut woken = 0;
        for round in 1..2000u32 {
            region.write(4, &round.to_le_bytes()).unwrap();
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            if read32(&region, FLAG) != 0 {
                assert_eq!(doorbells.write(page, &[1]).unwrap(), Rung::ByEventFd);
                woken += 1;
            }
            assert_eq!(next(&rings), (1, u64::from(round)), "{woken} of {round}, spin {spin:?}");
        }
        drop(watching);
        watch_nothing_left(&memory);
    }
}

fn watch_nothing_left(memory: &SharedMemory) {
    memory.write_u32(4, 0).unwrap();
}

#[test]
fn a_message_wakes_it_too() {
    let (server, memory, bell) = serve();
    let client = Client::connect(server.path()).unwrap();
    let watch = Watch::over(&memory, 8, 2).wide().stride(16).interval(NEVER).doorbell(&bell);
    let (_watching, rings) = collect(watch);
    for round in 1..50u64 {
        client.region_write(0, 8 + 16 * (round % 2), &round.to_le_bytes()).unwrap();
        assert_eq!(next(&rings), ((round % 2) as u32, round));
    }
    // Half a word, and words beside it.
    client.region_write(0, 8, &[0xff]).unwrap();
    assert_eq!(next(&rings).0, 0);
    client.region_write(0, 0, &[0xff; 8]).unwrap();
    client.region_write(0, 32, &[0xff; 8]).unwrap();
    client.region_write(0, 24, &[1]).unwrap();
    assert_eq!(next(&rings).0, 1);
}

#[test]
fn the_end_is_not_waited_for_in_vain() {
    let memory = SharedMemory::new(4096).unwrap();
    for spin in [Duration::ZERO, NEVER] {
        let (watching, _rings) = collect(Watch::over(&memory, 0, 1).interval(NEVER).spin(spin));
        watching.stop();
        watching.stop();
    }
    // From inside of a callback, with a handle that the callback holds.
    let (give, got) = channel::<Arc<Watching>>();
    let (told, ended) = channel();
    let watch = Watch::over(&memory, 0, 1).interval(NEVER).build().unwrap();
    let watching = watch.spawn(move |_| {
        let watching = got.recv().unwrap();
        watching.stop();
        drop(watching);
        told.send(()).unwrap();
    });
    let watching = Arc::new(watching.unwrap());
    give.send(watching.clone()).unwrap();
    memory.write_u32(0, 1).unwrap();
    watching.look();
    ended.recv_timeout(DEADLINE).unwrap();
    drop(watching);
}

/// A device that goes while its client is connected, and a client that goes while the device sleeps.
#[test]
fn it_outlives_clients_and_ends_with_its_owner() {
    let (server, memory, bell) = serve();
    let (watching, rings) = collect(Watch::over(&memory, 0, 1).sleep_flag(FLAG).doorbell(&bell));
    for round in 1..10u32 {
        let client = Client::connect(server.path()).unwrap();
        client.region_write(0, 0, &round.to_le_bytes()).unwrap();
        assert_eq!(next(&rings), (0, u64::from(round)));
    }
    drop(server);
    drop(watching);
    assert!(rings.recv().is_err(), "the callback has gone");
}

#[test]
fn a_reset_rings_nothing() {
    let memory = SharedMemory::new(4096).unwrap();
    let (watching, rings) = collect(Watch::over(&memory, 0, 2));
    memory.write_u32(4, 7).unwrap();
    assert_eq!(next(&rings), (1, 7));
    watching.reset();
    assert_eq!(memory.read_u32(4), Ok(0));
    memory.write_u32(0, 1).unwrap();
    assert_eq!(next(&rings), (0, 1), "and not word 1");
}

/// What rings while a callback takes its time is there afterwards.
#[test]
fn rings_gather_while_the_callback_works() {
    let memory = SharedMemory::new(4096).unwrap();
    let (told, rings) = channel();
    let gate = Arc::new(Barrier::new(2));
    let at_gate = gate.clone();
    let watch = Watch::over(&memory, 0, 3).build().unwrap();
    let _watching = watch.spawn(move |ring: Ring| {
        if ring.index == 0 {
            at_gate.wait();
            at_gate.wait();
        }
        told.send(ring).unwrap();
    });
    memory.write_u32(0, 1).unwrap();
    gate.wait();
    memory.write_u32(4, 1).unwrap();
    memory.write_u32(8, 1).unwrap();
    memory.write_u32(8, 2).unwrap();
    gate.wait();
    assert_eq!(next(&rings), (0, 1));
    assert_eq!(next(&rings), (1, 1));
    assert_eq!(next(&rings), (2, 2));
}

#[test]
fn an_event_loop_can_watch() {
    let (server, memory, bell) = serve();
    let client = Client::connect(server.path()).unwrap();
    let watch = Watch::over(&memory, 0, 2).sleep_flag(FLAG).doorbell(&bell).build().unwrap();
    let is_readable = || {
        let mut set = [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)];
        poll(&mut set, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    };
    assert_eq!(watch.next(), None);
    memory.write_u32(4, 3).unwrap();
    assert!(!watch.fall_asleep(), "something has rung");
    assert_eq!(memory.read_u32(FLAG), Ok(0));
    assert_eq!(watch.next(), Some(Ring { index: 1, value: 3 }));
    assert!(watch.fall_asleep());
    assert_eq!((memory.read_u32(FLAG), is_readable()), (Ok(1), false));
    client.region_write(0, 0, &[5]).unwrap();
    assert!(is_readable());
    watch.wake_up();
    assert_eq!((memory.read_u32(FLAG), is_readable()), (Ok(0), false));
    assert_eq!(watch.next(), Some(Ring { index: 0, value: 5 }));
    watch.reset();
    assert_eq!(watch.next(), None);
    assert_eq!(watch.interval(), None);
}

#[test]
fn words_that_are_not_there_are_refused() {
    let memory = SharedMemory::new(4096).unwrap();
    let size = memory.size();
    let ok = |watch: WatchBuilder| watch.build().is_ok();
    assert!(ok(Watch::over(&memory, size - 4, 1)) && ok(Watch::over(&memory, 0, 0)));
    assert!(ok(Watch::over(&memory, size - 8, 1).wide().sleep_flag(0)));
    assert!(!ok(Watch::over(&memory, size, 1)));
    assert!(!ok(Watch::over(&memory, size - 4, 2)));
    assert!(!ok(Watch::over(&memory, 2, 1)));
    assert!(!ok(Watch::over(&memory, 4, 1).wide()));
    assert!(!ok(Watch::over(&memory, 0, 2).stride(6)));
    assert!(!ok(Watch::over(&memory, 0, 2).stride(0)));
    assert!(!ok(Watch::over(&memory, 0, u32::MAX).stride(u64::MAX - 3)));
    assert!(!ok(Watch::over(&memory, u64::MAX - 3, 2)));
    assert!(!ok(Watch::over(&memory, 0, 1).sleep_flag(size)));
    assert!(!ok(Watch::over(&memory, 0, 1).sleep_flag(2)));
}
