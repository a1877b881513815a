//! VERSION and its JSON: what is taken, what is refused.

use vfu_proto::wire::{Capabilities, Errno, MAX_JSON_LEN, MigrationCaps, TwinSocket, Version};

fn payload(json: &str) -> Vec<u8> {
    let mut bytes = vec![0, 0, 1, 0];
    bytes.extend_from_slice(json.as_bytes());
    bytes.push(0);
    bytes
}

fn caps(json: &str) -> Result<Capabilities, Errno> {
    Version::parse(&payload(json)).map(|version| version.caps)
}

fn key(key_and_value: &str) -> Result<Capabilities, Errno> {
    caps(&format!("{{\"capabilities\":{{{key_and_value}}}}}"))
}

const REFUSED: Result<Capabilities, Errno> = Err(Errno::EINVAL);

/// J1: the frame around the text.
#[test]
fn the_text_ends_in_a_nul_and_nothing_else() {
    for len in 0..4 {
        assert_eq!(Version::parse(&[0; 4][..len]), Err(Errno::EINVAL));
    }
    let bare = Version::parse(&[0, 0, 1, 0]).unwrap();
    assert_eq!((bare.major, bare.minor, bare.has_json), (0, 1, false));
    assert_eq!(bare.caps, Capabilities::default());

    let cases: [(&[u8], bool); 8] = [
        (b"{}\0", true),
        (b"{}\0\0\0\0", true),
        (b" {} \n\0", true),
        (b"{}", false),
        (b"\0", false),
        (b"{\0}\0", false),
        (b"{}\0{}\0", false),
        (b"{}x\0", false),
    ];
    for (json, good) in cases {
        let bytes = [&[0, 0, 0, 0], json].concat();
        let version = Version::parse(&bytes);
        assert_eq!(version.is_ok(), good, "{json:?}");
        if good {
            assert_eq!(version.unwrap(), Version::new(0, 0, Capabilities::default()));
        } else {
            assert_eq!(version, Err(Errno::EINVAL));
        }
    }
}

/// J2: size, depth, duplicates.
#[test]
fn size_and_depth_are_limited() {
    let filler = |len: usize| format!("{{\"x\":\"{}\"}}", "a".repeat(len - 8));
    assert_eq!(caps(&filler(MAX_JSON_LEN - 1)), Ok(Capabilities::default()));
    assert_eq!(caps(&filler(MAX_JSON_LEN)), REFUSED);
    assert_eq!(caps(&filler(1 << 20)), REFUSED);

    let nested = |depth: usize| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(caps(&nested(31)), Ok(Capabilities::default()));
    assert_eq!(caps(&nested(32)), REFUSED);
    assert_eq!(caps(&nested(5000)), REFUSED);
    assert_eq!(caps(&"[".repeat(MAX_JSON_LEN - 1)), REFUSED);
    assert_eq!(caps(&"{\"a\":".repeat(3000)), REFUSED);
    let brackets = format!("{{\"x\":\"{}\\\"{}\"}}", "[".repeat(100), "{".repeat(100));
    assert_eq!(caps(&brackets), Ok(Capabilities::default()), "brackets in a string nest nothing");

    assert_eq!(key(&format!("\"max_dma_maps\":{}", "9".repeat(1000))), REFUSED);
    let twice = key(r#""max_msg_fds":1,"max_msg_fds":2"#).unwrap();
    assert_eq!(twice.max_msg_fds, Some(2), "the last one counts");
    let twice = key(r#""max_msg_fds":"1","max_msg_fds":2"#).unwrap();
    assert_eq!(twice.max_msg_fds, Some(2));
    let twice = caps(r#"{"capabilities":[],"capabilities":{"pgsizes":4096}}"#).unwrap();
    assert_eq!(twice.pgsizes, Some(4096));
}

/// J3: text that is no JSON.
#[test]
fn only_json_in_utf8_is_taken() {
    for json in [
        "\u{feff}{}",
        "{\"x\":NaN}",
        "{\"x\":Infinity}",
        "{\"x\":-Infinity}",
        "{} // comment",
        "{/* comment */}",
        "{\"x\":\"\\ud800\"}",
        "{'x':1}",
        "{\"x\":1,}",
        "{\"x\":01}",
        "{\"x\":0x10}",
        "{\"x\"",
        "}",
    ] {
        assert_eq!(caps(json), REFUSED, "{json}");
    }
    assert_eq!(Version::parse(b"\0\0\0\0{\"x\":\"\xff\xfe\"}\0"), Err(Errno::EINVAL));
    assert_eq!(Version::parse(b"\0\0\0\0{\"\xc0\x80\":1}\0"), Err(Errno::EINVAL));
}

/// J4: the objects around the keys.
#[test]
fn the_top_and_the_capabilities_are_objects() {
    for json in ["[]", "1", "null", "true", "\"x\""] {
        assert_eq!(caps(json), REFUSED, "{json}");
        assert_eq!(caps(&format!("{{\"capabilities\":{json}}}")), REFUSED, "{json}");
    }
    for json in ["{}", "{\"capabilities\":{}}", "{\"other\":null}", "{\"capabilities\":{\"x\":[]}}"]
    {
        assert_eq!(caps(json), Ok(Capabilities::default()), "{json}");
    }
}

/// J5 and J10: numbers.
#[test]
fn numbers_are_integers_in_their_range() {
    let cases: [(&str, Option<u64>); 16] = [
        ("-1", None),
        ("-0", None),
        ("0", Some(0)),
        ("1", Some(1)),
        ("1.5", None),
        ("8.0", None),
        ("1e2", None),
        ("2147483648", Some(1 << 31)),
        ("4294967295", Some(0xffff_ffff)),
        ("4294967296", Some(1 << 32)),
        ("9007199254740993", Some((1 << 53) + 1)),
        ("9223372036854775808", Some(1 << 63)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("\"8\"", None),
        ("true", None),
    ];
    for (text, value) in cases {
        let read = |name: &str| key(&format!("\"{name}\":{text}"));
        assert_eq!(read("max_dma_maps").ok().map(|caps| caps.max_dma_maps), value.map(Some));
        assert_eq!(read("pgsizes").ok().map(|caps| caps.pgsizes), value.map(Some));
        assert_eq!(
            read("max_data_xfer_size").ok().map(|caps| caps.max_data_xfer_size),
            value.filter(|&value| value != 0).map(Some),
            "{text}: 0 would let nothing through"
        );
        assert_eq!(
            read("max_msg_fds").ok().map(|caps| caps.max_msg_fds),
            value.and_then(|value| u32::try_from(value).ok()).map(Some),
            "{text}: checked before it is narrowed"
        );
        let migration = key(&format!("\"migration\":{{\"max_bitmap_size\":{text}}}"));
        assert_eq!(
            migration.ok().and_then(|caps| caps.migration).map(|caps| caps.max_bitmap_size),
            value.map(Some)
        );
    }
    for text in ["null", "[]", "{}", "[8]"] {
        assert_eq!(key(&format!("\"pgsizes\":{text}")), REFUSED, "{text}");
    }
}

/// J6: the twin socket, and the other yes-or-no keys.
#[test]
fn only_booleans_are_booleans() {
    let twin = |value: &str| key(&format!("\"twin_socket\":{value}")).map(|caps| caps.twin_socket);
    let some = |supported, fd_index| Ok(Some(TwinSocket { supported, fd_index }));
    assert_eq!(twin("true"), Err(Errno::EINVAL));
    assert_eq!(twin("null"), Err(Errno::EINVAL));
    assert_eq!(twin("{}"), some(false, None));
    assert_eq!(twin(r#"{"supported":"true"}"#), Err(Errno::EINVAL));
    assert_eq!(twin(r#"{"supported":1}"#), Err(Errno::EINVAL));
    assert_eq!(twin(r#"{"supported":true}"#), some(true, None));
    assert_eq!(twin(r#"{"supported":true,"fd_index":0}"#), some(true, Some(0)));
    for index in ["-1", "\"0\"", "4294967296", "0.0", "null"] {
        let json = format!("{{\"supported\":true,\"fd_index\":{index}}}");
        assert_eq!(twin(&json), some(true, None), "{index} is no index");
    }
    for name in ["write_multiple", "sparse_mmap_fds"] {
        for value in ["1", "0", "\"true\"", "null", "{}"] {
            assert_eq!(key(&format!("\"{name}\":{value}")), REFUSED, "{name}: {value}");
        }
    }
    assert_eq!(key("\"write_multiple\":true").unwrap().write_multiple, Some(true));
    assert_eq!(key("\"sparse_mmap_fds\":false").unwrap().sparse_mmap_fds, Some(false));
    // Not in the specification: whatever else it is, nobody is refused for it.
    assert_eq!(key("\"whole_replies\":true").unwrap().whole_replies, Some(true));
    assert_eq!(key("\"whole_replies\":{\"a\":1}").unwrap().whole_replies, None);
}

/// J11: the page size of migration.
#[test]
fn the_migration_page_size_is_a_power_of_two() {
    let pgsize = |value: u64| key(&format!("\"migration\":{{\"pgsize\":{value}}}"));
    for value in [1, 2, 4096, 65536, 1 << 63] {
        assert_eq!(pgsize(value).unwrap().migration.unwrap().pgsize, Some(value));
    }
    for value in [0, 3, 4097, u64::MAX] {
        assert_eq!(pgsize(value), REFUSED);
    }
    assert_eq!(key("\"migration\":{}").unwrap().migration, Some(MigrationCaps::default()));
    assert_eq!(key("\"migration\":true"), REFUSED);
}

#[test]
fn the_text_is_compact() {
    let emitted = |caps: Capabilities| {
        let mut out = Vec::new();
        Version::new(0, 2, caps).emit(&mut out);
        out
    };
    assert_eq!(emitted(Capabilities::default()), b"\0\0\x02\0{\"capabilities\":{}}\0");
    let caps = Capabilities {
        max_msg_fds: Some(16),
        max_data_xfer_size: Some(1048576),
        migration: Some(MigrationCaps { pgsize: Some(4096), max_bitmap_size: None }),
        twin_socket: Some(TwinSocket { supported: true, fd_index: Some(0) }),
        write_multiple: Some(true),
        ..Capabilities::default()
    };
    let text = concat!(
        r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"#,
        r#""migration":{"pgsize":4096},"twin_socket":{"supported":true,"fd_index":0},"#,
        r#""write_multiple":true}}"#
    );
    assert_eq!(emitted(caps)[4..], payload(text)[4..]);

    let mut out = Vec::new();
    Version { has_json: false, ..Version::default() }.emit(&mut out);
    assert_eq!(out, [0; 4]);
}

#[test]
fn a_reply_has_only_keys_of_the_request() {
    let all = Capabilities {
        max_msg_fds: Some(16),
        max_data_xfer_size: Some(1048576),
        max_dma_maps: Some(65535),
        pgsizes: Some(4096),
        migration: Some(MigrationCaps { pgsize: Some(4096), max_bitmap_size: Some(1 << 28) }),
        twin_socket: Some(TwinSocket { supported: true, fd_index: Some(0) }),
        write_multiple: Some(true),
        sparse_mmap_fds: Some(true),
        whole_replies: None,
    };
    assert_eq!(all.restricted_to(&Capabilities::default()), Capabilities::default());
    assert_eq!(Capabilities::default().restricted_to(&all), Capabilities::default());
    assert_eq!(all.restricted_to(&all), all);
    let client = Capabilities { whole_replies: Some(true), ..all };
    assert_eq!(client.restricted_to(&client), all, "it is about the client's replies");

    let proposed = Capabilities {
        max_msg_fds: Some(1),
        migration: Some(MigrationCaps { pgsize: Some(65536), max_bitmap_size: None }),
        twin_socket: Some(TwinSocket::default()),
        write_multiple: Some(false),
        ..Capabilities::default()
    };
    let expected = Capabilities {
        max_msg_fds: Some(16),
        migration: Some(MigrationCaps { pgsize: Some(4096), max_bitmap_size: None }),
        write_multiple: Some(false),
        ..Capabilities::default()
    };
    assert_eq!(all.restricted_to(&proposed), expected);
}

/// QEMU has a buffer of 214 bytes, its own request, for the whole reply.
#[test]
fn the_fullest_reply_fits_qemu() {
    let caps = Capabilities {
        max_msg_fds: Some(16),
        max_data_xfer_size: Some(1048576),
        max_dma_maps: Some(65535),
        pgsizes: Some(4096),
        migration: Some(MigrationCaps { pgsize: Some(4096), max_bitmap_size: Some(268435456) }),
        write_multiple: Some(true),
        ..Capabilities::default()
    };
    let mut out = Vec::new();
    Version::new(0, 0, caps).emit(&mut out);
    assert!(out.len() + 16 <= 214, "{} bytes", out.len() + 16);
}
