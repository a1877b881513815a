//! No descriptor is leaked, whatever a client does. Alone in its binary: it counts those of the
//! whole process.

use std::os::fd::{AsFd, BorrowedFd};

use vfu::wire::{Command, DmaMap, DmaMapFlags, DmaUnmapRequest, Request, UnmapWhat};
use vfu_testkit::{Interrupts, RawPeer, SharedRam, TestServer, Vmm, command, fd_count, message};

const READ_WRITE: DmaMapFlags = DmaMapFlags::READ.union(DmaMapFlags::WRITE);

/// Counts with one client connected: when it has its VERSION the one before is cleaned up.
fn settled(server: &TestServer) -> usize {
    let _peer = RawPeer::begin(server.path()).unwrap();
    fd_count()
}

fn map(address: u64, size: u64) -> Request<'static> {
    Request::DmaMap(DmaMap { flags: READ_WRITE, offset: 0, address, size })
}

fn unmap(address: u64, size: u64) -> Request<'static> {
    Request::DmaUnmap(DmaUnmapRequest::new(UnmapWhat::Range { address, size }))
}

/// Every command with descriptors, well-formed or not.
fn send_descriptors_everywhere(server: &TestServer, fds: &[BorrowedFd<'_>]) {
    let peer = RawPeer::begin(server.path()).unwrap();
    for number in (0..20).filter(|n| *n != 1) {
        for len in [0, 16, 20, 24, 32, 64] {
            peer.send_with(&message(1, number, 0, &vec![0; len]), fds).unwrap();
            assert_eq!(peer.recv().unwrap().header.command, number);
        }
    }
    for request in [map(0x1000, 0x1000), map(0x1000, 0x1000), map(0x1800, 0x1000), map(0, 0)] {
        peer.call_with(1, &request, fds).unwrap();
    }
    for request in [unmap(0x1000, 0x800), unmap(0x1000, 0x1000), unmap(0x1000, 0x1000)] {
        peer.call_with(1, &request, fds).unwrap();
    }
    peer.send_with(&message(9, Command::DmaRead.as_u16(), 1, &[0; 32]), fds).unwrap();
    // And one that never ends.
    peer.send_with(&command(2, &map(0x1000, 0x1000))[..10], fds).unwrap();
}

fn use_it_well(server: &TestServer, twin: bool) {
    let connect = if twin { Vmm::connect } else { Vmm::connect_single };
    let vmm = connect(server.path().to_path_buf()).unwrap();
    let function = vmm.enumerate().unwrap();
    let _interrupts = vmm.enable_msix(&function, 4).unwrap();
    let _pin = vmm.enable_intx().unwrap();
    for i in 0..10 {
        let ram = vmm.share_ram(0x10_0000 * (i + 1), 0x10_0000).unwrap();
        server.handle().dma().write(ram.address(), b"here").unwrap();
    }
    vmm.client().dma_unmap(0x10_0000, 0x10_0000).unwrap();
}

#[test]
fn no_descriptor_is_leaked() {
    let server = TestServer::start();
    let baseline = settled(&server);
    assert_eq!(settled(&server), baseline);

    for round in 0..100 {
        use_it_well(&server, round % 2 == 0);
    }
    assert_eq!(settled(&server), baseline, "after 100 clients");

    let ram = SharedRam::new(0, 0x1000).unwrap();
    let interrupts = Interrupts::new(3).unwrap();
    let mut fds = vec![ram.as_fd()];
    fds.extend(interrupts.fds());
    let with_ours = baseline + fds.len();
    for n in [1, 2, 4] {
        send_descriptors_everywhere(&server, &fds[..n]);
        assert_eq!(settled(&server), with_ours, "{n} descriptors with each command");
    }
    let many = vec![ram.as_fd(); 253];
    send_descriptors_everywhere(&server, &many);
    assert_eq!(settled(&server), with_ours, "as many as a message can carry");

    for bytes in [RawPeer::version(1, 0, 1, Some("{}")), vec![1, 2, 3], vec![0; 16]] {
        let peer = RawPeer::connect(server.path()).unwrap();
        peer.send_with(&bytes, &fds).unwrap();
        drop(peer);
        assert_eq!(settled(&server), with_ours, "descriptors instead of a handshake");
    }
    for json in [r#"{"capabilities":{"twin_socket":{"supported":true}}}"#, "{", "[]"] {
        for _ in 0..10 {
            drop(RawPeer::connect(server.path()).unwrap().handshake(json).unwrap());
        }
        assert_eq!(settled(&server), with_ours, "{json}");
    }
    drop((interrupts, ram));
    let gone = settled(&server);
    assert_eq!(gone, baseline);
    server.stop().unwrap();
}
