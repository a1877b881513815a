//! Dirty page logging while the device writes: no write is missing in the copy of a client that reads
//! again what is reported (G10).

mod dirty_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use vfu::client::{Client, DirtyPages};
use vfu::dma::Direction;
use vfu::wire::DeviceState;
use vfu::{Dma, DmaError};
use vfu_testkit::{SharedRam, Vmm, within};

use dirty_server::serve;

const PAGE: u64 = 4096;
const BASE: u64 = 0x10_0000;
const PAGES: u64 = 600;

/// Writes values that grow to pages all over the memory, until it may not any more.
fn write(dma: &Dma, seed: u64, written: &AtomicU64) {
    let lease = dma.lease(BASE, PAGES * PAGE, Direction::Write).unwrap();
    let mut state = seed;
    for value in 1u64.. {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Each writer has words of its own in each page.
        let at = (state >> 33) % PAGES * PAGE + seed * 8;
        let bytes = value.to_le_bytes();
        if value % 2 == 0 {
            if lease.is_ending() || matches!(dma.read(BASE, &mut [0]), Err(DmaError::Busy)) {
                return;
            }
            lease.write(at, &bytes).unwrap();
        } else if let Err(e) = dma.write(BASE + at, &bytes) {
            assert!(matches!(e, DmaError::Busy), "{e}");
            return;
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads again what is dirty.
fn copy(pages: &DirtyPages, ram: &SharedRam, to: &mut [u8]) {
    for (address, len) in pages.ranges() {
        let at = (address - BASE) as usize;
        ram.read(address, &mut to[at..at + len as usize]).unwrap();
    }
}

fn report(client: &Client, page_size: u64) -> DirtyPages {
    client.dma_logging_report(BASE, PAGES * PAGE, page_size).unwrap()
}

#[test]
fn g10_no_write_is_lost() {
    within("a report, or a writer,", no_write_is_lost);
}

fn no_write_is_lost() {
    let served = serve(true);
    let dma = served.dma.clone();
    let vmm = Vmm::connect(&served.path).unwrap();
    vmm.enumerate().unwrap();
    let client = vmm.client();
    let ram = vmm.share_ram(BASE, PAGES * PAGE).unwrap();
    for (page_size, report_size) in [(PAGE, PAGE), (4 * PAGE, PAGE), (PAGE, 16 * PAGE)] {
        let written = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (1..=3)
            .map(|seed| {
                let (dma, written) = (dma.clone(), written.clone());
                thread::spawn(move || write(&dma, seed, &written))
            })
            .collect();
        // The log starts while they write, then all is copied once.
        client.start_dma_logging(page_size).unwrap();
        let mut copied = vec![0; (PAGES * PAGE) as usize];
        ram.read(BASE, &mut copied).unwrap();
        for _ in 0..30 {
            let before = written.load(Ordering::Relaxed);
            copy(&report(client, report_size), &ram, &mut copied);
            while written.load(Ordering::Relaxed) < before + 20 {
                thread::yield_now();
            }
        }
        client.set_device_state(DeviceState::Stop).unwrap();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        copy(&report(client, report_size), &ram, &mut copied);
        assert!(copied == ram.bytes(BASE, (PAGES * PAGE) as usize).unwrap(), "a write was lost");
        assert!(report(client, report_size).is_clean());
        client.stop_dma_logging().unwrap();
        client.set_device_state(DeviceState::Running).unwrap();
    }
}

/// Reports, starts and stops, and mappings that come and go, while the device writes where it can.
#[test]
fn nothing_breaks_while_all_of_it_changes() {
    let served = serve(true);
    let dma = served.dma.clone();
    let vmm = Vmm::connect(&served.path).unwrap();
    vmm.enumerate().unwrap();
    let client = vmm.client();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (dma, stop) = (dma.clone(), stop.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _mapped_or_not = dma.write(BASE + 0x800, &[1; 0x1800]);
            }
        })
    };
    for round in 0..100 {
        let _ram = vmm.share_ram(BASE, 4 * PAGE).unwrap();
        client.start_dma_logging(PAGE << (round % 3)).unwrap();
        let dirty = client.dma_logging_report(BASE, 4 * PAGE, PAGE).unwrap();
        assert!(!dirty.is_dirty(BASE + 3 * PAGE) || round % 3 == 2);
        dma.write(BASE, &[1]).unwrap();
        let last = client.dma_unmap_dirty(BASE, 4 * PAGE, PAGE).unwrap();
        assert!(last.is_dirty(BASE));
        client.stop_dma_logging().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}
