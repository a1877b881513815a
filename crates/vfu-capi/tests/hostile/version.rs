//! J1 to J11: VERSION, and the JSON in it.

use std::time::Instant;

use vfu::wire::{Command, Version};
use vfu_testkit::{RawPeer, message};

use crate::both;
use crate::scene::Scene;
use crate::talk::{INVALID, NO_REPLY, bytes};

/// Whether a client that says this gets a session. If not it is told EINVAL, and disconnected.
fn is_served(scene: &Scene, bytes: &[u8]) -> bool {
    let peer = scene.connect();
    let sent = peer.send(bytes);
    let answer = peer.recv().unwrap_or_else(|e| panic!("{:?}: {e}, {sent:?}", scene.language));
    assert!(answer.errno().is_none() || answer.errno() == INVALID, "{answer:?}");
    if answer.errno().is_some() {
        assert!(answer.payload.is_empty());
        peer.is_hung_up();
        return false;
    }
    peer.in_sync();
    true
}

fn json(text: impl AsRef<[u8]>) -> Vec<u8> {
    message(1, 1, 0, &[&[0, 0, 1, 0], text.as_ref(), &[0]].concat())
}

fn number(key: &str, value: &str) -> Vec<u8> {
    json(format!("{{\"capabilities\":{{\"{key}\":{value}}}}}"))
}

#[test]
fn j01_payloads_without_an_end() {
    both(|scene| {
        let refused: [&[u8]; 8] = [
            b"",
            b"\0",
            b"\0\0\0",
            b"\0\0\0\0{}",
            b"\0\0\0\0\0",
            b"\0\0\0\0{\0}\0",
            b"\0\0\0\0{}\0x\0",
            b"\0\0\0\0 \0",
        ];
        for payload in refused {
            assert!(!is_served(scene, &message(1, 1, 0, payload)), "{payload:?}");
        }
        for payload in [&b"\0\0\0\0"[..], b"\0\0\0\0{}\0", b"\0\0\0\0{}\0\0\0\0"] {
            assert!(is_served(scene, &message(1, 1, 0, payload)), "{payload:?}");
        }
    });
}

#[test]
fn j02_too_much_of_it() {
    both(|scene| {
        let begun = Instant::now();
        let before = scene.rss();
        let many: String = (0..100_000).map(|n| format!("\"{n}\":0,")).collect();
        let refused = [
            "[".repeat(100_000),
            format!("{}{}", "[".repeat(33), "]".repeat(33)),
            format!("{{\"a\":{}0{}}}", "[".repeat(32), "]".repeat(32)),
            "{\"a\":".repeat(100_000),
            format!("{{{many}\"x\":0}}"),
            format!("{{\"long\":\"{}\"}}", "x".repeat(900_000)),
            format!("{{\"long\":{}}}", "9".repeat(900_000)),
            format!("{{}}{}", " ".repeat(1 << 20)),
        ];
        for text in refused {
            let text = &text[..text.len().min(1 << 20)];
            assert!(!is_served(scene, &json(text)), "{:.40}", text);
        }
        // As much as may be.
        let most = vfu::wire::MAX_JSON_LEN - 1;
        assert!(is_served(scene, &json(format!("{{}}{}", " ".repeat(most - 2)))));
        assert!(!is_served(scene, &json(format!("{{}}{}", " ".repeat(most - 1)))));
        let deep = format!("{{\"a\":{}0{}}}", "[".repeat(31), "]".repeat(31));
        assert!(is_served(scene, &json(deep)));
        assert!(scene.rss() < before + (24 << 20));
        assert!(begun.elapsed() < 4 * vfu_testkit::DEADLINE);
    });
}

#[test]
fn j02_of_two_keys_the_last_one_counts() {
    both(|scene| {
        let twice = "{\"capabilities\":{\"max_msg_fds\":-1,\"max_msg_fds\":1}}";
        assert!(is_served(scene, &json(twice)));
        assert!(!is_served(scene, &json(twice.replace(":1}", ":-1}"))));
    });
}

#[test]
fn j03_text_that_is_no_json() {
    both(|scene| {
        let refused: [&[u8]; 10] = [
            b"{\"a\":\"\xff\"}",
            b"{\"a\":\"\xc3\"}",
            b"{\"a\":\"\\ud800\"}",
            b"\xef\xbb\xbf{}",
            b"{\"a\":NaN}",
            b"{\"a\":Infinity}",
            b"{} // comment",
            b"/* */{}",
            b"{'a':1}",
            b"{\"a\":1,}",
        ];
        for text in refused {
            assert!(!is_served(scene, &json(text)), "{}", String::from_utf8_lossy(text));
        }
    });
}

#[test]
fn j04_json_of_another_shape() {
    both(|scene| {
        for text in [
            "[]",
            "1",
            "null",
            "\"\"",
            "true",
            "{\"capabilities\":null}",
            "{\"capabilities\":[]}",
            "{\"capabilities\":1}",
        ] {
            assert!(!is_served(scene, &json(text)), "{text}");
        }
        for text in ["{}", "{\"capabilities\":{}}", "{\"else\":null}"] {
            assert!(is_served(scene, &json(text)), "{text}");
        }
    });
}

#[test]
fn j05_numbers() {
    const LARGE: &[&str] = &[
        "2147483648",
        "4294967296",
        "9007199254740993",
        "9223372036854775808",
        "18446744073709551615",
    ];
    both(|scene| {
        for key in ["max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes"] {
            for value in [
                "-1",
                "1.5",
                "8.0",
                "1e2",
                "18446744073709551616",
                "\"8\"",
                "true",
                "null",
                "[]",
                "{}",
            ] {
                assert!(!is_served(scene, &number(key, value)), "{key}: {value}");
            }
            assert!(is_served(scene, &number(key, "1")), "{key}");
            assert_eq!(is_served(scene, &number(key, "0")), key != "max_data_xfer_size", "{key}");
            for value in LARGE {
                let fits = match (key, value.parse::<u64>().unwrap()) {
                    ("max_msg_fds", value) => scene.differs(
                        u32::try_from(value).is_ok(),
                        false,
                        "the C library takes 1024 at most, and its test suite asks for that",
                    ),
                    _ => true,
                };
                assert_eq!(is_served(scene, &number(key, value)), fits, "{key}: {value}");
            }
        }
    });
}

#[test]
fn j06_a_second_socket_that_is_not_asked_for_properly() {
    both(|scene| {
        let twin = |value: &str| number("twin_socket", value);
        for value in [
            "true",
            "1",
            "[]",
            "{\"supported\":\"true\"}",
            "{\"supported\":1}",
            "{\"supported\":null}",
        ] {
            assert!(!is_served(scene, &twin(value)), "{value}");
        }
        for value in ["{}", "{\"supported\":false}", "{\"supported\":false,\"fd_index\":0}"] {
            let peer = scene.connect();
            peer.send(&twin(value)).unwrap();
            let answer = peer.recv().unwrap();
            assert_eq!((answer.errno(), answer.fds.len()), (None, 0), "{value}");
        }
        for index in ["0", "77", "-1", "\"x\"", "18446744073709551616"] {
            let peer = scene.connect();
            peer.send(&twin(&format!("{{\"supported\":true,\"fd_index\":{index}}}"))).unwrap();
            let answer = peer.recv().unwrap();
            assert_eq!((answer.errno(), answer.fds.len()), (None, 1), "{index} means nothing");
        }
    });
}

#[test]
fn j07_versions() {
    both(|scene| {
        for major in [1, 2, 0xffff] {
            assert!(!is_served(scene, &RawPeer::version(1, major, 0, Some("{}"))), "{major}");
        }
        for minor in [0, 1, 2, 3, 0xffff] {
            let peer = scene.connect();
            peer.send(&RawPeer::version(1, 0, minor, Some("{}"))).unwrap();
            let answer = Version::parse(&peer.recv().unwrap().payload).unwrap();
            let ours = scene.differs(1, 2, "the C library says 2");
            assert_eq!((answer.major, answer.minor), (0, minor.min(ours)));
        }
    });
}

#[test]
fn j08_version_at_the_wrong_time() {
    both(|scene| {
        let peer = scene.begin();
        peer.send(&RawPeer::version(5, 0, 1, Some("{}"))).unwrap();
        assert_eq!(peer.recv_reply(5, Command::Version).unwrap().errno(), INVALID);
        peer.in_sync();
        drop(peer);
        for command in (0..20).filter(|command| *command != 1) {
            let peer = scene.connect();
            peer.send(&message(1, command, 0, &[0; 40])).unwrap();
            assert_eq!(peer.recv().unwrap().errno(), INVALID, "{command}");
            peer.expect_eof().unwrap();
        }
        let peer = scene.connect();
        let mut version = RawPeer::version(5, 0, 1, Some("{}"));
        version[8] |= NO_REPLY as u8;
        peer.send(&version).unwrap();
        peer.expect_eof().unwrap();
        // What comes right behind it is executed after it.
        let peer = scene.connect();
        let mut bytes = RawPeer::version(1, 0, 1, Some("{}"));
        for id in 2..12 {
            bytes.extend(message(id, 4, 0, &bytes!(16u32, 0u32, 0u32, 0u32)));
        }
        peer.send(&bytes).unwrap();
        for id in 1..12 {
            let answer = peer.recv().unwrap();
            assert_eq!((answer.header.id, answer.errno()), (id, None));
        }
    });
}

#[test]
fn j09_a_second_socket_for_who_takes_no_descriptor() {
    both(|scene| {
        let peer = scene.connect();
        let none = "{\"capabilities\":{\"max_msg_fds\":0,\"twin_socket\":{\"supported\":true}}}";
        let answer = peer.handshake(none).unwrap();
        assert_eq!((answer.errno(), answer.fds.len()), (None, 0));
        let caps = Version::parse(&answer.payload).unwrap().caps;
        assert!(caps.twin_socket.is_none_or(|twin| !twin.supported));
        peer.in_sync();
    });
}

#[test]
fn j10_tiny_transfers() {
    both(|scene| {
        assert!(!is_served(scene, &number("max_data_xfer_size", "0")));
        for size in [1u32, 15] {
            let peer = scene.connect();
            assert_eq!(
                peer.handshake(&format!("{{\"capabilities\":{{\"max_data_xfer_size\":{size}}}}}"))
                    .unwrap()
                    .errno(),
                None
            );
            assert_eq!(peer.map(0x1000, 0x1000, 3, None), None);
            peer.operate(crate::specimen::READ, 0x1000, 40);
            let mut served = 0;
            while served < 40 {
                let request = peer.recv().unwrap();
                let (address, count) = (&request.payload[..8], &request.payload[8..16]);
                let count = u64::from_le_bytes(count.try_into().unwrap());
                assert!((1..=size.into()).contains(&count), "{count} of {size}");
                served += count;
                let reply = [address, &request.payload[8..16], &vec![7; count as usize]].concat();
                peer.send(&request.reply(&reply)).unwrap();
            }
            assert_eq!(peer.outcome(), Ok(()));
        }
    });
}

#[test]
fn j11_page_sizes_of_migration() {
    both(|scene| {
        let page = |size: &str| number("migration", &format!("{{\"pgsize\":{size}}}"));
        for size in ["0", "3", "4097", "-1", "\"4096\""] {
            assert!(!is_served(scene, &page(size)), "{size}");
        }
        let small =
            scene.differs(true, false, "the C library refuses other sizes than its own page");
        assert_eq!(is_served(scene, &page("1")), small);
        for size in ["4096", "65536", "9223372036854775808"] {
            assert!(is_served(scene, &page(size)), "{size}");
        }
    });
}
