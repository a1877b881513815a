//! The checks that need nothing but the message: what is refused, and
//! what must be taken although it looks odd.

use vfu_proto::wire::*;

/// A payload of little-endian 32-bit words.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A payload of some 32-bit words and then 64-bit ones.
fn payload(head: &[u32], tail: &[u64]) -> Vec<u8> {
    let mut bytes = words(head);
    bytes.extend(tail.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

#[track_caller]
fn check(command: Command, payload: &[u8], good: bool) {
    match Request::parse(command, payload) {
        Ok(request) => assert!(good, "taken: {request:?}"),
        Err(errno) => assert!(!good && errno == Errno::EINVAL, "refused with {errno:?}"),
    }
}

const MAX: u32 = u32::MAX;
const TOP: u64 = u64::MAX;
/// A large `argsz` is legal; it must never become an allocation.
const ARGSZ: u32 = u32::MAX;

/// Smallest payloads, and one byte less; more bytes are tolerated unless the last column says no.
#[test]
fn sizes() {
    let report = payload(&[ARGSZ, 8 | 1 << 16], &[0, 4096, 4096]);
    let start = payload(&[ARGSZ, 6 | 1 << 17], &[4096, 1, 0, 4096]);
    let cases: [(Command, Vec<u8>, bool); 22] = [
        (Command::DmaMap, payload(&[32, 3], &[0, 0, 1]), true),
        (Command::DmaUnmap, payload(&[24, 0], &[0, 1]), true),
        (Command::DmaUnmap, payload(&[48, 1], &[0, 4096, 4096, 8]), true),
        (Command::DmaUnmap, payload(&[24, 2], &[0, 0]), true),
        (Command::DeviceGetInfo, words(&[16, 0, 0, 0]), true),
        (Command::DeviceGetRegionInfo, words(&[32, 0, 0, 0, 0, 0, 0, 0]), true),
        (Command::DeviceGetRegionIoFds, words(&[16, 0, 0, 0]), true),
        (Command::DeviceGetIrqInfo, words(&[16, 0, 0, 0]), true),
        (Command::DeviceSetIrqs, words(&[20, 0x21, 0, 0, 0]), true),
        (Command::DeviceSetIrqs, [words(&[20, 0x22, 0, 0, 1]), vec![1]].concat(), false),
        (Command::RegionRead, words(&[0, 0, 0, 4]), true),
        (Command::RegionWrite, words(&[0, 0, 0, 4, 7]), false),
        (Command::DmaRead, words(&[0, 0, 4, 0]), true),
        (Command::DmaWrite, words(&[0, 0, 4, 0, 7]), false),
        (Command::RegionWriteMulti, words(&[1, 0, 0, 0, 0, 8, 7, 0]), false),
        (Command::RegionWriteMulti, words(&[0, 0]), false),
        (Command::DeviceFeature, words(&[16, 1 | 1 << 16]), true),
        (Command::DeviceFeature, words(&[ARGSZ, 2 | 1 << 17, 2, 0]), true),
        (Command::DeviceFeature, start, false),
        (Command::DeviceFeature, report, true),
        (Command::MigDataRead, words(&[8, 0]), true),
        (Command::MigDataWrite, words(&[12, 4, 0]), true),
    ];
    for (command, good, tail_is_fine) in cases {
        check(command, &good, true);
        check(command, &good[..good.len() - 1], false);
        check(command, &[], false);
        for tail in [1, 8, 4064] {
            check(command, &[&good[..], &vec![0; tail]].concat(), tail_is_fine);
        }
    }
    check(Command::DeviceReset, &[], true);
    check(Command::DeviceReset, &[0; 100], true);
}

#[test]
fn argsz_below_the_reply() {
    for argsz in [0, 1, 15, 23, 31, 32, 33, MAX] {
        check(Command::DmaMap, &payload(&[argsz, 3], &[0, 0, 1]), argsz >= 32);
        check(Command::DmaUnmap, &payload(&[argsz, 0], &[0, 1]), argsz >= 24);
        check(Command::DmaUnmap, &payload(&[argsz, 1], &[0, 4096, 4096, 8]), argsz >= 48);
        check(Command::DeviceGetInfo, &words(&[argsz, 0, 0, 0]), argsz >= 16);
        check(Command::DeviceGetRegionInfo, &words(&[argsz, 0, 0, 0, 0, 0, 0, 0]), argsz >= 32);
        check(Command::DeviceGetRegionIoFds, &words(&[argsz, 0, 0, 0]), argsz >= 16);
        check(Command::DeviceGetIrqInfo, &words(&[argsz, 0, 0, 0]), argsz >= 16);
        check(Command::DeviceSetIrqs, &words(&[argsz, 0x21, 0, 0, 0]), argsz >= 20);
        check(Command::MigDataRead, &words(&[argsz, 24]), argsz >= 32);
    }
}

#[test]
fn dma_map() {
    let map = |flags: u32, tail: [u64; 3], good| {
        check(Command::DmaMap, &payload(&[32, flags], &tail), good);
    };
    for flags in 0..64 {
        let good = flags < 16 && flags & 3 != 0 && flags & 12 != 12;
        map(flags, [0, 0x1000, 0x1000], good);
    }
    map(3 | 1 << 31, [0, 0, 1], false);
    map(3, [0, 0, 0], false);
    map(3, [0, TOP, 1], true); // ends exactly at 2^64
    map(3, [0, TOP, 2], false);
    map(3, [0, 0, TOP], true);
    map(3, [0, 1, TOP], true);
    map(3, [0, 2, TOP], false);
    map(3, [i64::MAX as u64, 0, 1], true);
    map(3, [1 << 63, 0, 1], false);
    map(3, [1, 0, TOP], false);
    map(3, [3, 5, 7], true); // nothing has to be aligned
}

#[test]
fn dma_unmap() {
    let unmap = |flags: u32, tail: &[u64], good| {
        check(Command::DmaUnmap, &payload(&[ARGSZ, flags], tail), good);
    };
    for flags in [3, 4, 5, 6, 1 << 31] {
        unmap(flags, &[0, 0x1000, 0x1000, 8], false);
        unmap(flags, &[0, 0], false);
    }
    unmap(2, &[0, 1], false);
    unmap(2, &[1, 0], false);
    unmap(0, &[0, 0], false);
    unmap(0, &[TOP, 1], true);
    unmap(0, &[TOP, 2], false);
    for (pgsize, size, good) in
        [(4096, 8, true), (4096, 16, false), (4096, 0, false), (4096, TOP, false)]
    {
        unmap(1, &[0, 0x10000, pgsize, size], good);
    }
    unmap(1, &[0, 0x10000, 0, 8], false);
    unmap(1, &[0, 0x10000, 3, 8], false);
    unmap(1, &[0, 0x10000, 1 << 63, 8], true); // one page, one word
    unmap(1, &[0, TOP, 1, 1 << 61], false); // no argsz has room for that
}

#[test]
fn bitmap_lengths() {
    for (length, page, bytes) in [
        (0, 4096, 0),
        (1, 4096, 8),
        (64 * 4096, 4096, 8),
        (64 * 4096 + 1, 4096, 16),
        (TOP, 1, 1 << 61),
        (TOP, 1 << 63, 8),
    ] {
        assert_eq!(bitmap_len(length, page), Ok(bytes));
    }
    for page in [0, 3, 4097, TOP] {
        assert_eq!(bitmap_len(4096, page), Err(Errno::EINVAL));
    }
}

#[test]
fn dma_access() {
    let read = |tail: [u64; 2], good| check(Command::DmaRead, &payload(&[], &tail), good);
    read([0, 0], true);
    read([TOP, 0], true);
    read([TOP, 1], true);
    read([TOP, 2], false);
    read([1, TOP], true);
    read([2, TOP], false);
    for count in [0, 3, 5, 1 << 32 | 4, TOP] {
        check(Command::DmaWrite, &[payload(&[], &[0, count]), vec![0; 4]].concat(), false);
        let reply = [payload(&[], &[0, count]), vec![0; 4]].concat();
        assert_eq!(DmaReadReply::parse(&reply), Err(Errno::EINVAL));
    }
    check(Command::DmaWrite, &[payload(&[], &[TOP, 1]), vec![0; 1]].concat(), true);
    check(Command::DmaWrite, &[payload(&[], &[TOP, 2]), vec![0; 2]].concat(), false);
}

#[test]
fn region_access() {
    let read = |offset: u64, count: u32, good| {
        let bytes = [payload(&[], &[offset]), words(&[0, count])].concat();
        check(Command::RegionRead, &bytes, good);
    };
    read(TOP, 0, true);
    read(TOP, 1, false);
    read(TOP - 7, 16, false);
    read(0, MAX, true);
    for count in [0, 3, 5, MAX] {
        check(Command::RegionWrite, &words(&[0, 0, 0, count, 0]), false);
    }
    check(Command::RegionWrite, &words(&[0, 0, 0, 0]), true);
    check(Command::RegionWrite, &words(&[MAX, MAX, 0, 4, 0]), false);
}

#[test]
fn write_multi() {
    let entry = |count: u32| words(&[0, 0, 0, count, 1, 2]);
    for count in [0, 1, 3, 8, 9, MAX] {
        let bytes = [words(&[3, 0]), entry(4), entry(count), entry(4)].concat();
        check(Command::RegionWriteMulti, &bytes, (1..=8).contains(&count));
    }
    for claimed in [0u64, 1, 3, 201, 1 << 32, 1 << 61, (1 << 61) + 2, TOP] {
        let bytes = [payload(&[], &[claimed]), entry(4), entry(4)].concat();
        check(Command::RegionWriteMulti, &bytes, false);
    }
    let wraps = [words(&[1, 0]), words(&[MAX, MAX, 0, 1, 0, 0])].concat();
    check(Command::RegionWriteMulti, &wraps, false);
    assert_eq!(WriteEntry::new(0, 0, &[]), None);
    assert_eq!(WriteEntry::new(0, 0, &[0; 9]), None);
}

#[test]
fn io_fds_request_has_no_flags_and_no_count() {
    check(Command::DeviceGetRegionIoFds, &words(&[ARGSZ, 1, 0, 0]), false);
    check(Command::DeviceGetRegionIoFds, &words(&[ARGSZ, 0, 0, 1]), false);
    check(Command::DeviceGetRegionIoFds, &words(&[ARGSZ, 0, MAX, 0]), true);
}

/// All combinations of data and action, for each interrupt type, with and without vectors.
#[test]
#[cfg_attr(miri, ignore = "slow: thousands of messages")]
fn set_irqs() {
    for flags in 0..128u32 {
        for index in 0..5u32 {
            for (start, count) in [(0, 0), (1, 0), (0, 1), (0, 2), (5, 2)] {
                let mut bytes = words(&[20, flags, index, start, count]);
                let is_bool = flags & 7 == 2;
                if is_bool {
                    bytes.extend(vec![1; count as usize]);
                }
                let one_of_each = (flags & 7).count_ones() == 1 && (flags >> 3).count_ones() == 1;
                let not_empty = count > 0 || (start == 0 && flags == 0x21);
                let single = index < 3 || (flags & 0x20 != 0 && count < 2);
                let good = flags < 64 && one_of_each && not_empty && single;
                check(Command::DeviceSetIrqs, &bytes, good);
                if is_bool {
                    bytes.push(0);
                    check(Command::DeviceSetIrqs, &bytes, false);
                }
            }
        }
    }
    check(Command::DeviceSetIrqs, &words(&[20, 0x21, 2, MAX, 2]), false);
    check(Command::DeviceSetIrqs, &words(&[20, 0x21, 2, MAX, 0]), false);
    check(Command::DeviceSetIrqs, &words(&[20, 0x21, 2, 0, MAX]), true);

    let set = |data, count| SetIrqs { index: 2, start: 0, count, action: IrqAction::Trigger, data };
    for fds in 0..4 {
        let fits = |set: SetIrqs<'_>| set.check_fds(fds).is_ok();
        assert_eq!(fits(set(IrqData::EventFd, 2)), fds == 0 || fds == 2);
        assert_eq!(fits(set(IrqData::None, 2)), fds == 0);
        assert_eq!(fits(set(IrqData::Bool(&[1, 1]), 2)), fds == 0);
    }
}

/// Every feature, known or not, with every combination of get, set, probe and one unknown flag.
#[test]
fn feature_methods() {
    for index in (0..12).chain([0xffff]) {
        for flags in 0..16u32 {
            let (get, set, probe) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            let feature = Feature::from_u16(index as u16);
            let has =
                feature.is_some_and(|known| (!get || known.has_get()) && (!set || known.has_set()));
            let good = has && flags < 8 && (probe || get != set);
            // Data that suits all of them: page size, no ranges; or a range; or the state STOP.
            let data: &[u64] = match index {
                2 => &[1],
                6 => &[4096, 0],
                8 => &[0, 4096, 4096],
                _ => &[],
            };
            let bytes = payload(&[ARGSZ, index | flags << 16], data);
            check(Command::DeviceFeature, &bytes, good);
        }
    }
}

#[test]
fn feature_lengths() {
    let feature = |argsz: u32, flags: u32, data: &[u64], good| {
        check(Command::DeviceFeature, &payload(&[argsz, flags], data), good);
    };
    let (get, set, probe) = (1 << 16, 1 << 17, 1 << 18);
    feature(15, 1 | get, &[], false);
    feature(15, 2 | get, &[], false);
    feature(16, 2 | get, &[], true);
    feature(15, 2 | set, &[2], false);
    feature(16, 2 | set, &[2], true);
    feature(16, 2 | set, &[2, 0], false); // argsz below the request itself
    feature(8, 2 | set, &[], false);
    feature(7, 7 | set, &[], false);
    feature(8, 7 | set, &[], true);
    feature(7, 1 | probe, &[], false);
    feature(8, 1 | probe, &[], true);
    feature(39, 8 | get, &[0, 4096, 4096], false);
    feature(40, 8 | get, &[0, 4096, 4096], true);
    feature(40, 8 | get, &[0, 4096], false);
    feature(40, 8 | get, &[], false);
}

#[test]
fn device_states() {
    for state in (0..10).chain([1 << 31, MAX]) {
        let bytes = words(&[ARGSZ, 2 | 1 << 17, state, MAX]);
        check(Command::DeviceFeature, &bytes, [1, 2, 3, 4, 6].contains(&state));
        let reply = words(&[16, 2 | 1 << 16, state, 0]);
        assert_eq!(FeatureReply::parse(&reply).is_ok(), state < 8);
    }
}

#[test]
fn logging() {
    let start = |page: u64, ranges: u64, data: &[u64], good| {
        let tail = [&[page, ranges], data].concat();
        check(Command::DeviceFeature, &payload(&[ARGSZ, 6 | 1 << 17], &tail), good);
    };
    for page in [0, 3, 4097, TOP] {
        start(page, 0, &[], false);
    }
    for page in [1, 4096, 1 << 63] {
        start(page, 0, &[], true);
    }
    start(4096, 1, &[0, 4096], true);
    start(4096, 2, &[0, 4096], false);
    start(4096, 0, &[0, 4096], false);
    start(4096, 5, &[], false);
    start(4096, MAX.into(), &[], false);
    start(4096, 1, &[TOP, 1], true);
    start(4096, 1, &[TOP, 2], false);
    start(4096, 1, &[0, 0], false);

    let report = |data: [u64; 3], good| {
        check(Command::DeviceFeature, &payload(&[ARGSZ, 8 | 1 << 16], &data), good);
    };
    report([0, 4096, 4096], true);
    report([1, 4097, 4096], true);
    report([0, 0, 4096], false);
    report([0, 0, 0], false);
    report([0, 4096, 0], false);
    report([0, 4096, 3], false);
    report([0, 4096, 8192], false);
    report([TOP, 1, 1], true);
    report([TOP, 2, 1], false);
    report([0, TOP, 1], false); // no argsz has room for that bitmap
}

#[test]
fn migration_data() {
    for (argsz, size, good) in
        [(8, 0, true), (8, 1, false), (MAX, MAX - 8, true), (MAX, MAX, false)]
    {
        check(Command::MigDataRead, &words(&[argsz, size]), good);
    }
    check(Command::MigDataWrite, &words(&[16, 8, 0, 0]), true);
    check(Command::MigDataWrite, &words(&[15, 8, 0, 0]), false);
    check(Command::MigDataWrite, &words(&[16, 8, 0]), false);
    check(Command::MigDataWrite, &words(&[16, 4, 0, 0]), true);
}

/// The chain of a region's capabilities, at its bounds and beyond.
#[test]
fn capability_chains() {
    let region = |cap_offset: u32, chain: &[u32]| {
        let head = words(&[96, 1 << 3, 0, cap_offset, 0x4000, 0, 0, 0]);
        RegionInfo::parse(&[head, words(chain)].concat()).map(|info| info.capabilities)
    };
    let type_cap = |next| [2 | 1 << 16, next, 7, 8];
    let found = RegionCapability::Type { type_: 7, subtype: 8 };

    assert_eq!(region(0, &[]), Ok(vec![]));
    assert_eq!(region(32, &type_cap(0)), Ok(vec![found.clone()]));
    let two = [type_cap(48), type_cap(0)].concat();
    assert_eq!(region(32, &two), Ok(vec![found.clone(), found.clone()]));
    let unknown = [[77 | 1 << 16, 48, 0, 0], type_cap(0)].concat();
    assert_eq!(region(32, &unknown), Ok(vec![found.clone()]), "unknown ids are skipped");
    let newer = [[2 | 2 << 16, 48, 0, 0], type_cap(0)].concat();
    assert_eq!(region(32, &newer), Ok(vec![found]), "and so are unknown versions");

    for cap_offset in [1, 8, 31, 41, 48, 49, 1000, MAX] {
        assert_eq!(region(cap_offset, &type_cap(0)), Err(Errno::EINVAL), "offset {cap_offset}");
    }
    for next in [1, 16, 31, 32, 33, 39, 40, 44, 47, 49, 64, 1000, MAX] {
        let chain = [type_cap(next), type_cap(0)].concat();
        assert_eq!(region(32, &chain), Err(Errno::EINVAL), "next {next}");
    }
    let circle = [type_cap(48), type_cap(32)].concat();
    assert_eq!(region(32, &circle), Err(Errno::EINVAL));
    let sparse = |areas| [1 | 1 << 16, 0, areas, 0, 0, 0, 0x1000, 0];
    assert_eq!(region(32, &sparse(1)).map(|caps| caps.len()), Ok(1));
    for areas in [2, 1 << 28, MAX] {
        assert_eq!(region(32, &sparse(areas)), Err(Errno::EINVAL));
    }
}

/// Entries of 48 bytes, as libvfio-user sends them, and entries of sizes to come.
#[test]
fn io_fd_entries_of_any_stride() {
    let reply = |stride: usize, count: u32| {
        let mut bytes = words(&[16 + stride as u32 * count, 0, 3, count]);
        for _ in 0..count {
            let mut entry = payload(&[], &[0x10, 4]);
            entry.extend(words(&[1, 2, 1, 5]));
            entry.extend(payload(&[], &[0x20, 0x30]));
            entry.resize(entry.len().max(stride), 0xee);
            bytes.extend(&entry[..stride]);
        }
        IoFdsReply::parse(&bytes)
    };
    let shadow = |datamatch, shadow_offset| IoFd {
        offset: 0x10,
        size: 4,
        fd_index: 1,
        flags: IoFdFlags::DATAMATCH,
        kind: IoFdKind::ShadowIoEventFd { datamatch, shadow_fd_index: 5, shadow_offset },
    };
    assert_eq!(reply(40, 2).unwrap().entries, [shadow(0x20, 0); 2]);
    assert_eq!(reply(44, 2).unwrap().entries, [shadow(0x20, 0); 2]);
    assert_eq!(reply(48, 2).unwrap().entries, [shadow(0x30, 0x20); 2]);
    assert_eq!(reply(64, 2).unwrap().entries, [shadow(0x30, 0x20); 2]);
    assert_eq!(reply(39, 2), Err(Errno::EINVAL));
    assert_eq!(reply(0, 2), Err(Errno::EINVAL));
    assert_eq!(reply(40, 0).unwrap(), IoFdsReply { index: 3, ..IoFdsReply::default() });

    let full = reply(48, 2).unwrap();
    let mut out = Vec::new();
    assert!(!full.emit_for(111, &mut out));
    let cut = IoFdsReply::parse(&out).unwrap();
    assert_eq!((cut.truncated, cut.full_size(), out.len()), (Some(2), 112, 16));
    out.clear();
    assert!(full.emit_for(112, &mut out));
    assert_eq!(IoFdsReply::parse(&out), Ok(full));
}
