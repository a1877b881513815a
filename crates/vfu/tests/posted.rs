//! Posted writes that share messages.

use vfu::Client;
use vfu::wire::{Command, RegionReadReply, Request};
use vfu_testkit::{Call, RawListener, RawMessage, RawPeer, TestDevice, TestServer};

/// A client, and a server that agreed to what the JSON says.
fn begin(json: &str) -> (Client, RawPeer) {
    let listener = RawListener::new().unwrap();
    let path = listener.path().to_path_buf();
    let client = std::thread::spawn(move || Client::builder().twin_socket(false).connect(path));
    let server = listener.accept().unwrap();
    server.answer_handshake(json, &[]).unwrap();
    (client.join().unwrap().unwrap(), server)
}

const MULTI: &str = r#"{"capabilities":{"write_multiple":true}}"#;

/// The writes that a message makes: offset and data.
fn writes(message: &RawMessage) -> Vec<(u64, Vec<u8>)> {
    let command = Command::from_u16(message.header.command).unwrap();
    assert!(message.header.wants_no_reply());
    match Request::parse(command, &message.payload).unwrap() {
        Request::RegionWrite(write) => vec![(write.offset, write.data.to_vec())],
        Request::RegionWriteMulti(many) => {
            many.iter().map(|write| (write.offset(), write.data().to_vec())).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_writes_are_one_message() {
    let (client, server) = begin(MULTI);
    let posted = client.posted();
    for at in 0..450u64 {
        posted.write(0, at, &at.to_le_bytes()[..1 + at as usize % 8]).unwrap();
    }
    assert_eq!(writes(&server.recv().unwrap()).len(), 200);
    assert_eq!(writes(&server.recv().unwrap()).len(), 200);
    assert!(!server.has_input().unwrap(), "the rest waits");
    posted.flush().unwrap();
    let rest = writes(&server.recv().unwrap());
    let expected = |at: u64| (at, at.to_le_bytes()[..1 + at as usize % 8].to_vec());
    assert_eq!(rest, (400..450).map(expected).collect::<Vec<_>>());
    posted.flush().unwrap();
    assert!(!server.has_input().unwrap(), "nothing is left");
    posted.write(0, 7, &[7]).unwrap();
    drop(posted);
    let last = server.recv().unwrap();
    assert_eq!(last.header.command, Command::RegionWrite.as_u16(), "one needs no list");
    assert_eq!(writes(&last), [(7, vec![7])]);
}

#[test]
fn whatever_else_is_sent_comes_behind_them() {
    let (client, server) = begin(MULTI);
    let posted = client.posted();
    let wait_two = || (0..2).for_each(|at| posted.write(0, at, &[1]).unwrap());
    let came = || {
        let first = server.recv().unwrap();
        assert_eq!(writes(&first).len(), 2);
        server.recv().unwrap()
    };
    wait_two();
    client.region_write_posted(0, 9, &[9]).unwrap();
    assert_eq!(writes(&came()), [(9, vec![9])]);
    wait_two();
    posted.write(0, 10, &[0; 9]).unwrap();
    assert_eq!(writes(&came()), [(10, vec![0; 9])], "too long for the list");
    wait_two();
    let reader = client.clone();
    let reader = std::thread::spawn(move || reader.region_read(0, 0x10, &mut [0; 4]));
    let read = came();
    assert_eq!(read.header.command, Command::RegionRead.as_u16());
    let mut payload = Vec::new();
    RegionReadReply { offset: 0x10, region: 0, data: &[0; 4] }.emit(&mut payload);
    server.send(&read.reply(&payload)).unwrap();
    reader.join().unwrap().unwrap();
}

#[test]
fn without_agreement_each_goes_alone() {
    for json in [r#"{"capabilities":{}}"#, r#"{"capabilities":{"write_multiple":false}}"#] {
        let (client, server) = begin(json);
        let posted = client.posted();
        posted.write(0, 1, &[1]).unwrap();
        posted.write(0, 2, &[2]).unwrap();
        assert_eq!(writes(&server.recv().unwrap()), [(1, vec![1])]);
        assert_eq!(writes(&server.recv().unwrap()), [(2, vec![2])]);
    }
    // A server that takes little data gets little.
    let json = r#"{"capabilities":{"write_multiple":true,"max_data_xfer_size":60}}"#;
    let (client, server) = begin(json);
    let posted = client.posted();
    (0..5).for_each(|at| posted.write(0, at, &[1]).unwrap());
    drop(posted);
    let sizes: Vec<_> = (0..3).map(|_| writes(&server.recv().unwrap()).len()).collect();
    assert_eq!(sizes, [2, 2, 1]);
}

#[test]
fn our_server_executes_them_in_order() {
    let server = TestServer::start();
    let client = Client::connect(server.path()).unwrap();
    client.device_info().unwrap(); // the device has been told of the client
    server.log().take();
    let posted = client.posted();
    for at in 0..1000u64 {
        posted.write(0, at % 64, &[at as u8]).unwrap();
        if at % 97 == 0 {
            client.region_write(0, 0x80, &[at as u8]).unwrap();
        }
    }
    let mut data = [0];
    client.region_read(0, 999 % 64, &mut data).unwrap();
    assert_eq!(data, [999u64 as u8]);
    let write =
        |offset: u64, value: u64| Call::Write { region: 0, offset, data: vec![value as u8] };
    let mut expected = Vec::new();
    for at in 0..1000 {
        expected.push(write(at % 64, at));
        if at % 97 == 0 {
            expected.push(write(0x80, at));
        }
    }
    expected.push(Call::Read { region: 0, offset: 999 % 64, len: 1 });
    assert_eq!(server.log().take(), expected);
    // A bad one is dropped with those behind it in its message; the session goes on.
    posted.write(0, 0, &[1]).unwrap();
    posted.write(0, TestDevice::BAR0_SIZE, &[2]).unwrap();
    posted.write(0, 1, &[3]).unwrap();
    client.region_read(0, 0, &mut data).unwrap();
    assert_eq!(data, [1]);
}

#[test]
fn it_must_have_been_agreed_on() {
    let server = TestServer::start();
    let peer = RawPeer::connect(server.path()).unwrap();
    peer.handshake(r#"{"capabilities":{}}"#).unwrap();
    let entry = vfu::wire::WriteEntry::new(0, 0, &[1]).unwrap();
    let request =
        Request::RegionWriteMulti(vfu::wire::WriteMulti::new(std::slice::from_ref(&entry)));
    assert_eq!(peer.call(1, &request).unwrap().errno(), Some(vfu::wire::Errno::EINVAL));
    assert_eq!(server.log().count(|call| matches!(call, Call::Write { .. })), 0);
}
