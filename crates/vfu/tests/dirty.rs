//! Dirty page logging, both ends.

mod dirty_server;

use std::path::PathBuf;
use std::sync::Arc;

use vfu::client::{Client, ClientError, DirtyPages, Memory, READ_WRITE};
use vfu::dma::Direction;
use vfu::{Dma, DmaError};
use vfu_testkit::{MessageRam, SharedRam, Vmm, within};

use dirty_server::{Served, serve};

const PAGE: u64 = 4096;
const BASE: u64 = 0x10_0000;

struct Place {
    client: Client,
    vmm: Vmm,
    dma: Dma,
    path: PathBuf,
    _served: Served,
}

fn place() -> Place {
    let served = serve(false);
    let vmm = Vmm::connect(&served.path).unwrap();
    vmm.enumerate().unwrap();
    let (client, dma, path) = (vmm.client().clone(), served.dma.clone(), served.path.clone());
    Place { client, vmm, dma, path, _served: served }
}

impl Place {
    fn ram(&self, address: u64, size: u64) -> SharedRam {
        self.vmm.share_ram(address, size).unwrap()
    }

    fn messages(&self, address: u64, size: u64) -> Arc<MessageRam> {
        self.vmm.message_ram(address, size as usize).unwrap()
    }

    fn report(&self, iova: u64, length: u64, page_size: u64) -> Vec<(u64, u64)> {
        ranges(&self.client.dma_logging_report(iova, length, page_size).unwrap())
    }
}

fn ranges(pages: &DirtyPages) -> Vec<(u64, u64)> {
    pages.ranges().collect()
}

#[test]
fn every_write_is_logged_once() {
    let place = place();
    assert!(place.client.has_dma_logging().unwrap());
    let _ram = place.ram(BASE, 0x10_0000);
    place.dma.write(BASE, b"before").unwrap();
    assert_eq!(place.client.start_dma_logging(PAGE).unwrap(), PAGE);
    assert_eq!(place.report(BASE, 0x10_0000, PAGE), [], "writes of before are no matter");

    place.dma.write(BASE + 0x1fff, &[1, 2]).unwrap();
    place.dma.lease(BASE, 0x10_0000, Direction::Write).unwrap().write(0x5000, &[3]).unwrap();
    let pin = |memory: &vfu::dma::Pinned<'_>| {
        memory.slice(BASE + 0xb000, 8, Direction::Write)?.write(4, &[4; 4])
    };
    place.dma.pin(pin).unwrap();
    place.dma.read(BASE + 0x7000, &mut [0; 64]).unwrap();
    place.dma.write(BASE + 0x9000, &[]).unwrap();
    let expected = [(BASE + 0x1000, 0x2000), (BASE + 0x5000, 0x1000), (BASE + 0xb000, 0x1000)];
    assert_eq!(place.report(BASE, 0x10_0000, PAGE), expected);
    assert_eq!(place.report(BASE, 0x10_0000, PAGE), [], "a report clears");

    place.client.stop_dma_logging().unwrap();
    place.client.stop_dma_logging().unwrap();
    place.dma.write(BASE, b"after").unwrap();
    let off = place.client.dma_logging_report(BASE, 0x1000, PAGE).unwrap_err();
    assert!(matches!(off, ClientError::Invalid(_)), "{off}");
    place.client.start_dma_logging(PAGE).unwrap();
    assert_eq!(place.report(BASE, 0x10_0000, PAGE), []);
}

#[test]
fn what_goes_by_messages_is_in_the_same_report() {
    let place = place();
    let _ram = place.ram(BASE, 0x1_0000);
    let _messages = place.messages(BASE + 0x1_0000, 0x1_0000);
    place.client.start_dma_logging(PAGE).unwrap();
    let _later = place.messages(BASE + 0x2_0000, 0x1_0000);
    // From shared memory over a border into memory by messages, and over one more.
    place.dma.write(BASE + 0xf800, &[1; 0x1000]).unwrap();
    place.dma.write(BASE + 0x1_ffff, &[1, 2]).unwrap();
    let expected = [(BASE + 0xf000, 0x2000), (BASE + 0x1_f000, 0x2000)];
    assert_eq!(place.report(0, 0x100_0000, PAGE), expected);
    assert_eq!(place.report(0, 0x100_0000, PAGE), []);
    place.dma.write(BASE + 0x1_0000, &[1]).unwrap();
    let pages = place.client.dma_unmap_dirty(BASE + 0x1_0000, 0x1_0000, PAGE).unwrap();
    assert_eq!(ranges(&pages), [(BASE + 0x1_0000, 0x1000)]);
    let gone = place.dma.write(BASE + 0x1_0000, &[1]).unwrap_err();
    assert!(matches!(gone, DmaError::NotMapped { .. }), "{gone}");
}

#[test]
fn the_same_memory_announced_again_stays_dirty() {
    let place = place();
    let messages = place.messages(BASE, 0x1_0000);
    place.client.start_dma_logging(PAGE).unwrap();
    place.dma.write(BASE, &[1]).unwrap();
    place.client.dma_map(BASE, 0x1_0000, READ_WRITE, Memory::Messages(messages.clone())).unwrap();
    // What the server refuses changes nothing.
    let other = Memory::Messages(messages);
    place.client.dma_map(BASE, 0x2_0000, READ_WRITE, other).unwrap_err();
    place.dma.write(BASE + 0x3000, &[1]).unwrap();
    assert_eq!(place.report(BASE, 0x1_0000, PAGE), [(BASE, 0x1000), (BASE + 0x3000, 0x1000)]);
}

#[test]
fn start_twice_and_bad_page_sizes() {
    let place = place();
    let client = &place.client;
    for page_size in [0, 3, 4097, u64::MAX] {
        let error = client.start_dma_logging(page_size).unwrap_err();
        assert!(matches!(error, ClientError::Invalid(_)), "{page_size}: {error}");
    }
    let _ram = place.ram(BASE, 0x10_0000);
    assert_eq!(client.start_dma_logging(1).unwrap(), PAGE, "never finer than 4 KiB");
    place.dma.write(BASE, &[1]).unwrap();
    assert_eq!(client.start_dma_logging(PAGE).unwrap(), PAGE);
    client.start_dma_logging(2 * PAGE).unwrap_err();
    assert_eq!(place.report(BASE, 0x10_0000, PAGE), [(BASE, PAGE)], "nothing was forgotten");
    assert_eq!(place.report(BASE, 0x10_0000, PAGE), []);
    place.dma.write(BASE, &[1]).unwrap();
    assert_eq!(place.report(BASE, 0x10_0000, 512), [(BASE, PAGE)], "smaller pages all at once");
}

#[test]
fn an_unmap_says_what_was_written() {
    let place = place();
    let unmap = |address, size| place.client.dma_unmap_dirty(address, size, PAGE);
    let ram = place.ram(BASE, 0x1_0000);
    unmap(BASE, 0x1_0000).unwrap_err();
    place.client.start_dma_logging(PAGE).unwrap();
    place.dma.write(BASE + 0x2800, &[1; 0x1000]).unwrap();
    unmap(BASE, 0x8000).unwrap_err();
    assert_eq!(ranges(&unmap(BASE, 0x1_0000).unwrap()), [(BASE + 0x2000, 0x2000)]);
    assert!(matches!(place.dma.write(BASE, &[1]), Err(DmaError::NotMapped { .. })));
    drop(ram);
    let _ram = place.ram(BASE, 0x1_0000);
    assert_eq!(place.report(BASE, 0x1_0000, PAGE), [], "the new mapping is clean");
    place.dma.write(BASE, &[1]).unwrap();
    assert_eq!(place.report(BASE, 0x1_0000, PAGE), [(BASE, PAGE)]);
    assert_eq!(ranges(&unmap(0x4000_0000, PAGE).unwrap()), [], "nothing is there");
}

#[test]
fn an_unmap_with_dirty_pages_waits_for_leases() {
    let place = place();
    let _ram = place.ram(BASE, 0x1_0000);
    place.client.start_dma_logging(PAGE).unwrap();
    let lease = place.dma.lease(BASE, 0x1_0000, Direction::Write).unwrap();
    let client = place.client.clone();
    let unmap = std::thread::spawn(move || client.dma_unmap_dirty(BASE, 0x1_0000, PAGE));
    let dirty = within("the unmap", move || {
        while !lease.is_ending() {
            std::thread::yield_now();
        }
        lease.write(0x7000, &[1]).unwrap();
        drop(lease);
        unmap.join().unwrap().unwrap()
    });
    assert_eq!(ranges(&dirty), [(BASE + 0x7000, 0x1000)]);
}

#[test]
fn logging_ends_with_the_session() {
    let Place { client, vmm, dma, path, _served } = place();
    let ram = vmm.share_ram(BASE, 0x1_0000).unwrap();
    client.start_dma_logging(PAGE).unwrap();
    dma.write(BASE, &[1]).unwrap();
    drop((client, vmm));
    let vmm = Vmm::connect(&path).unwrap();
    vmm.enumerate().unwrap();
    drop(ram);
    let _ram = vmm.share_ram(BASE, 0x1_0000).unwrap();
    vmm.client().start_dma_logging(2 * PAGE).unwrap();
    assert!(vmm.client().dma_logging_report(BASE, 0x1_0000, PAGE).unwrap().is_clean());
}

/// A reset takes away what the device is, not what the client arranged.
#[test]
fn logging_goes_on_after_a_reset() {
    let place = place();
    let _ram = place.ram(BASE, 0x1_0000);
    place.client.start_dma_logging(PAGE).unwrap();
    place.dma.write(BASE, &[1]).unwrap();
    place.client.reset().unwrap();
    place.vmm.enumerate().unwrap();
    place.dma.write(BASE + 0x4000, &[1]).unwrap();
    let expected = [(BASE, PAGE), (BASE + 0x4000, PAGE)];
    assert_eq!(place.report(BASE, 0x1_0000, PAGE), expected);
}

#[test]
fn writes_that_fail_at_once_are_no_writes() {
    let place = place();
    let ram = place.ram(BASE, 0x1_0000);
    ram.truncate(0x1000).unwrap();
    // This one finds out how long the file is now.
    place.dma.write(BASE + 0x2000, &[1]).unwrap_err();
    place.client.start_dma_logging(PAGE).unwrap();
    place.dma.write(BASE + 0x2000, &[1]).unwrap_err();
    place.dma.write(BASE + 0x2_0000, &[1]).unwrap_err();
    assert_eq!(place.report(BASE, 0x1_0000, PAGE), []);
}
