//! `bartest` under our client: messages, eventfds and mapped memory.

use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use vfu::client::{Client, Rung};
use vfu_devices::bartest::{self, BarTest, IDENTIFICATION, PAGE_SIZE, WINDOW_SIZE, register};
use vfu_testkit::{DEADLINE, Served, Vmm, serve_in_process};

fn start() -> (Served<BarTest>, Vmm) {
    let server = serve_in_process(bartest::builder().unwrap(), BarTest::new).unwrap();
    let vmm = Vmm::connect(server.path()).unwrap();
    (server, vmm)
}

/// Waits until a register holds this.
fn wait_for(vmm: &Vmm, register: u64, value: u64) {
    let begun = Instant::now();
    loop {
        let now = vmm.read64(0, register).unwrap();
        if now == value {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "{register:#x} is {now:#x} and not {value:#x}");
        std::thread::yield_now();
    }
}

#[test]
fn both_ends_and_the_memory_in_between() {
    let (_server, vmm) = start();
    let function = vmm.enumerate().unwrap();
    assert_eq!(function.bars[0].size, 8 << 30);
    assert_eq!(vmm.read32(0, register::IDENTIFICATION).unwrap(), IDENTIFICATION);
    assert_eq!(vmm.read32(0, register::END_IDENTIFICATION).unwrap(), IDENTIFICATION);
    vmm.write64(0, register::SCRATCH, 1).unwrap();
    vmm.write64(0, register::END_SCRATCH, 2).unwrap();
    assert_eq!(vmm.read64(0, register::SCRATCH).unwrap(), 1);
    assert_eq!(vmm.read64(0, register::END_SCRATCH).unwrap(), 2);
    assert_eq!(vmm.read32(0, register::WINDOW - 4).unwrap(), u32::MAX);
    vmm.write32(0, register::WINDOW + WINDOW_SIZE - 4, 3).unwrap();
    let mapped = vmm.client().map_region(0).unwrap();
    assert!(mapped.is_direct(register::WINDOW, WINDOW_SIZE as usize));
    assert!(mapped.is_direct(register::PAGE, PAGE_SIZE as usize));
    let mut bytes = [0; 4];
    mapped.read(register::WINDOW + WINDOW_SIZE - 4, &mut bytes).unwrap();
    assert_eq!(bytes, [3, 0, 0, 0]);
}

#[test]
fn every_kind_of_doorbell_counts() {
    let (_server, vmm) = start();
    let client: &Client = vmm.client();
    let doorbells = client.doorbells(0).unwrap();
    assert_eq!(doorbells.len(), 2);
    for _ in 0..5 {
        vmm.write32(0, register::MESSAGE, 1).unwrap();
        assert_eq!(doorbells.write(register::EVENT, &[1, 0, 0, 0]).unwrap(), Rung::ByEventFd);
        vmm.write32(0, register::EVENT, 1).unwrap();
    }
    assert_eq!(vmm.read64(0, register::MESSAGES).unwrap(), 5);
    assert_eq!(vmm.read64(0, register::EVENTS).unwrap(), 10, "by both ways");
    let mapped = client.map_region(0).unwrap();
    for round in 1..50u64 {
        let word = round % u64::from(bartest::WORDS);
        mapped.write(register::PAGE + 4 * word, &(round as u32).to_le_bytes()).unwrap();
        fence(Ordering::SeqCst);
        let mut asleep = [0; 4];
        mapped.read(register::ASLEEP, &mut asleep).unwrap();
        if asleep != [0; 4] {
            assert_eq!(doorbells.write(register::WAKE, &[1, 0, 0, 0]).unwrap(), Rung::ByEventFd);
        }
        wait_for(&vmm, register::SEEN, round);
        assert_eq!(vmm.read64(0, register::LAST).unwrap(), word << 32 | round);
        assert_eq!(vmm.read32(0, register::LAST + 4).unwrap(), word as u32);
    }
    // A driver that does not look at the flag.
    mapped.write(register::PAGE, &[0xaa; 4]).unwrap();
    wait_for(&vmm, register::SEEN, 50);
    // A client that has not mapped it.
    vmm.write32(0, register::PAGE, 0xbbbb_bbbb).unwrap();
    wait_for(&vmm, register::SEEN, 51);
    assert_eq!(vmm.read64(0, register::LAST).unwrap(), 0xbbbb_bbbb);
    client.reset().unwrap();
    for counter in [register::MESSAGES, register::EVENTS, register::SEEN, register::LAST] {
        assert_eq!(vmm.read64(0, counter).unwrap(), 0, "{counter:#x}");
    }
    assert_eq!(vmm.read32(0, register::PAGE).unwrap(), 0);
}

#[test]
fn it_works_for_the_next_client_and_ends() {
    let (server, vmm) = start();
    drop(vmm);
    let vmm = Vmm::connect(server.path()).unwrap();
    vmm.write32(0, register::PAGE + 8, 9).unwrap();
    wait_for(&vmm, register::LAST, 2 << 32 | 9);
    server.stop().unwrap();
}
