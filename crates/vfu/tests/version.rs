//! VERSION: what is agreed on, who is refused, and that a refused client harms nobody else.

use vfu::wire::{Command, DeviceInfoRequest, Errno, Request, Version};
use vfu_testkit::{QEMU_JSON, RawMessage, RawPeer, TestServer, command};

const INFO: Request<'_> = Request::DeviceGetInfo(DeviceInfoRequest { argsz: 16 });

fn connect(server: &TestServer) -> RawPeer {
    RawPeer::connect(server.path()).unwrap()
}

fn agreed(reply: &RawMessage) -> Version {
    assert_eq!(reply.errno(), None);
    Version::parse(&reply.payload).unwrap()
}

fn json(reply: &RawMessage) -> String {
    let text = reply.payload[4..].strip_suffix(&[0]).expect("ends in NUL");
    String::from_utf8(text.to_vec()).unwrap()
}

/// The server still serves: a whole session with the next client.
fn serves_the_next(server: &TestServer) {
    let peer = RawPeer::begin(server.path()).unwrap();
    assert_eq!(peer.call(1, &INFO).unwrap().payload.len(), 16);
}

/// The first bytes of a client that must be refused with EINVAL and disconnected.
fn is_refused(server: &TestServer, bytes: &[u8]) {
    let peer = connect(server);
    peer.send(bytes).unwrap();
    let reply = peer.recv().unwrap();
    assert_eq!(reply.errno(), Some(Errno::EINVAL), "{bytes:x?}");
    assert!(reply.payload.is_empty());
    peer.expect_eof().unwrap();
    serves_the_next(server);
}

#[test]
fn only_proposed_keys_are_echoed() {
    let server = TestServer::start();
    let cases = [
        (r#"{"capabilities":{}}"#, r#"{"capabilities":{}}"#),
        (r#"{}"#, r#"{"capabilities":{}}"#),
        (r#"{"capabilities":{"max_msg_fds":1}}"#, r#"{"capabilities":{"max_msg_fds":16}}"#),
        (
            r#"{"capabilities":{"pgsizes":4096,"max_dma_maps":10,"from_the_future":[1]}}"#,
            r#"{"capabilities":{"max_dma_maps":65535,"pgsizes":4096}}"#,
        ),
        (
            r#"{"capabilities":{"max_data_xfer_size":4096,"write_multiple":false}}"#,
            r#"{"capabilities":{"max_data_xfer_size":1048576,"write_multiple":false}}"#,
        ),
    ];
    for (proposed, expected) in cases {
        let reply = connect(&server).handshake(proposed).unwrap();
        assert_eq!(json(&reply), expected, "to {proposed}");
        assert!(reply.fds.is_empty());
    }
}

#[test]
fn the_minor_version_is_the_smaller_one() {
    let server = TestServer::start();
    for (proposed, expected) in [(0, 0), (1, 1), (2, 1), (0xffff, 1)] {
        let peer = connect(&server);
        peer.send(&RawPeer::version(9, 0, proposed, Some("{}"))).unwrap();
        let version = agreed(&peer.recv_reply(9, Command::Version).unwrap());
        assert_eq!((version.major, version.minor), (0, expected));
    }
}

#[test]
fn qemu_gets_a_reply_no_longer_than_its_request() {
    let server = TestServer::start();
    let request = RawPeer::version(1, 0, 0, Some(QEMU_JSON));
    assert_eq!(request.len(), 214);
    let peer = connect(&server);
    peer.send(&request).unwrap();
    let reply = peer.recv().unwrap();
    assert!(reply.header.size <= 214, "{} bytes", reply.header.size);
    assert!(reply.fds.is_empty());
    let version = agreed(&reply);
    assert_eq!(version.minor, 0);
    let caps = version.caps;
    assert!(caps.max_msg_fds.unwrap() <= 16);
    assert_eq!(caps.max_data_xfer_size, Some(1 << 20));
    assert!(caps.max_dma_maps.unwrap() <= 65535);
    assert_eq!(caps.pgsizes, Some(4096));
    assert_eq!(caps.write_multiple, Some(true));
    assert_eq!(caps.twin_socket, None);
}

#[test]
fn a_client_without_json_is_served() {
    let server = TestServer::start();
    let peer = connect(&server);
    peer.send(&RawPeer::version(0, 0, 1, None)).unwrap();
    let reply = peer.recv_reply(0, Command::Version).unwrap();
    assert_eq!(json(&reply), r#"{"capabilities":{}}"#, "there are clients that want an object");
    assert_eq!(peer.call(1, &INFO).unwrap().errno(), None);
}

#[test]
fn clients_that_cannot_be_served_are_told_and_disconnected() {
    let server = TestServer::start();
    is_refused(&server, &RawPeer::version(1, 1, 0, Some("{}"))); // major 1
    is_refused(&server, &command(1, &INFO)); // not VERSION
    is_refused(&server, &vfu_testkit::message(1, 1, 0, &[0, 0, 1])); // cut short
    is_refused(&server, &vfu_testkit::message(1, 1, 0, b"\0\0\0\0{}")); // no NUL
    let bad = [
        "",
        "{",
        "[]",
        "{\"capabilities\":null}",
        "{\"capabilities\":{\"max_msg_fds\":-1}}",
        "{\"capabilities\":{\"max_msg_fds\":4294967296}}",
        "{\"capabilities\":{\"max_data_xfer_size\":0}}",
        "{\"capabilities\":{\"max_data_xfer_size\":8.0}}",
        "{\"capabilities\":{\"migration\":{\"pgsize\":3}}}",
        "{\"capabilities\":{\"twin_socket\":true}}",
        "{} x",
    ];
    for text in bad {
        is_refused(&server, &RawPeer::version(1, 0, 1, Some(text)));
    }
    is_refused(&server, &RawPeer::version(1, 0, 1, Some(&"[".repeat(10_000))));
    is_refused(&server, &RawPeer::version(1, 0, 1, Some(&" ".repeat(20_000))));
}

#[test]
fn version_with_descriptors_is_refused() {
    let server = TestServer::start();
    let peer = connect(&server);
    let fd = std::io::stdin();
    use std::os::fd::AsFd;
    peer.send_with(&RawPeer::version(1, 0, 1, Some("{}")), &[fd.as_fd()]).unwrap();
    assert_eq!(peer.recv().unwrap().errno(), Some(Errno::EINVAL));
    peer.expect_eof().unwrap();
    serves_the_next(&server);
}

#[test]
fn version_that_wants_no_reply_ends_the_connection() {
    let server = TestServer::start();
    let peer = connect(&server);
    let mut bytes = RawPeer::version(1, 0, 1, Some("{}"));
    bytes[8] |= 0x10;
    peer.send(&bytes).unwrap();
    peer.expect_eof().unwrap();
    serves_the_next(&server);
}

#[test]
fn a_second_version_is_refused_and_the_session_goes_on() {
    let server = TestServer::start();
    let peer = RawPeer::begin(server.path()).unwrap();
    peer.send(&RawPeer::version(5, 0, 1, Some("{}"))).unwrap();
    let reply = peer.recv_reply(5, Command::Version).unwrap();
    assert_eq!(reply.errno(), Some(Errno::EINVAL));
    assert_eq!(peer.call(6, &INFO).unwrap().errno(), None);
}

#[test]
fn a_twin_socket_comes_only_if_both_want_it() {
    let offer = r#"{"capabilities":{"twin_socket":{"supported":true,"fd_index":77}}}"#;
    let server = TestServer::start();
    let reply = connect(&server).handshake(offer).unwrap();
    assert_eq!(reply.fds.len(), 1);
    let twin = agreed(&reply).caps.twin_socket.unwrap();
    assert_eq!((twin.supported, twin.fd_index), (true, Some(0)));

    // The client can't take a descriptor; or does not offer one.
    let none = r#"{"capabilities":{"max_msg_fds":0,"twin_socket":{"supported":true}}}"#;
    let no = r#"{"capabilities":{"twin_socket":{"supported":false}}}"#;
    let unsaid = r#"{"capabilities":{"twin_socket":{}}}"#;
    for json in [none, no, unsaid] {
        let reply = connect(&server).handshake(json).unwrap();
        assert!(reply.fds.is_empty(), "{json}");
        assert!(agreed(&reply).caps.twin_socket.is_none_or(|twin| !twin.supported), "{json}");
    }

    let server = TestServer::with(|builder| builder.twin_socket(false));
    let peer = connect(&server);
    let reply = peer.handshake(offer).unwrap();
    assert!(reply.fds.is_empty());
    assert!(agreed(&reply).caps.twin_socket.is_none_or(|twin| !twin.supported));
    assert_eq!(peer.call(1, &INFO).unwrap().errno(), None, "the session has one socket");
}

#[test]
fn commands_may_follow_version_at_once() {
    let server = TestServer::start();
    let peer = connect(&server);
    let mut bytes = RawPeer::version(1, 0, 1, Some("{}"));
    for id in 2..12 {
        bytes.extend(command(id, &INFO));
    }
    peer.send(&bytes).unwrap();
    peer.recv_reply(1, Command::Version).unwrap();
    for id in 2..12 {
        assert_eq!(peer.recv_reply(id, Command::DeviceGetInfo).unwrap().errno(), None);
    }
}
