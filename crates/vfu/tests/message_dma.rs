//! DMA by messages, against a client that says every byte itself.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use vfu::wire::{
    Command, DmaMap, DmaMapFlags, DmaReadReply, DmaReadRequest, DmaUnmapRequest, DmaWriteRequest,
    Errno, RegionReadReply, RegionReadRequest, RegionWriteRequest, Request, UnmapWhat,
};
use vfu::{Access, Client, Device, DmaError, Fault, Handle, Limits, Server};
use vfu_testkit::{
    CallLog, DEADLINE, RawMessage, RawPeer, TestDevice, TestServer, Vmm, command, message,
    serve_in_process,
};

const BASE: u64 = 0x10_0000;
const SIZE: u64 = 0x40_0000;
const READ_WRITE: DmaMapFlags = DmaMapFlags::READ.union(DmaMapFlags::WRITE);

/// A client that has mapped [`BASE`] for messages.
struct Peer {
    main: RawPeer,
    twin: Option<RawPeer>,
}

impl Peer {
    fn begin(server: &TestServer, twin: bool) -> Peer {
        Peer::with(server, twin, 1 << 20)
    }

    fn with(server: &TestServer, twin: bool, max_transfer: u64) -> Peer {
        let main = RawPeer::connect(server.path()).unwrap();
        let json = format!(
            r#"{{"capabilities":{{"max_data_xfer_size":{max_transfer},"twin_socket":{{"supported":{twin}}}}}}}"#
        );
        let twin = main.handshake(&json).unwrap().fds.pop().map(RawPeer::over);
        main.enable_bus_master().unwrap();
        let peer = Peer { main, twin };
        peer.map(BASE, SIZE);
        peer
    }

    /// Where DMA messages go.
    fn dma(&self) -> &RawPeer {
        self.twin.as_ref().unwrap_or(&self.main)
    }

    fn map(&self, address: u64, size: u64) {
        let map = DmaMap { flags: READ_WRITE, offset: 0, address, size };
        assert_eq!(self.main.call(1, &Request::DmaMap(map)).unwrap().errno(), None);
    }

    fn unmap(&self, what: UnmapWhat) {
        let unmap = Request::DmaUnmap(DmaUnmapRequest::new(what));
        assert_eq!(self.main.call(1, &unmap).unwrap().errno(), None);
    }

    /// The next command of the server, as a DMA_READ.
    fn asked(&self) -> (RawMessage, u64, usize) {
        let message = self.dma().recv().unwrap();
        assert_eq!(message.header.command, Command::DmaRead.as_u16());
        let request = DmaReadRequest::parse(&message.payload).unwrap();
        (message, request.address, request.count as usize)
    }

    /// The next command of the server, as a DMA_WRITE: its address and data.
    fn told(&self) -> (RawMessage, u64, Vec<u8>) {
        let message = self.dma().recv().unwrap();
        assert_eq!(message.header.command, Command::DmaWrite.as_u16());
        let request = DmaWriteRequest::parse(&message.payload).unwrap();
        let (address, data) = (request.address, request.data.to_vec());
        (message, address, data)
    }

    fn give(&self, request: &RawMessage, payload: &[u8]) {
        self.dma().send(&request.reply(payload)).unwrap();
    }

    /// The session is alive and in sync.
    fn works(&self) {
        let read = Request::RegionRead(RegionReadRequest { offset: 0, region: 7, count: 2 });
        let reply = self.main.call(77, &read).unwrap();
        assert_eq!(RegionReadReply::parse(&reply.payload).unwrap().data, [0x34, 0x12]);
    }

    /// The whole of the server's DMA works.
    fn dma_works(&self, handle: &Handle) {
        let read = start_read(handle, BASE + 8, 4);
        let (request, address, _) = self.asked();
        self.give(&request, &read_reply(address, b"good"));
        assert_eq!(read.end(), Ok(b"good".to_vec()));
    }
}

fn read_reply(address: u64, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    DmaReadReply { address, data }.emit(&mut payload);
    payload
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn byte_at(address: u64) -> u8 {
    (address.wrapping_mul(0x9e37_79b9) >> 16) as u8
}

fn bytes_at(address: u64, len: usize) -> Vec<u8> {
    (address..address + len as u64).map(byte_at).collect()
}

/// A DMA on a thread of its own.
struct Pending<T>(Receiver<Result<T, DmaError>>);

impl<T> Pending<T> {
    fn end(self) -> Result<T, DmaError> {
        self.0.recv_timeout(DEADLINE).expect("the DMA hangs")
    }

    fn has_ended(&self) -> bool {
        self.0.try_recv().is_ok()
    }
}

fn start<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DmaError> + Send + 'static,
) -> Pending<T> {
    let (done, result) = channel();
    thread::spawn(move || done.send(work()));
    Pending(result)
}

fn start_read(handle: &Handle, address: u64, len: usize) -> Pending<Vec<u8>> {
    let dma = handle.dma();
    start(move || {
        let mut data = vec![0xee; len];
        dma.read(address, &mut data).map(|()| data)
    })
}

fn start_write(handle: &Handle, address: u64, data: Vec<u8>) -> Pending<()> {
    let dma = handle.dma();
    start(move || dma.write(address, &data))
}

/// A server whose DMA waits for ever, unless something else ends it.
fn patient() -> TestServer {
    TestServer::with(|builder| builder.limits(Limits { reply_timeout: None, ..Limits::default() }))
}

#[test]
fn transfers_are_split_as_the_client_demands() {
    let server = TestServer::start();
    for (twin, max) in [(false, 100), (true, 100), (false, 1), (true, 1)] {
        let peer = Peer::with(&server, twin, max as u64);
        let len = max * 5 / 2;
        let read = start_read(server.handle(), BASE + 3, len);
        let mut at = 0;
        while at < len {
            let (request, address, count) = peer.asked();
            assert_eq!((address, count), (BASE + 3 + at as u64, max.min(len - at)));
            peer.give(&request, &read_reply(address, &bytes_at(address, count)));
            at += count;
        }
        assert_eq!(read.end(), Ok(bytes_at(BASE + 3, len)));

        let write = start_write(server.handle(), BASE + 3, bytes_at(BASE + 3, len));
        let mut got = Vec::new();
        while got.len() < len {
            let (request, address, data) = peer.told();
            assert_eq!(address, BASE + 3 + got.len() as u64);
            assert_eq!(data.len(), max.min(len - got.len()));
            peer.give(&request, &words(&[address, data.len() as u64]));
            got.extend(data);
        }
        assert_eq!(write.end(), Ok(()));
        assert_eq!(got, bytes_at(BASE + 3, len));
    }
}

#[test]
fn our_own_client_gets_pieces_of_its_size() {
    let server = TestServer::start();
    for twin in [false, true] {
        let client = Client::builder().twin_socket(twin).max_transfer(100).connect(server.path());
        let vmm = Vmm::over(client.unwrap());
        vmm.set_bus_master(true).unwrap();
        let ram = vmm.message_ram(BASE, 0x1000).unwrap();
        ram.store(BASE + 7, &bytes_at(BASE, 250)).unwrap();
        let mut got = vec![0; 250];
        server.handle().dma().read(BASE + 7, &mut got).unwrap();
        assert_eq!(got, bytes_at(BASE, 250));
        server.handle().dma().write(BASE + 1000, &got).unwrap();
        assert_eq!(ram.bytes(BASE + 1000, 250).unwrap(), got);
        assert_eq!((ram.reads(), ram.writes(), ram.largest()), (3, 3, 100));
        ram.refuse(Some(Errno::EPERM));
        let refused = server.handle().dma().write(BASE, &[0]);
        assert_eq!(refused, Err(DmaError::Refused(Errno::EPERM)));
    }
}

#[test]
fn reads_on_a_single_socket_are_small_enough_for_qemu() {
    let server = TestServer::start();
    let peer = Peer::begin(&server, false);
    let len = 1 << 20;
    let read = start_read(server.handle(), BASE, len);
    let (mut at, mut largest) = (0, 0);
    while at < len {
        let (request, address, count) = peer.asked();
        largest = largest.max(count);
        peer.give(&request, &read_reply(address, &bytes_at(address, count)));
        at += count;
    }
    assert_eq!(largest, 64 << 10);
    assert!(read.end() == Ok(bytes_at(BASE, len)));
}

#[test]
fn short_replies_are_continued() {
    let server = TestServer::start();
    for twin in [false, true] {
        let peer = Peer::begin(&server, twin);
        let read = start_read(server.handle(), BASE, 100);
        let mut at = 0;
        for len in [10, 1, 50, 39] {
            let (request, address, count) = peer.asked();
            assert_eq!((address, count), (BASE + at as u64, 100 - at));
            peer.give(&request, &read_reply(address, &bytes_at(address, len)));
            at += len;
        }
        assert_eq!(read.end(), Ok(bytes_at(BASE, 100)));
    }
}

#[test]
fn a_refusal_is_told_to_the_device() {
    let server = TestServer::start();
    let peer = Peer::begin(&server, true);
    for (field, errno) in [(13, Errno::EACCES), (0, Errno::EIO), (u32::MAX, Errno::EIO)] {
        for payload in [&[][..], &[0x77; 99]] {
            let read = start_read(server.handle(), BASE, 4);
            let write = start_write(server.handle(), BASE + 0x1000, vec![1; 4]);
            for _ in 0..2 {
                let request = peer.dma().recv().unwrap();
                let mut reply = request.reply(payload);
                reply[8] |= 0x20;
                reply[12..16].copy_from_slice(&field.to_le_bytes());
                peer.dma().send(&reply).unwrap();
            }
            assert_eq!(read.end(), Err(DmaError::Refused(errno)));
            assert_eq!(write.end(), Err(DmaError::Refused(errno)));
        }
    }
    peer.dma_works(server.handle());
}

#[test]
fn replies_to_a_read_that_make_no_sense_are_errors() {
    let server = TestServer::start();
    for twin in [false, true] {
        let peer = Peer::begin(&server, twin);
        let replies = [
            ("another address", read_reply(BASE + 1, &[0; 16])),
            ("nothing", read_reply(BASE, &[])),
            ("too much", read_reply(BASE, &[0; 17])),
            ("far too much", read_reply(BASE, &[0; 100_000])),
            ("a count above the data", [words(&[BASE, 16]), vec![0; 15]].concat()),
            ("a count below the data", [words(&[BASE, 15]), vec![0; 16]].concat()),
            ("a count of 2^63", [words(&[BASE, 1 << 63]), vec![0; 16]].concat()),
            ("no payload", vec![]),
            ("half a head", words(&[BASE])),
        ];
        for (what, payload) in replies {
            let read = start_read(server.handle(), BASE, 16);
            let (request, ..) = peer.asked();
            peer.give(&request, &payload);
            let ended = read.end();
            let refused = matches!(ended, Err(DmaError::Malformed(_) | DmaError::NoData));
            assert!(
                refused && (ended == Err(DmaError::NoData)) == (what == "nothing"),
                "{what}: {ended:?}"
            );
            peer.works();
        }
        let read = start_read(server.handle(), BASE, 16);
        let (mut request, ..) = peer.asked();
        request.header.command = Command::DmaWrite.as_u16();
        peer.give(&request, &read_reply(BASE, &[0; 16]));
        let ended = read.end();
        assert!(matches!(ended, Err(DmaError::Malformed(_))), "another command: {ended:?}");
        peer.dma_works(server.handle());
    }
}

#[test]
fn replies_to_a_write_are_checked() {
    let server = TestServer::start();
    let peer = Peer::begin(&server, true);
    let ended = |payload: &[u8]| {
        let write = start_write(server.handle(), BASE, vec![3; 16]);
        let (request, ..) = peer.told();
        peer.give(&request, payload);
        write.end()
    };
    let short_count = [words(&[BASE]), 16u32.to_le_bytes().to_vec()].concat();
    for good in [words(&[BASE, 16]), short_count, vec![]] {
        assert_eq!(ended(&good), Ok(()), "{good:x?}");
    }
    let bad = [
        words(&[BASE + 1, 16]),
        words(&[BASE, 15]),
        words(&[BASE, 17]),
        words(&[BASE, 0]),
        words(&[BASE]),
        vec![0; 15],
    ];
    for payload in bad {
        let result = ended(&payload);
        assert!(matches!(result, Err(DmaError::Malformed(_))), "{payload:x?}: {result:?}");
    }
    peer.dma_works(server.handle());
}

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
fn what_may_not_be_sent_is_not() {
    let server = TestServer::start();
    let peer = Peer::begin(&server, false);
    let dma = server.handle().dma();
    let outside = BASE + SIZE;
    assert_eq!(dma.read(outside, &mut [0]), Err(DmaError::NotMapped { address: outside }));
    let across = dma.write(outside - 4, &[0; 8]);
    assert_eq!(across, Err(DmaError::NotMapped { address: outside }), "nothing of it is sent");
    assert_eq!(dma.read(BASE, &mut []), Ok(()));
    let off = RegionWriteRequest { offset: 4, region: 7, data: &[0, 0] };
    peer.main.call(1, &Request::RegionWrite(off)).unwrap();
    assert_eq!(dma.write(BASE, &[1]), Err(DmaError::BusMasterDisabled));
    peer.works();
    assert!(!peer.main.has_input().unwrap());
    drop(peer);
    let _next = RawPeer::begin(server.path()).unwrap();
    assert!(dma.read(BASE, &mut [0]).is_err());
}

#[test]
fn the_bus_master_gate_can_be_left_open() {
    let server = TestServer::with(|builder| builder.bus_master_gate(false));
    let peer = Peer::begin(&server, false);
    let off = RegionWriteRequest { offset: 4, region: 7, data: &[0, 0] };
    peer.main.call(1, &Request::RegionWrite(off)).unwrap();
    peer.dma_works(server.handle());
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

#[test]
fn a_copy_announces_itself_after_its_data() {
    // The device's own worker: DMA_READ, DMA_WRITE, and the interrupt after its acknowledgement.
    let log = CallLog::default();
    let builder = Server::builder(TestDevice::pci());
    let server = serve_in_process(builder, |handle| TestDevice::new(handle, log)).unwrap();
    let vmm = Vmm::connect(server.path()).unwrap();
    let function = vmm.enumerate().unwrap();
    let msix = vmm.enable_msix(&function, 1).unwrap();
    let ram = vmm.message_ram(BASE, 0x2000).unwrap();
    ram.store(BASE, &bytes_at(BASE, 64)).unwrap();
    ram.hold();
    vmm.write64(0, TestDevice::SOURCE, BASE).unwrap();
    vmm.write64(0, TestDevice::DESTINATION, BASE + 0x1000).unwrap();
    vmm.write32(0, TestDevice::LENGTH, 64).unwrap();
    vmm.client().region_write_posted(0, TestDevice::DOORBELL, &[0; 4]).unwrap();
    ram.wait_held().unwrap();
    assert_eq!(msix.count_now(0).unwrap(), 0);
    ram.release();
    msix.wait(0).unwrap();
    assert_eq!(ram.bytes(BASE + 0x1000, 64).unwrap(), bytes_at(BASE, 64));
}
