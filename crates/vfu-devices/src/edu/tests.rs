//! The device with its thread, but without a client: all DMA fails.

use std::os::unix::net::UnixStream;
use std::sync::Weak;
use std::thread;
use std::time::{Duration, Instant};

use vfu::Server;

use super::*;
use worker::factorial;

/// Far above what anything takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// A device with a handle that works, though no client will ever come.
fn edu() -> Edu {
    let (socket, _) = UnixStream::pair().unwrap();
    let bound = Server::builder(pci()).fd(socket.into()).unwrap();
    Edu::new(bound.serve(Edu::new).unwrap().handle())
}

fn at(offset: u64) -> Access {
    Access { region: 0, offset }
}

impl Edu {
    fn set(&mut self, offset: u64, value: u32) {
        self.region_write(at(offset), &value.to_le_bytes()).unwrap();
    }

    fn get(&mut self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.region_read(at(offset), &mut data).unwrap();
        u32::from_le_bytes(data)
    }

    fn has_thread(&self) -> bool {
        self.shared.lock().worker
    }

    fn pin(&self) -> bool {
        self.shared.lock().pin
    }

    fn wait_until(&mut self, what: &str, mut done: impl FnMut(&mut Edu) -> bool) {
        wait_until(what, || done(self));
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "still waiting for {what}");
        thread::yield_now();
    }
}

#[test]
fn factorials_are_right() {
    assert_eq!(factorial(0), 1);
    assert_eq!(factorial(1), 1);
    assert_eq!(factorial(12), 479_001_600);
    for n in 0..100 {
        let expected = (1..=n).fold(1u32, u32::wrapping_mul);
        assert_eq!(factorial(n), expected, "{n}!");
    }
    assert_eq!(factorial(u32::MAX), 0);
}

#[test]
fn a_device_has_a_thread_only_if_it_had_work() {
    let mut edu = edu();
    edu.set(0x04, 1);
    edu.set(0x60, 1);
    edu.set(0x64, 1);
    edu.reset(Reset::Device);
    assert!(!edu.has_thread());
    edu.set(0x08, 5);
    assert!(edu.has_thread());
    edu.wait_until("the factorial", |edu| edu.get(0x20) & 1 == 0);
    assert_eq!(edu.get(0x08), 120);
}

#[test]
fn the_thread_ends_with_the_device() {
    let mut edu = edu();
    edu.set(0x08, 5);
    let shared: Weak<Shared> = Arc::downgrade(&edu.shared);
    drop(edu);
    wait_until("the thread's end", || shared.strong_count() == 0);
}

#[test]
fn the_pin_follows_the_interrupt_status() {
    let mut edu = edu();
    edu.set(0x60, 0x3);
    assert!(edu.pin());
    edu.set(0x64, 0x1);
    assert!(edu.pin(), "a bit is left");
    edu.set(0x64, 0x2);
    assert!(!edu.pin());
    edu.set(0x20, 0x80);
    edu.set(0x08, 3);
    edu.wait_until("the interrupt", |edu| edu.pin());
    assert_eq!((edu.get(0x24), edu.get(0x08)), (IRQ_FACTORIAL, 6));
}

#[test]
fn failed_dma_ends_and_changes_nothing() {
    let mut edu = edu();
    edu.shared.lock().buffer.fill(0x5a);
    edu.set(0x80, 0x1000);
    edu.set(0x88, 0x4_0000);
    edu.set(0x90, 64);
    edu.set(0x98, 0x5);
    edu.wait_until("the end of the DMA", |edu| edu.get(0x98) & 1 == 0);
    assert!(edu.shared.lock().buffer.iter().all(|b| *b == 0x5a));
    assert_eq!(edu.get(0x24), IRQ_DMA, "the driver does not wait for ever");
    // Out of the buffer: the handler ends it.
    edu.set(0x64, IRQ_DMA);
    edu.set(0x90, 5000);
    edu.set(0x98, 0x5);
    assert_eq!((edu.get(0x98), edu.get(0x24)), (0x4, IRQ_DMA));
}

#[test]
fn nothing_of_before_a_reset_shows_after_it() {
    let mut edu = edu();
    for round in 0..200 {
        edu.set(0x04, 1);
        edu.set(0x20, 0x80);
        edu.set(0x08, 5 + round);
        edu.set(0x90, 16);
        edu.set(0x88, 0x4_0000);
        edu.set(0x98, 0x5);
        edu.reset(Reset::Device);
        for offset in [0x04, 0x08, 0x20, 0x24, 0x80, 0x88, 0x90, 0x98] {
            assert_eq!(edu.get(offset), 0, "{offset:#x}");
        }
        assert!(!edu.pin());
    }
    // Work that was begun before the last reset has ended when this has.
    edu.set(0x08, 3);
    edu.wait_until("the factorial", |edu| edu.get(0x20) == 0);
    assert_eq!((edu.get(0x08), edu.get(0x24), edu.get(0x98)), (6, 0, 0));
}

#[test]
fn odd_accesses_are_faults() {
    let mut edu = edu();
    let mut data = [0xff; 64];
    for len in [1, 2, 3, 5, 8, 64] {
        assert_eq!(edu.region_read(at(0x04), &mut data[..len]), Err(Fault::Width), "{len}");
        assert_eq!(edu.region_write(at(0x04), &data[..len]), Err(Fault::Width), "{len}");
    }
    assert_eq!(edu.region_read(at(0x4_0000), &mut data[..4]), Err(Fault::Unmodelled));
    assert!(data.iter().all(|b| *b == 0xff));
}
