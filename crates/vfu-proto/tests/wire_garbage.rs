//! Whatever the bytes are: an answer, no panic.

use proptest::collection::vec;
use proptest::prelude::*;
use vfu_proto::wire::*;

/// Parses `payload` in every way there is. What is taken is also sent and walked through, and what
/// is sent must be taken again.
fn parse_all(payload: &[u8]) {
    let _ = Capabilities::parse(payload);
    for &command in Command::ALL {
        if let Ok(request) = Request::parse(command, payload) {
            let mut out = Vec::new();
            request.emit(&mut out);
            assert_eq!(Request::parse(command, &out), Ok(request));
            match request {
                Request::RegionWriteMulti(writes) => {
                    assert!(writes.iter().all(|write| (1..=8).contains(&write.data().len())));
                }
                Request::DmaMap(map) => {
                    let _ = (map.access_mode(true), map.access_mode(false));
                }
                Request::DeviceSetIrqs(set) => {
                    let _ = (set.check_fds(0), set.check_fds(1));
                }
                _ => {}
            }
        }
        if let Ok(reply) = Reply::parse(command, payload) {
            let mut out = Vec::new();
            reply.emit(&mut out);
            assert_eq!(Reply::parse(command, &out), Ok(reply));
        }
    }
}

/// Words that mean something somewhere: small numbers, flags, limits.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..64u32,
        (0..32u32).prop_map(|bit| 1 << bit),
        (0..9u32, 16..19u32).prop_map(|(feature, flag)| feature | 1 << flag),
        Just(0x8001 | 1 << 16),
        Just(1 | 1 << 16),
        Just(4096),
        (u32::MAX - 40)..=u32::MAX,
        any::<u32>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(payload in vec(any::<u8>(), 0..160)) {
        parse_all(&payload);
    }

    #[test]
    fn likely_words(words in vec(word(), 0..40), cut in 0..4usize) {
        let mut payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        payload.truncate(payload.len().saturating_sub(cut));
        parse_all(&payload);
    }

    #[test]
    fn long_zero_or_full(byte in prop_oneof![Just(0u8), Just(0xff), any::<u8>()], len in 0..5000usize) {
        parse_all(&vec![byte; len]);
    }

    #[test]
    fn headers(bytes in any::<[u8; 16]>()) {
        let header = Header::parse(&bytes);
        prop_assert_eq!(header.emit(), bytes);
        let _ = (header.kind(), header.wants_no_reply(), header.is_error(), header.payload_len());
        prop_assert!((1..=4095).contains(&header.errno().raw()));
        if let Some(command) = Command::from_u16(header.command) {
            prop_assert_eq!(command.as_u16(), header.command);
        }
    }

    #[test]
    fn json_like(text in "[\\[\\]{}:,\"\\\\0-9a-z.eE+ -]{0,80}") {
        let json = format!("{{\"capabilities\":{{\"max_msg_fds\":{text}}}}}\0");
        let _ = Capabilities::parse(json.as_bytes());
        let _ = Capabilities::parse(format!("{text}\0").as_bytes());
    }
}

/// Every truncation and every flipped bit of good messages.
#[test]
fn damaged_messages() {
    let entries = [WriteEntry::new(8, 0, &[1, 2]).unwrap(); 3];
    let ranges = [LoggingRange::new(0, 4096), LoggingRange::new(8192, 4096)];
    let mut payloads = vec![Vec::new(); 4];
    WriteMulti::new(&entries).emit(&mut payloads[0]);
    FeatureRequest::new(FeatureOp::SetLoggingStart {
        page_size: 4096,
        ranges: LoggingRanges::new(&ranges),
    })
    .emit(&mut payloads[1]);
    RegionInfo {
        capabilities: vec![
            RegionCapability::MsixMappable,
            RegionCapability::SparseMmap(vec![Area { offset: 0, size: 1 }]),
            RegionCapability::Type { type_: 1, subtype: 2 },
        ],
        ..RegionInfo::default()
    }
    .emit(&mut payloads[2]);
    Version::default().emit(&mut payloads[3]);
    for payload in payloads {
        for len in 0..payload.len() {
            parse_all(&payload[..len]);
        }
        for bit in 0..payload.len() * 8 {
            let mut damaged = payload.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            parse_all(&damaged);
        }
    }
}
