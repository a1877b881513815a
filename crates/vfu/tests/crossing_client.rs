//! Crossing traffic, the client's side (K1 to K7, C3e, C8b, C11d), against a server that says every
//! byte itself.
//!
//! Not counted: a server that reaches for memory after the reply to its unmap (C3e) is refused, and
//! that is all.

mod crossing;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crossing::{BASE, READ_WRITE};
use vfu::Client;
use vfu::Limits;
use vfu::client::{ClientBuilder, ClientError, DmaMemory, Memory};
use vfu::wire::{
    Command, DmaReadReply, DmaReadRequest, DmaUnmapReply, DmaUnmapRequest, DmaWriteRequest, Errno,
    RegionReadReply, Request, UnmapWhat,
};
use vfu_testkit::{
    DEADLINE, MessageRam, RawListener, RawMessage, RawPeer, SharedRam, command, posted,
    this_thread, thread_state,
};

/// Work on a thread of its own.
struct Background<T>(std::sync::mpsc::Receiver<T>);

impl<T: Send + 'static> Background<T> {
    fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (done, result) = channel();
        thread::spawn(move || done.send(work()));
        Background(result)
    }

    fn end(self) -> T {
        self.0.recv_timeout(DEADLINE).expect("the client hangs")
    }

    fn has_ended(&self) -> bool {
        self.0.try_recv().is_ok()
    }
}

/// A client and the server's ends of its sockets.
struct Pair {
    client: Client,
    main: RawPeer,
    twin: Option<RawPeer>,
}

impl Pair {
    fn new(twin: bool) -> Pair {
        Pair::with(Client::builder().timeout(None), twin)
    }

    fn with(builder: ClientBuilder, twin: bool) -> Pair {
        let listener = RawListener::new().unwrap();
        let path = listener.path().to_path_buf();
        let client = Background::start(move || builder.twin_socket(twin).connect(path));
        let main = listener.accept().unwrap();
        let (ours, theirs) = RawPeer::pair().unwrap();
        let json = r#"{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}"#;
        if twin {
            main.answer_handshake(json, &[theirs.as_fd()]).unwrap();
        } else {
            main.answer_handshake("{}", &[]).unwrap();
        }
        Pair { client: client.end().unwrap(), main, twin: twin.then_some(ours) }
    }

    fn dma(&self) -> &RawPeer {
        self.twin.as_ref().unwrap_or(&self.main)
    }

    fn map(&self, memory: Arc<dyn DmaMemory>) {
        let client = self.client.clone();
        let mapped = Background::start(move || {
            client.dma_map(BASE, 0x1000, READ_WRITE, Memory::Messages(memory))
        });
        let request = self.main.recv().unwrap();
        self.main.send(&request.reply(&[])).unwrap();
        mapped.end().unwrap();
    }

    fn ram(&self) -> Arc<MessageRam> {
        let ram = Arc::new(MessageRam::new(BASE, 0x1000));
        self.map(ram.clone());
        ram
    }

    fn read(&self) -> Background<Result<Vec<u8>, ClientError>> {
        let client = self.client.clone();
        Background::start(move || {
            let mut data = vec![0xee; 4];
            client.region_read(0, 0x10, &mut data).map(|()| data)
        })
    }

    /// The session is alive and in sync.
    fn works(&self) {
        let read = self.read();
        let request = self.main.recv().unwrap();
        assert_eq!(request.header.command, Command::RegionRead.as_u16());
        self.main.send(&answer(&request, b"good")).unwrap();
        assert_eq!(read.end().unwrap(), b"good");
    }
}

fn answer(request: &RawMessage, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    RegionReadReply { offset: 0x10, region: 0, data }.emit(&mut payload);
    request.reply(&payload)
}

fn dma_read<'a>(address: u64, count: u64) -> Request<'a> {
    Request::DmaRead(DmaReadRequest { address, count })
}

fn dma_write(address: u64, data: &[u8]) -> Request<'_> {
    Request::DmaWrite(DmaWriteRequest { address, data })
}

#[test]
fn k1_dma_is_served_while_requests_are_unanswered() {
    for twin in [false, true] {
        let pair = Pair::new(twin);
        let ram = pair.ram();
        // With none under way, with one, and with many threads that wait.
        for waiting in [0, 1, 8] {
            let reads: Vec<_> = (0..waiting).map(|_| pair.read()).collect();
            let requests: Vec<_> = reads.iter().map(|_| pair.main.recv().unwrap()).collect();
            for round in 0..100u32 {
                let data = round.to_le_bytes();
                let written = pair.dma().call(1, &dma_write(BASE, &data)).unwrap();
                assert_eq!(written.errno(), None);
                let read = pair.dma().call(2, &dma_read(BASE, 4)).unwrap();
                assert_eq!(DmaReadReply::parse(&read.payload).unwrap().data, data);
            }
            assert!(reads.iter().all(|read| !read.has_ended()));
            for request in &requests {
                pair.main.send(&answer(request, b"good")).unwrap();
            }
        }
        assert_eq!(ram.writes(), 300);
        pair.works();
    }
}

/// Memory that answers only when it is told to: requests of other threads do not wait for it on two
/// sockets, and on one only those whose replies come behind it.
#[test]
fn k1_slow_memory() {
    let pair = Pair::new(true);
    let ram = pair.ram();
    ram.hold();
    pair.dma().send(&command(1, &dma_write(BASE, b"slow"))).unwrap();
    ram.wait_held().unwrap();
    pair.works();
    ram.release();
    pair.dma().recv_reply(1, Command::DmaWrite).unwrap();
    pair.works();
}

#[test]
fn k2_a_write_is_there_before_the_reply_behind_it() {
    c11d(false);
}

#[test]
fn c11d_no_read_is_stale_in_10_000_rounds() {
    c11d(true);
}

/// `with_reply`: the server wants the writes acknowledged.
fn c11d(with_reply: bool) {
    let pair = Pair::new(false);
    let ram = pair.ram();
    let (client, seen) = (pair.client.clone(), ram.clone());
    let reader = Background::start(move || {
        for round in 0..10_000u32 {
            let mut data = [0; 4];
            client.region_read(0, 0x10, &mut data).unwrap();
            assert_eq!(u32::from_le_bytes(data), round);
            assert_eq!(seen.bytes(BASE, 4).unwrap(), data, "stale");
        }
    });
    let mut acknowledged = 0;
    for round in 0..10_000u32 {
        let request = loop {
            let message = pair.main.recv().unwrap();
            if message.header.command == Command::RegionRead.as_u16() {
                break message;
            }
            acknowledged += 1;
        };
        let data = round.to_le_bytes();
        let write = dma_write(BASE, &data);
        let write = if with_reply { command(1, &write) } else { posted(1, &write) };
        pair.main.send(&[write, answer(&request, &data)].concat()).unwrap();
    }
    while with_reply && acknowledged < 10_000 {
        assert_eq!(pair.main.recv().unwrap().errno(), None);
        acknowledged += 1;
    }
    reader.end();
}

#[test]
fn k3_a_late_reply_is_drained_by_its_own_size() {
    for twin in [false, true] {
        let builder = Client::builder().timeout(Some(Duration::from_millis(60)));
        let pair = Pair::with(builder, twin);
        let late: Vec<_> = (0..3)
            .map(|_| {
                let read = pair.read();
                let request = pair.main.recv().unwrap();
                assert!(matches!(read.end(), Err(ClientError::TimedOut(Command::RegionRead))));
                request
            })
            .collect();
        let sizes = [0, 4, 100_000];
        for (request, size) in late.iter().zip(sizes) {
            pair.main.send(&answer(request, &vec![0x44; size])).unwrap();
        }
        // However slow this machine is: whatever times out is drained, too.
        let server = thread::spawn(move || {
            while let Ok(request) = pair.main.recv() {
                pair.main.send(&answer(&request, b"good")).unwrap();
            }
        });
        let client = pair.client;
        loop {
            let mut data = [0; 4];
            match client.region_read(0, 0x10, &mut data) {
                Ok(()) => break assert_eq!(&data, b"good"),
                Err(e) => assert!(matches!(e, ClientError::TimedOut(_)), "{e}"),
            }
        }
        let counters = client.counters();
        assert_eq!(counters.late_replies, counters.timeouts);
        client.close();
        server.join().unwrap();
    }
}

/// QEMU crashes here.
#[test]
fn k4_a_reply_in_pieces_is_not_written_to_a_buffer_that_was_given_up() {
    for twin in [false, true] {
        let builder = Client::builder().timeout(Some(Duration::from_millis(60)));
        let pair = Pair::with(builder, twin);
        let client = pair.client.clone();
        let read = Background::start(move || {
            let mut data = vec![0xee; 4096];
            let result = client.region_read(0, 0x10, &mut data);
            (result, data)
        });
        let request = pair.main.recv().unwrap();
        let reply = answer(&request, &[0x44; 4096]);
        pair.main.send(&reply[..100]).unwrap();
        let (result, data) = read.end();
        assert!(matches!(result, Err(ClientError::TimedOut(_))));
        assert!(data.iter().all(|byte| *byte == 0xee));
        // The next request is out while the rest trickles in.
        let read = pair.read();
        let next = pair.main.recv().unwrap();
        pair.main.send_split(&reply[100..], &[1, 2, 2000]).unwrap();
        pair.main.send(&answer(&next, b"good")).unwrap();
        match read.end() {
            Ok(data) => assert_eq!(data, b"good"),
            Err(e) => assert!(matches!(e, ClientError::TimedOut(_)), "a slow machine: {e}"),
        }
        assert!(pair.client.closed().is_none());
    }
}

#[test]
fn k5_a_disconnect_ends_every_request_at_once() {
    for twin in [false, true] {
        for half in [false, true] {
            let pair = Pair::new(twin);
            pair.ram();
            let reads: Vec<_> = (0..8).map(|_| pair.read()).collect();
            reads.iter().for_each(|_| drop(pair.main.recv().unwrap()));
            // No timeout: only the disconnect can end them.
            let (main, other) = (pair.main, pair.twin);
            if half {
                main.shutdown_write();
            } else if let Some(other) = other {
                drop(other);
            } else {
                drop(main);
            }
            for read in reads {
                assert!(matches!(read.end(), Err(ClientError::Closed(_))));
            }
            let again = pair.client.region_read(0, 0, &mut [0]);
            assert!(matches!(again, Err(ClientError::Closed(_))));
        }
    }
}

#[test]
fn k6_requests_are_bounded() {
    for twin in [false, true] {
        let limits = Limits { outstanding: 4, reply_timeout: None, ..Limits::default() };
        let pair = Pair::with(Client::builder().limits(limits), twin);
        let mut reads: Vec<_> = (0..4).map(|_| pair.read()).collect();
        let requests: Vec<_> = reads.iter().map(|_| pair.main.recv().unwrap()).collect();
        reads.extend((0..4).map(|_| pair.read()));
        // Four more wait for room.
        assert!(!pair.main.has_input().unwrap());
        pair.main.send(&answer(&requests[0], b"good")).unwrap();
        let mut late = vec![pair.main.recv().unwrap()];
        assert!(!pair.main.has_input().unwrap(), "one place for one");
        for request in &requests[1..] {
            pair.main.send(&answer(request, b"good")).unwrap();
            late.push(pair.main.recv().unwrap());
        }
        for request in late {
            pair.main.send(&answer(&request, b"good")).unwrap();
        }
        for read in reads {
            assert_eq!(read.end().unwrap(), b"good");
        }
        pair.works();
    }
}

#[test]
fn k6_posted_writes_are_bounded() {
    for twin in [false, true] {
        let pair = Pair::new(twin);
        let _ram = pair.ram();
        let client = pair.client.clone();
        let sent = Arc::new(AtomicU32::new(0));
        let progress = sent.clone();
        let (tell, told) = channel();
        let writer = Background::start(move || {
            tell.send(this_thread()).unwrap();
            for round in 0..500u32 {
                client.region_write_posted(0, u64::from(round), &[round as u8; 100_000]).unwrap();
                progress.store(round, Ordering::SeqCst);
            }
        });
        // It stands still, and not because others run: more than the socket holds, and much less than there is.
        let writing = told.recv().unwrap();
        let mut last = 0;
        let mut asleep = 0;
        while asleep < 50 {
            thread::sleep(Duration::from_millis(1));
            let now = sent.load(Ordering::SeqCst);
            let still = now == last && thread_state(&writing) != Some('R');
            asleep = if still { asleep + 1 } else { 0 };
            last = now;
        }
        assert!(last < 200, "{last} messages of 100 KB and nobody reads");
        // And meanwhile it is no deadlock: the server may ask before it reads on.
        pair.dma().send(&command(1, &dma_read(BASE, 4))).unwrap();
        if twin {
            assert_eq!(pair.dma().recv_reply(1, Command::DmaRead).unwrap().errno(), None);
        }
        let mut writes = 0;
        while writes < 500 {
            let message = pair.main.recv().unwrap();
            if message.header.command == Command::RegionWrite.as_u16() {
                assert!(message.header.wants_no_reply());
                assert_eq!(message.payload[16..], [writes as u8; 100_000]);
                writes += 1;
            }
        }
        writer.end();
        pair.works();
    }
}

#[test]
fn k7_descriptors_in_a_command_of_the_server_are_closed() {
    for twin in [false, true] {
        let pair = Pair::new(twin);
        let ram = pair.ram();
        let file = SharedRam::new(0, 4096).unwrap();
        // Not counted in this process, where other tests open files: seen at the other end of a pipe.
        let (reading, writing) = rustix::pipe::pipe().unwrap();
        for id in 0..10 {
            let fds = [file.as_fd(), writing.as_fd()];
            let refused = pair.dma().call_with(id, &dma_write(BASE, b"evil"), &fds).unwrap();
            assert_eq!(refused.errno(), Some(Errno::EINVAL));
        }
        drop(writing);
        let end = Background::start(move || rustix::io::read(&reading, &mut [0u8; 1]).unwrap());
        assert_eq!(end.end(), 0, "nobody holds the other end any more");
        assert_eq!(ram.writes(), 0);
        pair.works();
    }
}

#[test]
fn c3e_memory_is_there_until_the_server_has_agreed_to_its_end() {
    for twin in [false, true] {
        for all in [false, true] {
            let pair = Pair::new(twin);
            let ram = pair.ram();
            let client = pair.client.clone();
            let unmapped = Background::start(move || {
                if all { client.dma_unmap_all() } else { client.dma_unmap(BASE, 0x1000).map(drop) }
            });
            let request = pair.main.recv().unwrap();
            assert_eq!(request.header.command, Command::DmaUnmap.as_u16());
            // It has not seen the unmap yet.
            assert_eq!(pair.dma().call(1, &dma_write(BASE, b"last")).unwrap().errno(), None);
            assert_eq!(ram.bytes(BASE, 4).unwrap(), b"last");
            let what =
                if all { UnmapWhat::All } else { UnmapWhat::Range { address: BASE, size: 0x1000 } };
            let reply = DmaUnmapRequest::new(what).reply(0x1000);
            let mut payload = Vec::new();
            DmaUnmapReply::emit(&reply, &mut payload);
            pair.main.send(&request.reply(&payload)).unwrap();
            unmapped.end().unwrap();
            let refused = pair.dma().call(2, &dma_write(BASE, b"late")).unwrap();
            assert_eq!(refused.errno(), Some(Errno::EFAULT));
            assert_eq!(ram.bytes(BASE, 4).unwrap(), b"last");
            pair.works();
        }
    }
}

#[test]
fn c8b_dma_on_the_main_socket_is_refused_if_there_is_a_twin() {
    let pair = Pair::new(true);
    let ram = pair.ram();
    for id in 0..64 {
        let refused = pair.main.call(id, &dma_write(BASE, b"evil")).unwrap();
        assert_eq!(refused.errno(), Some(Errno::EPROTO));
    }
    assert_eq!(ram.writes(), 0);
    pair.works();
    assert_eq!(pair.client.counters().misplaced_commands, 64);
    pair.main.send(&command(65, &dma_write(BASE, b"evil"))).unwrap();
    pair.main.expect_eof().unwrap();
    assert!(matches!(pair.read().end(), Err(ClientError::Closed(_))));
}
