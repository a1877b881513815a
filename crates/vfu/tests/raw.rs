//! The floor under the server, which the C interface stands on: what it promises beyond what a server does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vfu::Limits;
use vfu::raw::{Command, Direct, Session, Station, Terms};
use vfu::wire::{
    Capabilities, Command as Name, DmaMap, DmaMapFlags, Errno, HEADER_SIZE, Header, Version,
};

/// A station, its session, and the socket of a client.
fn pair() -> (Station, Session, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    (Station::new(&Limits::default()), Session::new(ours.into(), &Limits::default()), theirs)
}

fn terms() -> Terms {
    let caps = Capabilities { max_data_xfer_size: Some(1 << 20), ..Capabilities::default() };
    Terms { minor: 2, caps, always: caps, objection: |_| None }
}

fn message(name: Name, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header::command(7, name, payload.len()).emit().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn version() -> Vec<u8> {
    version_with(Capabilities::default())
}

fn version_with(caps: Capabilities) -> Vec<u8> {
    let mut payload = Vec::new();
    Version::new(0, 1, caps).emit(&mut payload);
    message(Name::Version, &payload)
}

fn header(client: &mut UnixStream) -> Header {
    let mut bytes = [0; HEADER_SIZE];
    client.read_exact(&mut bytes).unwrap();
    let header = Header::parse(&bytes);
    client.read_exact(&mut vec![0; header.payload_len()]).unwrap();
    header
}

fn is_readable(session: &Session) -> bool {
    let mut set = [PollFd::from_borrowed_fd(session.fd(), PollFlags::IN)];
    poll(&mut set, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

/// All that can be had without waiting.
fn next(session: &Session) -> Option<Command> {
    loop {
        match session.next() {
            None if session.receive() => {}
            command => return command,
        }
    }
}

fn attached() -> (Station, Session, UnixStream) {
    attached_with(Capabilities::default())
}

fn attached_with(caps: Capabilities) -> (Station, Session, UnixStream) {
    let (station, session, mut client) = pair();
    client.write_all(&version_with(caps)).unwrap();
    let first = next(&session).unwrap();
    session.agree(&station, &first, &terms()).unwrap();
    assert_eq!(header(&mut client).command, Name::Version.as_u16());
    (station, session, client)
}

#[test]
fn nothing_is_read_ahead_of_version() {
    let (station, session, mut client) = pair();
    let mut both = version();
    both.extend(message(Name::DeviceReset, &[]));
    client.write_all(&both).unwrap();
    let first = next(&session).unwrap();
    assert_eq!(first.header().command, Name::Version.as_u16());
    session.agree(&station, &first, &terms()).unwrap();
    assert_eq!(session.queued(), 0);
    assert!(is_readable(&session), "the socket tells of the next command");
    assert_eq!(next(&session).unwrap().header().command, Name::DeviceReset.as_u16());
}

#[test]
fn broken_messages_are_refused_and_left_out() {
    let (_station, session, mut client) = attached();
    // A size that is too small, one that is too large, a type that does not exist, a reply to nothing.
    let mut stream = Vec::new();
    for (size, flags, payload) in [(3, 0, 0), ((2 << 20) + 16, 0, 2 << 20), (20, 2, 4), (24, 1, 8)]
    {
        let header = Header { size, flags, ..Header::command(9, Name::DeviceSetIrqs, 0) };
        stream.push(header.emit().to_vec());
        stream.push(vec![0xa5; payload]);
    }
    stream.push(message(Name::DeviceReset, &[]));
    let mut writer = client.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for part in stream {
            writer.write_all(&part).unwrap();
        }
    });
    let last = loop {
        if let Some(command) = next(&session) {
            break command;
        }
        let mut set = [PollFd::from_borrowed_fd(session.fd(), PollFlags::IN)];
        poll(&mut set, None).unwrap();
    };
    sender.join().unwrap();
    assert_eq!(last.header().command, Name::DeviceReset.as_u16(), "in step with the stream");
    assert!(session.closed().is_none());
    // A type that is neither is nobody's command: it gets no answer.
    for _ in 0..3 {
        let refused = header(&mut client);
        assert!(refused.is_error() && refused.errno() == Errno::EINVAL && refused.id == 9);
    }
    session.refuse(&last.header(), 0xbeef);
    assert_eq!(header(&mut client).error, 0xbeef, "any number");
}

/// Each broken message costs an answer, which waits until the client reads it.
#[test]
fn a_client_that_reads_no_refusals_is_sent_away() {
    let (_station, session, mut client) = attached();
    client.set_nonblocking(true).unwrap();
    let header = Header { size: 3, ..Header::command(9, Name::DeviceSetIrqs, 0) };
    let stream = header.emit().repeat(4096);
    let (mut at, mut sent) = (0, 0);
    while session.closed().is_none() {
        if let Ok(n) = client.write(&stream[at..]) {
            (at, sent) = ((at + n) % stream.len(), sent + n);
        }
        while session.receive() {}
        assert!(sent < 64 << 20, "all of it is answered");
    }
}

#[test]
fn what_does_not_go_at_once_is_sent_though_nobody_comes_again() {
    let (_station, session, mut client) = attached();
    client.write_all(&message(Name::RegionRead, &[0; 16])).unwrap();
    let command = next(&session).unwrap();
    let mut out = vec![0x5a; HEADER_SIZE + (4 << 20)];
    session.reply(&command.header(), &mut out, &[]);
    session.send_apart();
    assert_eq!(header(&mut client).payload_len(), 4 << 20);
}

/// Peers that take one message with each receive get no more than that.
#[test]
fn blocking_dma_sends_a_message_at_a_time() {
    let caps = Capabilities { max_data_xfer_size: Some(1500), ..Capabilities::default() };
    let (station, session, mut client) = attached_with(caps);
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    let map = DmaMap { flags, offset: 0, address: 0x1000, size: 0x1000 };
    assert!(station.map(&map, None, 1).unwrap());
    let reads = std::thread::spawn(move || {
        let mut got = vec![0; 0x1000];
        station.read(0x1000, &mut got, Direct::Allowed, None).map(|()| got)
    });
    for count in [1500, 1500, 1096] {
        let mut request = [0; 256];
        assert_eq!(client.read(&mut request).unwrap(), 32, "one request, and no more");
        assert_eq!(u64::from_le_bytes(*request[24..].first_chunk().unwrap()), count);
        let asked = Header::parse(request.first_chunk().unwrap());
        let mut reply = asked.reply(16 + count as usize).emit().to_vec();
        reply.extend_from_slice(&request[16..32]);
        reply.extend(vec![9; count as usize]);
        client.write_all(&reply).unwrap();
    }
    assert_eq!(reads.join().unwrap().unwrap(), [9; 0x1000]);
    assert!(session.closed().is_none());
}

#[test]
fn dma_that_begins_while_the_device_is_quiesced_is_refused() {
    let (station, _session, mut client) = attached();
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    let map = DmaMap { flags, offset: 0, address: 0x1000, size: 0x1000 };
    assert!(station.map(&map, None, 1).unwrap());
    let refused = station.at_rest(|| station.read(0x1000, &mut [0; 4], Direct::Allowed, None));
    assert_eq!(refused, Err(vfu::DmaError::Busy));
    let refused = station.at_rest(|| {
        station.at_rest(|| ());
        station.read(0x1000, &mut [0; 4], Direct::Allowed, None)
    });
    assert_eq!(refused, Err(vfu::DmaError::Busy), "still quiesced");
    // Nothing was sent; afterwards it works.
    let reads = std::thread::spawn(move || {
        let mut got = [0; 4];
        station.read(0x1000, &mut got, Direct::Allowed, None).map(|()| got)
    });
    let mut request = [0; 256];
    assert_eq!(client.read(&mut request).unwrap(), 32);
    let mut reply = Header::parse(request.first_chunk().unwrap()).reply(20).emit().to_vec();
    reply.extend_from_slice(&request[16..32]);
    reply.extend([1, 2, 3, 4]);
    client.write_all(&reply).unwrap();
    assert_eq!(reads.join().unwrap(), Ok([1, 2, 3, 4]));
}
