//! DMA by messages that is under way: what else goes on meanwhile, and what ends it.

mod dma_peer;

use std::time::Duration;

use dma_peer::*;
use vfu::wire::{Command, Errno, RegionReadRequest, RegionWriteRequest, Request, UnmapWhat};
use vfu::{Access, Device, DmaError, Fault, Handle, Limits, Server};
use vfu_testkit::{RawPeer, TestDevice, TestServer, command, message, serve_in_process};

#[test]
fn a_reply_that_does_not_come_in_time_is_drained_when_it_does() {
    let server = TestServer::with(|builder| {
        let reply_timeout = Some(Duration::from_millis(50));
        builder.limits(Limits { reply_timeout, ..Limits::default() })
    });
    for twin in [false, true] {
        let peer = Peer::begin(&server, twin);
        let read = start_read(server.handle(), BASE, 16);
        let (late, address, _) = peer.asked();
        assert_eq!(read.end(), Err(DmaError::TimedOut));
        peer.works();
        // The next request may not have the id of the one that is owed.
        let write = start_write(server.handle(), BASE, vec![1]);
        let (owed, ..) = peer.told();
        assert_ne!(owed.header.id, late.header.id);
        assert_eq!(write.end(), Err(DmaError::TimedOut));
        let bytes = late.reply(&read_reply(address, &[0x55; 16]));
        peer.dma().send_split(&bytes, &[10, 20]).unwrap();
        peer.give(&owed, &words(&[BASE, 1]));
        peer.works();
    }
}

/// Starts a read and a write that stay unanswered; `end` must end both with `expected`.
fn ends(server: &TestServer, peer: &Peer, expected: &DmaError, end: impl FnOnce(&Peer)) {
    let read = start_read(server.handle(), BASE, 16);
    peer.asked();
    let write = start_write(server.handle(), BASE + 0x1000, vec![1; 16]);
    peer.told();
    end(peer);
    assert_eq!(read.end().as_ref(), Err(expected));
    assert_eq!(write.end().as_ref(), Err(expected));
}

#[test]
fn a_reset_ends_what_is_pending() {
    for twin in [false, true] {
        let server = patient();
        let peer = Peer::begin(&server, twin);
        ends(&server, &peer, &DmaError::Canceled, |peer| {
            assert_eq!(peer.main.call(1, &Request::DeviceReset).unwrap().errno(), None);
        });
        peer.main.enable_bus_master().unwrap();
        peer.dma_works(server.handle());
    }
}

#[test]
fn an_unmap_ends_what_is_pending() {
    for twin in [false, true] {
        let server = patient();
        let peer = Peer::begin(&server, twin);
        let whole = UnmapWhat::Range { address: BASE, size: SIZE };
        for what in [whole, UnmapWhat::All] {
            ends(&server, &peer, &DmaError::Canceled, |peer| peer.unmap(what));
            peer.map(BASE, SIZE);
            peer.dma_works(server.handle());
        }
    }
}

#[test]
fn an_unmap_of_something_else_ends_nothing() {
    for twin in [false, true] {
        let server = patient();
        let peer = Peer::begin(&server, twin);
        peer.map(0x1000, 0x1000);
        let read = start_read(server.handle(), BASE, 4);
        let (request, address, _) = peer.asked();
        peer.unmap(UnmapWhat::Range { address: 0x1000, size: 0x1000 });
        peer.works();
        peer.give(&request, &read_reply(address, b"kept"));
        assert_eq!(read.end(), Ok(b"kept".to_vec()));
    }
}

#[test]
fn a_late_reply_never_reaches_other_memory() {
    let server = patient();
    let peer = Peer::begin(&server, false);
    let read = start_read(server.handle(), BASE, 16);
    let (late, ..) = peer.asked();
    peer.unmap(UnmapWhat::All);
    assert_eq!(read.end(), Err(DmaError::Canceled));
    peer.map(BASE, SIZE);
    let read = start_read(server.handle(), BASE, 16);
    let (request, ..) = peer.asked();
    peer.give(&late, &read_reply(BASE, &[0xbb; 16]));
    peer.works();
    assert!(!read.has_ended());
    peer.give(&request, &read_reply(BASE, &[0x99; 16]));
    assert_eq!(read.end(), Ok(vec![0x99; 16]));
}

#[test]
fn the_end_of_the_session_ends_what_is_pending() {
    for twin in [false, true] {
        let server = patient();
        let peer = Peer::begin(&server, twin);
        ends(&server, &peer, &DmaError::NotConnected, |peer| peer.main.shutdown_write());
        drop(peer);

        let peer = Peer::begin(&server, twin);
        ends(&server, &peer, &DmaError::NotConnected, |_| server.stopper().stop());
    }
    let server = patient();
    let peer = Peer::begin(&server, true);
    ends(&server, &peer, &DmaError::NotConnected, |peer| peer.dma().shutdown_write());
}

/// libvfio-user takes the next message for the reply (its issue 279).
#[test]
fn registers_are_served_while_dma_is_pending() {
    for twin in [false, true] {
        let server = patient();
        let peer = Peer::begin(&server, twin);
        let read = start_read(server.handle(), BASE, 8);
        let (request, address, _) = peer.asked();
        for _ in 0..10 {
            peer.works();
        }
        let region_read = RegionReadRequest { offset: 0, region: 7, count: 2 };
        let register = command(5, &Request::RegionRead(region_read));
        let answer = request.reply(&read_reply(address, b"answered"));
        if twin {
            peer.main.send(&register).unwrap();
            peer.dma().send(&answer).unwrap();
        } else {
            peer.main.send(&[register.clone(), answer, register].concat()).unwrap();
            peer.main.recv_reply(5, Command::RegionRead).unwrap();
        }
        peer.main.recv_reply(5, Command::RegionRead).unwrap();
        assert_eq!(read.end(), Ok(b"answered".to_vec()));
    }
}

/// A device that does DMA in its handler, and so makes its driver wait.
struct Inline(Handle);

impl Device for Inline {
    fn region_read(&mut self, at: Access, data: &mut [u8]) -> Result<(), Fault> {
        at.give(data, &0x1111_2222_u32.to_le_bytes());
        Ok(())
    }

    fn region_write(&mut self, _: Access, data: &[u8]) -> Result<(), Fault> {
        let mut from = [0; 4];
        let dma = self.0.dma();
        let copied = dma.read(BASE, &mut from).and_then(|()| dma.write(BASE + 4, data));
        copied.map_err(|_| Fault::Denied)
    }
}

#[test]
fn a_handler_may_wait_for_its_dma() {
    for twin in [false, true] {
        let builder = Server::builder(TestDevice::pci());
        let server = serve_in_process(builder, Inline).unwrap();
        let main = RawPeer::connect(server.path()).unwrap();
        let json = format!(r#"{{"capabilities":{{"twin_socket":{{"supported":{twin}}}}}}}"#);
        let twin = main.handshake(&json).unwrap().fds.pop().map(RawPeer::over);
        main.enable_bus_master().unwrap();
        let peer = Peer { main, twin };
        peer.map(BASE, SIZE);
        let write = RegionWriteRequest { offset: 0, region: 0, data: &[1, 2, 3, 4] };
        let read = RegionReadRequest { offset: 0, region: 0, count: 4 };
        peer.main.send(&command(10, &Request::RegionWrite(write))).unwrap();
        let (request, address, _) = peer.asked();
        // Behind the write: it is executed after it.
        peer.main.send(&command(11, &Request::RegionRead(read))).unwrap();
        peer.give(&request, &read_reply(address, &[0; 4]));
        let (request, address, data) = peer.told();
        assert_eq!((address, data), (BASE + 4, vec![1, 2, 3, 4]));
        assert!(peer.twin.is_none() || !peer.main.has_input().unwrap());
        peer.give(&request, &words(&[BASE + 4, 4]));
        peer.main.recv_reply(10, Command::RegionWrite).unwrap();
        peer.main.recv_reply(11, Command::RegionRead).unwrap();
    }
}

#[test]
fn replies_find_their_askers_in_any_order() {
    for twin in [false, true] {
        let server = patient();
        let peer = Peer::begin(&server, twin);
        let reads: Vec<_> = (0..16)
            .map(|i| (i, start_read(server.handle(), BASE + i * 0x100, 8 + i as usize)))
            .collect();
        let mut requests: Vec<_> = reads.iter().map(|_| peer.asked()).collect();
        let mut ids: Vec<_> = requests.iter().map(|(message, ..)| message.header.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 16, "ids in flight are unique");
        requests.reverse();
        requests.swap(3, 9);
        for (request, address, count) in &requests {
            peer.give(request, &read_reply(*address, &bytes_at(*address, *count)));
        }
        for (i, read) in reads {
            assert_eq!(read.end(), Ok(bytes_at(BASE + i * 0x100, 8 + i as usize)));
        }
    }
}

#[test]
fn the_twin_is_for_dma_only() {
    let server = patient();
    let peer = Peer::begin(&server, true);
    let read = start_read(server.handle(), BASE, 4);
    let (request, address, _) = peer.asked();
    let region_read = RegionReadRequest { offset: 0, region: 7, count: 2 };
    let refused = peer.dma().call(5, &Request::RegionRead(region_read)).unwrap();
    assert_eq!(refused.errno(), Some(Errno::EINVAL));
    peer.dma().send(&message(6, Command::RegionRead.as_u16(), 0x10, &[0; 16])).unwrap();
    // The right reply on the wrong socket is nobody's.
    peer.main.send(&request.reply(&read_reply(address, b"evil"))).unwrap();
    peer.works();
    assert!(!read.has_ended());
    peer.give(&request, &read_reply(address, b"good"));
    assert_eq!(read.end(), Ok(b"good".to_vec()));
}
