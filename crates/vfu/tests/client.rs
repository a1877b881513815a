//! Our client, against a server that says every byte itself.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use vfu::Client;
use vfu::client::{ClientBuilder, ClientError, Memory, READ_WRITE};
use vfu::wire::{
    Command, DmaMapFlags, DmaReadReply, DmaReadRequest, DmaWriteReply, DmaWriteRequest, Errno,
    RegionReadReply, RegionReadRequest, Request, WriteEntry,
};
use vfu_testkit::{
    DEADLINE, MessageRam, RawListener, RawMessage, RawPeer, SharedRam, command, message, posted,
};

const BASE: u64 = 0x10_0000;
const JSON: &str = r#"{"capabilities":{"max_msg_fds":16}}"#;
const TWIN: &str = r#"{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}"#;

/// Work on a thread of its own.
struct Background<T>(Receiver<T>);

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
fn begin_with(builder: ClientBuilder, twin: bool) -> (Client, RawPeer, RawPeer) {
    try_begin(builder, twin).unwrap()
}

fn try_begin(
    builder: ClientBuilder,
    twin: bool,
) -> Result<(Client, RawPeer, RawPeer), ClientError> {
    let listener = RawListener::new().unwrap();
    let path = listener.path().to_path_buf();
    let client = Background::start(move || builder.twin_socket(twin).connect(path));
    let main = listener.accept().unwrap();
    let (ours, theirs) = RawPeer::pair().unwrap();
    let answered = if twin {
        main.answer_handshake(TWIN, &[theirs.as_fd()])
    } else {
        main.answer_handshake(JSON, &[])
    };
    let client = client.end()?;
    answered.unwrap();
    assert_eq!(client.has_twin_socket(), twin);
    Ok((client, main, ours))
}

fn begin(twin: bool) -> (Client, RawPeer, RawPeer) {
    begin_with(Client::builder(), twin)
}

/// Answers the next command of the client, which must be this one, with an empty reply.
fn accept(server: &RawPeer, command: Command) -> RawMessage {
    let request = server.recv().unwrap();
    assert_eq!(request.header.command, command.as_u16());
    server.send(&request.reply(&[])).unwrap();
    request
}

fn map(client: &Client, server: &RawPeer, flags: DmaMapFlags, size: usize) -> Arc<MessageRam> {
    let ram = Arc::new(MessageRam::new(BASE, size));
    let (client, memory) = (client.clone(), ram.clone());
    let mapped = Background::start(move || {
        client.dma_map(BASE, size as u64, flags, Memory::Messages(memory))
    });
    let request = accept(server, Command::DmaMap);
    assert!(request.fds.is_empty());
    mapped.end().unwrap();
    ram
}

fn start_read(client: &Client) -> Background<Result<[u8; 4], ClientError>> {
    let client = client.clone();
    Background::start(move || {
        let mut data = [0; 4];
        client.region_read(0, 0x10, &mut data).map(|()| data)
    })
}

fn read_reply(request: &RawMessage, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    RegionReadReply { offset: 0x10, region: 0, data }.emit(&mut payload);
    request.reply(&payload)
}

/// The session is alive and in sync.
fn works(client: &Client, server: &RawPeer) {
    let read = start_read(client);
    let request = server.recv().unwrap();
    assert_eq!(request.header.command, Command::RegionRead.as_u16());
    server.send(&read_reply(&request, b"good")).unwrap();
    assert_eq!(&read.end().unwrap(), b"good");
}

fn dma_read<'a>(address: u64, count: u64) -> Request<'a> {
    Request::DmaRead(DmaReadRequest { address, count })
}

fn dma_write(address: u64, data: &[u8]) -> Request<'_> {
    Request::DmaWrite(DmaWriteRequest { address, data })
}

#[test]
fn memory_is_served_by_messages() {
    for twin in [false, true] {
        let (client, main, ours) = begin(twin);
        let dma = if twin { &ours } else { &main };
        let ram = map(&client, &main, READ_WRITE, 0x1000);
        let reply = dma.call(7, &dma_write(BASE + 0xffc, b"last")).unwrap();
        let written = DmaWriteReply::parse(&reply.payload).unwrap();
        assert_eq!(written, DmaWriteReply::new(BASE + 0xffc, 4));
        assert_eq!(ram.bytes(BASE + 0xffc, 4).unwrap(), b"last");
        let reply = dma.call(8, &dma_read(BASE + 0xff8, 8)).unwrap();
        let read = DmaReadReply::parse(&reply.payload).unwrap();
        assert_eq!((read.address, read.data), (BASE + 0xff8, &b"\0\0\0\0last"[..]));
        // Without a reply: done, or not, in silence.
        dma.send(&posted(1, &dma_write(BASE, b"posted"))).unwrap();
        dma.send(&posted(2, &dma_read(BASE, 8))).unwrap();
        dma.send(&posted(3, &dma_write(0, b"nowhere"))).unwrap();
        let reply = dma.call(9, &dma_read(BASE, 6)).unwrap();
        assert_eq!(DmaReadReply::parse(&reply.payload).unwrap().data, b"posted");
        works(&client, &main);
    }
}

/// Though no memory is served, and nobody waits for a reply.
#[test]
fn a_client_that_asked_much_hears_the_twin() {
    let (client, main, dma) = begin(true);
    (0..40).for_each(|_| works(&client, &main));
    let refused = |id| dma.call(id, &dma_read(BASE, 4)).unwrap().errno();
    assert_eq!(refused(7), Some(Errno::EFAULT), "while it is idle");
    let read = start_read(&client);
    let request = main.recv().unwrap();
    assert_eq!(refused(8), Some(Errno::EFAULT), "while it waits");
    main.send(&read_reply(&request, b"good")).unwrap();
    assert_eq!(&read.end().unwrap(), b"good");
}

#[test]
fn messages_that_may_not_be_served_are_refused() {
    let (client, main, _) = begin(false);
    let ram = map(&client, &main, READ_WRITE, 0x1000);
    let errno = |request: &Request<'_>| main.call(1, request).unwrap().errno();
    for (address, count) in [(BASE - 1, 2), (BASE + 0xfff, 2), (0, 1), (u64::MAX, 1)] {
        assert_eq!(errno(&dma_read(address, count)), Some(Errno::EFAULT));
        let data = vec![0; count as usize];
        assert_eq!(errno(&dma_write(address, &data)), Some(Errno::EFAULT));
    }
    assert_eq!(errno(&dma_read(BASE, (1 << 20) + 1)), Some(Errno::E2BIG));
    assert_eq!(errno(&dma_read(BASE, 1 << 63)), Some(Errno::E2BIG));
    assert_eq!(errno(&dma_read(u64::MAX, 2)), Some(Errno::EINVAL), "wraps");
    let raw = |number: u16, payload: &[u8]| {
        main.send(&message(2, number, 0, payload)).unwrap();
        main.recv().unwrap().errno()
    };
    for number in [0, 1, 9, 13, 99] {
        assert_eq!(raw(number, &[0; 32]), Some(Errno::ENOTSUP), "command {number}");
    }
    assert_eq!(raw(11, &[0; 15]), Some(Errno::EINVAL));
    assert_eq!(raw(12, &[0; 8]), Some(Errno::EINVAL));
    let surplus = SharedRam::new(0, 4096).unwrap();
    let with_fd = main.call_with(3, &dma_read(BASE, 1), &[surplus.as_fd()]).unwrap();
    assert_eq!(with_fd.errno(), Some(Errno::EINVAL));
    ram.refuse(Some(Errno::ENODEV));
    assert_eq!(errno(&dma_read(BASE, 1)), Some(Errno::ENODEV));
    works(&client, &main);
}

#[test]
fn permissions_of_a_map_hold_for_messages() {
    let (client, main, _) = begin(false);
    let _ram = map(&client, &main, DmaMapFlags::READ, 0x1000);
    assert_eq!(main.call(1, &dma_read(BASE, 4)).unwrap().errno(), None);
    assert_eq!(main.call(1, &dma_write(BASE, &[1])).unwrap().errno(), Some(Errno::EPERM));
}

#[test]
fn a_write_shows_before_the_reply_that_follows_it() {
    let (client, main, _) = begin(false);
    let ram = map(&client, &main, READ_WRITE, 0x1000);
    for round in 0..1000u32 {
        let read = start_read(&client);
        let request = main.recv().unwrap();
        let data = round.to_le_bytes();
        let write = posted(1, &dma_write(BASE, &data));
        main.send(&[write, read_reply(&request, b"done")].concat()).unwrap();
        read.end().unwrap();
        assert_eq!(ram.bytes(BASE, 4).unwrap(), data, "round {round}");
    }
}

#[test]
fn replies_and_commands_may_interleave() {
    for twin in [false, true] {
        let (client, main, ours) = begin(twin);
        let dma = if twin { &ours } else { &main };
        let _ram = map(&client, &main, READ_WRITE, 0x1000);
        let reads: Vec<_> = (0..3).map(|_| start_read(&client)).collect();
        let requests: Vec<_> = reads.iter().map(|_| main.recv().unwrap()).collect();
        // The same id as one of the client's: the type decides.
        let id = requests[0].header.id;
        dma.send(&command(id, &dma_read(BASE, 4))).unwrap();
        assert_eq!(dma.recv_reply(id, Command::DmaRead).unwrap().errno(), None);
        for request in requests.iter().rev() {
            main.send_bytewise(&read_reply(request, b"fine")).unwrap();
        }
        for read in reads {
            assert_eq!(&read.end().unwrap(), b"fine");
        }
    }
}

#[test]
fn dma_on_the_main_socket_is_refused_if_there_is_a_twin() {
    let (client, main, ours) = begin(true);
    let ram = map(&client, &main, READ_WRITE, 0x1000);
    let refused = main.call(1, &dma_write(BASE, b"x")).unwrap();
    assert!(refused.errno().is_some());
    assert_eq!(ram.writes(), 0);
    assert_eq!(ours.call(1, &dma_write(BASE, b"x")).unwrap().errno(), None);
    works(&client, &main);
}

#[test]
fn a_late_reply_is_drained() {
    let builder = Client::builder().timeout(Some(Duration::from_millis(50)));
    // If the machine is slow VERSION may be too late: then another one.
    let (client, main, _) = loop {
        match try_begin(builder.clone(), false) {
            Err(ClientError::TimedOut(Command::Version)) => {}
            begun => break begun.unwrap(),
        }
    };
    let read = start_read(&client);
    let late = main.recv().unwrap();
    assert!(matches!(read.end(), Err(ClientError::TimedOut(Command::RegionRead))));
    let read = start_read(&client);
    let next = main.recv().unwrap();
    assert!(matches!(read.end(), Err(ClientError::TimedOut(_))));
    assert_ne!(late.header.id, next.header.id);
    main.send_split(&read_reply(&late, &[0xaa; 5000]), &[20, 1000]).unwrap();
    main.send(&read_reply(&next, b"late")).unwrap();
    // From now on all are answered at once. If the machine is slow that may be too late, too.
    let server = thread::spawn(move || {
        while let Ok(request) = main.recv() {
            main.send(&read_reply(&request, b"good")).unwrap();
        }
    });
    let answered = Background::start(move || {
        loop {
            let mut data = [0; 4];
            match client.region_read(0, 0x10, &mut data) {
                Ok(()) => return (data, client.counters()),
                Err(e) => assert!(matches!(e, ClientError::TimedOut(_)), "{e}"),
            }
        }
    });
    let (data, counters) = answered.end();
    assert_eq!(&data, b"good", "the bytes of its own reply");
    assert!(counters.late_replies >= 2);
    assert_eq!(counters.late_replies, counters.timeouts, "each was drained");
    server.join().unwrap();
}

#[test]
fn replies_that_make_no_sense_are_errors() {
    let (client, main, _) = begin(false);
    let place = |offset: u64, region: u32, count: u32, data: &[u8]| {
        let mut payload = offset.to_le_bytes().to_vec();
        payload.extend([region.to_le_bytes(), count.to_le_bytes()].concat());
        payload.extend(data);
        payload
    };
    let bad = [
        place(0x11, 0, 4, &[0; 4]),
        place(0x10, 1, 4, &[0; 4]),
        place(0x10, 0, 3, &[0; 3]),
        place(0x10, 0, 5, &[0; 5]),
        place(0x10, 0, 4, &[0; 3]),
        place(0x10, 0, u32::MAX, &[0; 4]),
        place(0x10, 0, 4, &[0; 4])[..15].to_vec(),
        vec![],
    ];
    for payload in bad {
        let read = start_read(&client);
        let request = main.recv().unwrap();
        main.send(&request.reply(&payload)).unwrap();
        let result = read.end();
        assert!(matches!(result, Err(ClientError::Malformed { .. })), "{payload:x?}: {result:?}");
    }
    let read = start_read(&client);
    let request = main.recv().unwrap();
    let mut refusal = message(request.header.id, 9, 0x21, &[9; 100]);
    refusal[12] = 22;
    main.send(&refusal).unwrap();
    let errno = Errno::EINVAL;
    let result = read.end();
    assert!(matches!(result, Err(ClientError::Refused { errno: e, .. }) if e == errno));
    works(&client, &main);
}

#[test]
fn the_end_of_the_session_ends_every_wait() {
    for twin in [false, true] {
        let (client, main, _ours) = begin(twin);
        let reads: Vec<_> = (0..4).map(|_| start_read(&client)).collect();
        reads.iter().for_each(|_| drop(main.recv().unwrap()));
        drop(main);
        for read in reads {
            assert!(matches!(read.end(), Err(ClientError::Closed(_))));
        }
        assert!(matches!(start_read(&client).end(), Err(ClientError::Closed(_))));
    }
    let (client, main, _) = begin(false);
    let read = start_read(&client);
    main.recv().unwrap();
    client.close();
    assert!(matches!(read.end(), Err(ClientError::Closed(_))));
    main.expect_eof().unwrap();
    let (client, main, twin) = begin(true);
    assert!(!start_read(&client).has_ended());
    main.recv().unwrap();
    drop(client);
    drop(twin);
}

#[test]
fn servers_that_cannot_be_used_are_errors() {
    let attempt = |twin: bool, answer: &dyn Fn(&RawPeer)| {
        let listener = RawListener::new().unwrap();
        let path = listener.path().to_path_buf();
        let client = Background::start(move || Client::builder().twin_socket(twin).connect(path));
        let server = listener.accept().unwrap();
        answer(&server);
        client.end().err()
    };
    let answered = |json: &'static str| {
        move |server: &RawPeer| drop(server.answer_handshake(json, &[]).unwrap())
    };
    let ram = SharedRam::new(0, 4096).unwrap();
    let refused = |error: Option<ClientError>| matches!(error, Some(ClientError::Handshake(_)));
    for json in ["", "{", "[1]", r#"{"capabilities":{"max_data_xfer_size":0}}"#] {
        assert!(refused(attempt(false, &answered(json))), "{json}");
    }
    assert!(refused(attempt(true, &answered(TWIN))), "a twin without its descriptor");
    let unasked = |server: &RawPeer| drop(server.answer_handshake(JSON, &[ram.as_fd()]).unwrap());
    assert!(refused(attempt(true, &unasked)), "a descriptor that nobody asked for");
    let no_socket = |server: &RawPeer| drop(server.answer_handshake(TWIN, &[ram.as_fd()]).unwrap());
    assert!(refused(attempt(true, &no_socket)), "a twin that is no socket");
    let (_ours, theirs) = RawPeer::pair().unwrap();
    let forced = |server: &RawPeer| drop(server.answer_handshake(TWIN, &[theirs.as_fd()]).unwrap());
    assert!(refused(attempt(false, &forced)), "a twin that was not offered");
    let gone = |server: &RawPeer| {
        server.recv().unwrap();
        server.shutdown_write();
    };
    assert!(matches!(attempt(false, &gone), Some(ClientError::Ended(_))));
    let newer = |server: &RawPeer| {
        let request = server.recv().unwrap();
        server.send(&request.reply(b"\x01\0\0\0{}\0")).unwrap();
    };
    assert!(refused(attempt(false, &newer)), "major 1");
    let refusing = |server: &RawPeer| {
        let request = server.recv().unwrap();
        server.send(&request.refusal(Errno::EINVAL)).unwrap();
    };
    let error = attempt(false, &refusing);
    assert!(matches!(error, Some(ClientError::Refused { command: Command::Version, .. })));
    let nobody = Client::connect("/no/such/socket");
    assert!(matches!(nobody, Err(ClientError::Connect(_))));
}

#[test]
fn accesses_are_split_at_the_servers_limit() {
    let listener = RawListener::new().unwrap();
    let path = listener.path().to_path_buf();
    let client = Background::start(move || Client::connect(path));
    let main = listener.accept().unwrap();
    main.answer_handshake(r#"{"capabilities":{"max_data_xfer_size":3}}"#, &[]).unwrap();
    let client = client.end().unwrap();
    assert_eq!(client.max_transfer(), 3);
    let read = Background::start(move || {
        let mut data = [0; 8];
        client.region_read(2, 0x20, &mut data).map(|()| data)
    });
    for (offset, count) in [(0x20, 3), (0x23, 3), (0x26, 2)] {
        let request = main.recv().unwrap();
        let asked = RegionReadRequest::parse(&request.payload).unwrap();
        assert_eq!((asked.offset, asked.region, asked.count), (offset, 2, count));
        let mut payload = Vec::new();
        let data = &(offset..offset + 3).map(|at| at as u8).collect::<Vec<_>>()[..count as usize];
        RegionReadReply { offset, region: 2, data }.emit(&mut payload);
        main.send(&request.reply(&payload)).unwrap();
    }
    assert_eq!(read.end().unwrap(), [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27]);
}

#[test]
fn no_more_writes_are_done_than_were_asked_for() {
    let listener = RawListener::new().unwrap();
    let path = listener.path().to_path_buf();
    let client = Background::start(move || Client::connect(path));
    let main = listener.accept().unwrap();
    main.answer_handshake(r#"{"capabilities":{"write_multiple":true}}"#, &[]).unwrap();
    let client = client.end().unwrap();
    let writes = [WriteEntry::new(0, 0, &[1]).unwrap(); 2];
    for (claimed, is_believed) in [(2_u64, true), (3, false), (u64::MAX, false)] {
        let client = client.clone();
        let written = Background::start(move || client.region_write_multi(&writes));
        let request = main.recv().unwrap();
        main.send(&request.reply(&claimed.to_le_bytes())).unwrap();
        match written.end() {
            Ok(count) => assert!(is_believed && count == claimed),
            Err(e) => assert!(!is_believed && matches!(e, ClientError::Malformed { .. }), "{e}"),
        }
    }
}
