//! S1, S2: VERSION.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use vfu::Client;
use vfu::client::ClientError;
use vfu::wire::{Capabilities, Errno};
use vfu_testkit::{KitError, RawPeer, message, within};

use crate::alone::alone;
use crate::server::{Hostile, hasty, patient};

/// A payload of VERSION: the numbers, and what stands behind them.
fn version(major: u16, minor: u16, rest: &[u8]) -> Vec<u8> {
    [&major.to_le_bytes(), &minor.to_le_bytes(), rest].concat()
}

fn nul(json: &str) -> Vec<u8> {
    version(0, 0, format!("{json}\0").as_bytes())
}

fn caps(keys: &str) -> Vec<u8> {
    nul(&format!("{{\"capabilities\":{{{keys}}}}}"))
}

/// Connects, and gives what the client says of it.
fn connect(server: &Hostile, twin: bool) -> Result<Client, ClientError> {
    let path = server.path().to_path_buf();
    within("connect", move || patient().twin_socket(twin).connect(path))
}

/// The server's answer to VERSION is refused, and the connection closed.
fn is_refused(what: &str, twin: bool, payload: Vec<u8>, fds: Vec<OwnedFd>) {
    let server = Hostile::new(move |peer| {
        let request = peer.recv()?;
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        peer.send_with(&request.reply(&payload), &fds)?;
        peer.expect_eof()
    });
    match connect(&server, twin) {
        Err(ClientError::Handshake(why)) => assert!(!why.is_empty()),
        other => panic!("{what}: {other:?}"),
    }
}

/// It is taken, and the session works.
fn is_taken(what: &str, payload: Vec<u8>, check: impl FnOnce(&Client)) {
    let server = Hostile::new(move |peer| {
        let request = peer.recv()?;
        peer.send(&request.reply(&payload))?;
        let read = peer.recv()?;
        peer.send(&read.reply(&crate::server::truth(&read)))
    });
    let client = connect(&server, false).unwrap_or_else(|e| panic!("{what}: {e}"));
    check(&client);
    client.device_info().unwrap();
}

#[test]
fn s01_version_reply_that_is_none() {
    alone!(|| {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let many = "\"key\":0,".repeat(100_000);
        let lies: &[(&str, Vec<u8>)] = &[
            ("no byte", vec![]),
            ("1 byte", vec![0]),
            ("3 bytes", vec![0; 3]),
            ("no JSON", nul("hello")),
            ("a NUL alone", version(0, 0, b"\0")),
            ("no NUL", version(0, 0, b"{}")),
            ("text behind the NUL", version(0, 0, b"{}\0{}\0")),
            ("not UTF-8", version(0, 0, b"{\"\xff\":1}\0")),
            ("a list", nul("[]")),
            ("a number", nul("1")),
            ("capabilities that are a list", nul(r#"{"capabilities":[]}"#)),
            ("a bomb of lists", nul(&deep)),
            ("a bomb of keys", nul(&format!("{{{many}\"a\":0}}"))),
            ("a long string", nul(&format!("{{\"a\":\"{}\"}}", "a".repeat(900_000)))),
            ("nothing can be transferred", caps(r#""max_data_xfer_size":0"#)),
            ("a negative number", caps(r#""max_data_xfer_size":-1"#)),
            ("a number in a string", caps(r#""max_msg_fds":"8""#)),
            ("a number beyond 32 bits", caps(r#""max_msg_fds":4294967296"#)),
            ("a page size of 3", caps(r#""migration":{"pgsize":3}"#)),
            ("major 1", version(1, 0, b"{}\0")),
            ("major 65535", version(0xffff, 0, b"{}\0")),
            ("minor 2, where 1 was proposed", version(0, 2, b"{}\0")),
            ("minor 65535", version(0, 0xffff, b"{}\0")),
        ];
        for (what, payload) in lies {
            is_refused(what, false, payload.clone(), vec![]);
        }
    });
}

#[test]
fn s01_version_reply_that_can_be_lived_with() {
    alone!(|| {
        is_taken("no JSON at all", version(0, 0, b""), |_| {});
        is_taken("longer than the request", nul(&format!("{{{}}}", " ".repeat(10_000))), |_| {});
        is_taken("unknown keys", caps(r#""telepathy":{"range":1e9}"#), |_| {});
        is_taken("a byte at a time", caps(r#""max_data_xfer_size":1"#), |client| {
            assert_eq!(client.max_transfer(), 1);
        });
        is_taken(
            "more than was offered",
            caps(r#""max_data_xfer_size":18446744073709551615"#),
            |c| {
                assert_eq!(c.max_transfer(), 1 << 20);
            },
        );
        is_taken("no descriptors", caps(r#""max_msg_fds":0"#), |_| {});
    });
}

/// The server says that it can do what the client has not offered: it is not used.
#[test]
fn s01_version_reply_with_capabilities_that_were_not_offered() {
    alone!(|| {
        let server = Hostile::new(|peer| {
            let request = peer.recv()?;
            peer.send(&request.reply(&caps(r#""write_multiple":true,"sparse_mmap_fds":true"#)))?;
            let posted: Vec<u16> = vec![peer.recv()?.header.command, peer.recv()?.header.command];
            assert_eq!(posted, [10, 10], "two REGION_WRITEs, no REGION_WRITE_MULTI");
            Ok(())
        });
        let nothing = patient().capabilities(Capabilities::default());
        let client = nothing.connect(server.path()).unwrap();
        assert!(matches!(client.region_write_multi(&[]), Err(ClientError::Invalid(_))));
        let posted = client.posted();
        posted.write(0, 0, &[1]).unwrap();
        posted.write(0, 1, &[1]).unwrap();
        posted.flush().unwrap();
    });
}

#[test]
fn s01_version_reply_that_is_refused_or_broken() {
    alone!(|| {
        let refusing = Hostile::new(|peer| {
            let request = peer.recv()?;
            peer.send(&request.refusal(Errno::EPERM))?;
            peer.expect_eof()
        });
        let refused = connect(&refusing, true);
        assert!(matches!(refused, Err(ClientError::Refused { errno: Errno::EPERM, .. })));
        // Larger than any message may be; none; less than a header.
        for size in [u32::MAX, (1 << 20) + 4097, 0, 15] {
            let server = Hostile::new(move |peer| {
                let mut reply = peer.recv()?.reply(&[0; 4]);
                reply[4..8].copy_from_slice(&size.to_le_bytes());
                peer.send(&reply)?;
                peer.expect_eof()
            });
            assert!(matches!(connect(&server, true), Err(ClientError::Ended(_))), "{size}");
        }
        // A reply to something else, and then nothing more.
        let server = Hostile::new(|peer| {
            let request = peer.recv()?;
            peer.send(&message(request.header.id, 4, 1, &[0; 16]))?;
            peer.expect_eof()
        });
        assert!(matches!(connect(&server, true), Err(ClientError::Malformed { .. })));
        // Silence.
        let server = Hostile::new(|peer| {
            peer.recv()?;
            peer.expect_eof()
        });
        let waited = hasty().connect(server.path());
        assert!(matches!(waited, Err(ClientError::TimedOut(_))), "{waited:?}");
        // The end, before the reply and in it.
        for part in [0, 1, 15, 16, 17] {
            let server = Hostile::new(move |peer| {
                let reply = peer.recv()?.reply(&nul("{}"));
                peer.send(&reply[..part])
            });
            assert!(matches!(connect(&server, true), Err(ClientError::Ended(_))), "{part} bytes");
        }
    });
}

fn memfd() -> OwnedFd {
    memfd_create("hostile", MemfdFlags::CLOEXEC).unwrap()
}

fn twin(index: &str) -> Vec<u8> {
    caps(&format!(r#""twin_socket":{{"supported":true{index}}}"#))
}

/// Our end of a connection of which we keep the other.
fn socket() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours.into(), theirs.into())
}

#[test]
fn s02_descriptors_with_version_that_were_not_asked_for() {
    alone!(|| {
        let (kept, given) = socket();
        is_refused("a file", false, nul("{}"), vec![memfd()]);
        is_refused("a file, with a twin offered", true, nul("{}"), vec![memfd()]);
        is_refused("253 files", true, nul("{}"), (0..253).map(|_| memfd()).collect());
        is_refused("a twin that was not offered", false, twin(r#","fd_index":0"#), vec![given]);
        let (_kept, given) = (kept, socket().1);
        let no = caps(r#""twin_socket":{"supported":false,"fd_index":0}"#);
        is_refused("a twin that was refused", true, no, vec![given]);
    });
}

#[test]
fn s02_twin_sockets_that_are_none() {
    alone!(|| {
        let first = r#","fd_index":0"#;
        is_refused("none", true, twin(first), vec![]);
        let indexes = ["", r#","fd_index":1"#, r#","fd_index":-1"#, r#","fd_index":2147483648"#];
        for index in indexes.into_iter().chain([r#","fd_index":"0""#, r#","fd_index":0.0"#]) {
            let (_kept, given) = socket();
            is_refused(index, true, twin(index), vec![given]);
        }
        let (_kept, given) = socket();
        is_refused("two", true, twin(first), vec![given, memfd()]);
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let listener = UnixListener::bind(path("s")).unwrap();
        let root = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let others: [(&str, OwnedFd); 6] = [
            ("a file", memfd()),
            ("a folder by O_PATH", root),
            ("a pipe", rustix::pipe::pipe().unwrap().0),
            ("datagrams", UnixDatagram::bind(path("d")).unwrap().into()),
            ("TCP", std::net::TcpListener::bind("127.0.0.1:0").unwrap().into()),
            ("a socket that listens", listener.into()),
        ];
        for (what, fd) in others {
            is_refused(what, true, twin(first), vec![fd]);
        }
    });
}

/// What is given for a twin, and what is kept of it.
type TwinEnd = fn(&RawPeer) -> Result<(OwnedFd, Option<OwnedFd>), KitError>;

/// Sockets that look like a twin: the session begins, and its calls end.
#[test]
fn s02_twin_sockets_that_lead_nowhere() {
    alone!(|| {
        let take = |twin_end: TwinEnd| {
            let server = Hostile::new(move |peer| {
                let request = peer.recv()?;
                let (given, _kept) = twin_end(&peer)?;
                let reply = request.reply(&twin(r#","fd_index":0"#));
                peer.send_with(&reply, &[given.as_fd()])?;
                drop(given);
                // It answers nothing.
                while peer.recv().is_ok() {}
                Ok(())
            });
            let client = match hasty().twin_socket(true).connect(server.path()) {
                Err(_) => return,
                Ok(client) => client,
            };
            let calling = client.clone();
            let called = within("a call", move || calling.device_info());
            assert!(called.is_err(), "{called:?}");
            client.close();
        };
        // Never connected.
        take(|_| {
            Ok((
                rustix::net::socket(
                    rustix::net::AddressFamily::UNIX,
                    rustix::net::SocketType::STREAM,
                    None,
                )
                .unwrap(),
                None,
            ))
        });
        // Nobody is at its other end.
        take(|_| Ok((socket().0, None)));
        // It does not block.
        take(|_| {
            let (kept, given) = socket();
            rustix::io::ioctl_fionbio(&given, true).unwrap();
            Ok((given, Some(kept)))
        });
        // The server's own end of the main socket: the client talks to itself.
        take(|peer| Ok((rustix::io::dup(peer).unwrap(), None)));
    });
}
