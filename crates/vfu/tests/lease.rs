//! Leases, where their mappings are at an edge.

use std::os::fd::AsFd;

use vfu::dma::Direction;
use vfu::wire::{DmaMap, DmaMapFlags, Request};
use vfu_testkit::{RawPeer, SharedRam, TestServer};

const PAGE: u64 = 0x1000;
/// Addresses end behind it.
const LAST_PAGE: u64 = 0u64.wrapping_sub(PAGE);

#[test]
fn nothing_at_the_end_of_all_addresses_can_be_moved() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    peer.enable_bus_master().unwrap();
    let ram = SharedRam::new(LAST_PAGE, PAGE).unwrap();
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    let map = DmaMap { flags, offset: 0, address: LAST_PAGE, size: PAGE };
    let reply = peer.call_with(1, &Request::DmaMap(map), &[ram.as_fd()]).unwrap();
    assert_eq!(reply.errno(), None);
    let lease = server.handle().dma().lease(LAST_PAGE, PAGE, Direction::Write).unwrap();
    // Nor is anything left of the file, and that is known.
    ram.truncate(0).unwrap();
    lease.write(0, &[1]).unwrap_err();
    assert_eq!(lease.read(PAGE, &mut []), Ok(()));
    assert_eq!(lease.write(PAGE, &[]), Ok(()));
}
