//! What is sent is what arrives: parse(emit(message)) is the message, for all of them.

use proptest::collection::vec;
use proptest::prelude::*;
use vfu_proto::wire::*;

/// A message with data of its own, from which a borrowing message is made.
fn data() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..64)
}

/// A range that is not empty and does not wrap.
fn range() -> impl Strategy<Value = (u64, u64)> {
    (any::<u64>(), 1..=u64::MAX).prop_map(|(start, len)| (start, len.min(u64::MAX - start).max(1)))
}

fn power_of_two() -> impl Strategy<Value = u64> {
    (0..64u32).prop_map(|bit| 1 << bit)
}

fn requestable() -> impl Strategy<Value = DeviceState> {
    use DeviceState::*;
    prop::sample::select(vec![Stop, Running, StopCopy, Resuming, PreCopy])
}

fn probe() -> impl Strategy<Value = (Feature, bool, bool)> {
    (prop::sample::select(Feature::ALL.to_vec()), any::<bool>(), any::<bool>()).prop_map(
        |(feature, get, set)| (feature, get && feature.has_get(), set && feature.has_set()),
    )
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    let migration = (prop::option::of(power_of_two()), any::<Option<u64>>())
        .prop_map(|(pgsize, max_bitmap_size)| MigrationCaps { pgsize, max_bitmap_size });
    let twin = any::<(bool, Option<u32>)>()
        .prop_map(|(supported, fd_index)| TwinSocket { supported, fd_index });
    let numbers = (
        any::<Option<u32>>(),
        prop::option::of(1..=u64::MAX),
        any::<Option<u64>>(),
        any::<Option<u64>>(),
    );
    let rest = (prop::option::of(migration), prop::option::of(twin), any::<[Option<bool>; 3]>());
    (numbers, rest).prop_map(|((fds, xfer, maps, pgsizes), (migration, twin, flags))| {
        Capabilities {
            max_msg_fds: fds,
            max_data_xfer_size: xfer,
            max_dma_maps: maps,
            pgsizes,
            migration,
            twin_socket: twin,
            write_multiple: flags[0],
            sparse_mmap_fds: flags[1],
            whole_replies: flags[2],
        }
    })
}

fn version() -> impl Strategy<Value = Version> {
    (any::<[u16; 2]>(), prop::option::of(capabilities())).prop_map(|([major, minor], caps)| {
        Version { major, minor, caps: caps.unwrap_or_default(), has_json: caps.is_some() }
    })
}

fn region_capability() -> impl Strategy<Value = RegionCapability> {
    let area = any::<[u64; 2]>().prop_map(|[offset, size]| Area { offset, size });
    let fd_area = any::<([u64; 3], u32)>().prop_map(|([offset, fd_offset, size], fd_index)| {
        FdArea { offset, fd_offset, size, fd_index }
    });
    prop_oneof![
        vec(area, 0..5).prop_map(RegionCapability::SparseMmap),
        any::<[u32; 2]>().prop_map(|[type_, subtype]| RegionCapability::Type { type_, subtype }),
        Just(RegionCapability::MsixMappable),
        vec(fd_area, 0..5).prop_map(RegionCapability::SparseMmapFds),
    ]
}

fn region_info() -> impl Strategy<Value = RegionInfo> {
    let fixed = any::<(u32, u32, u64, u64)>();
    let cut = prop::option::of(33..=u32::MAX);
    (fixed, vec(region_capability(), 0..4), cut).prop_map(
        |((flags, index, size, offset), capabilities, needed_argsz)| RegionInfo {
            flags: RegionFlags::from_bits_retain(flags).without(RegionFlags::CAPS),
            index,
            size,
            offset,
            capabilities: if needed_argsz.is_some() { Vec::new() } else { capabilities },
            needed_argsz,
        },
    )
}

fn io_fds() -> impl Strategy<Value = IoFdsReply> {
    let entry =
        any::<([u64; 2], [u32; 3], [u64; 2], u8)>().prop_map(|(place, words, values, kind)| {
            let [datamatch, shadow_offset] = values;
            let [fd_index, flags, shadow_fd_index] = words;
            IoFd {
                offset: place[0],
                size: place[1],
                fd_index,
                flags: IoFdFlags::from_bits_retain(flags),
                kind: match kind % 3 {
                    0 => IoFdKind::IoEventFd { datamatch },
                    1 => IoFdKind::IoRegionFd { user_data: datamatch },
                    _ => IoFdKind::ShadowIoEventFd { datamatch, shadow_fd_index, shadow_offset },
                },
            }
        });
    let cut = prop::option::of(1..1_000_000u32);
    (any::<(u32, bool)>(), vec(entry, 0..5), cut).prop_map(|((index, wide), entries, truncated)| {
        let entries = if truncated.is_some() { Vec::new() } else { entries };
        let layout = if wide && (truncated.is_some() || !entries.is_empty()) {
            IoFdLayout::Wide
        } else {
            IoFdLayout::Standard
        };
        let mut reply = IoFdsReply { index, layout, entries, truncated };
        if !wide {
            for entry in &mut reply.entries {
                if let IoFdKind::ShadowIoEventFd { shadow_offset, .. } = &mut entry.kind {
                    *shadow_offset = 0; // the standard layout has no place for it
                }
            }
        }
        reply
    })
}

fn check_request(request: Request<'_>) {
    let mut out = Vec::new();
    request.emit(&mut out);
    assert_eq!(Request::parse(request.command(), &out), Ok(request));
}

fn check_reply(reply: Reply<'_>) {
    let mut out = Vec::new();
    reply.emit(&mut out);
    assert_eq!(Reply::parse(reply.command(), &out), Ok(reply));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn versions(version in version()) {
        check_request(Request::Version(version));
        check_reply(Reply::Version(version));
    }

    #[test]
    fn dma_maps((address, size) in range(), mode in 0..3u32, may in 1..4u32, at in any::<u64>()) {
        let flags = DmaMapFlags::from_bits_retain(may | mode << 2);
        let offset = (at >> 1).min(u64::MAX - size);
        check_request(Request::DmaMap(DmaMap { flags, offset, address, size }));
        check_reply(Reply::DmaMap);
    }

    #[test]
    fn dma_unmaps((address, size) in range(), page in power_of_two(), more in any::<u32>(), data in data()) {
        let bitmap_size = bitmap_len(size, page).unwrap();
        for what in [
            UnmapWhat::All,
            UnmapWhat::Range { address, size },
            UnmapWhat::RangeWithDirty { address, size, pgsize: page, bitmap_size },
        ] {
            let mut request = DmaUnmapRequest::new(what);
            if bitmap_size > 1 << 31 && matches!(what, UnmapWhat::RangeWithDirty { .. }) {
                continue; // no argsz has room for it
            }
            request.argsz = request.argsz.saturating_add(more);
            check_request(Request::DmaUnmap(request));
            let mut reply = request.reply(size);
            if let UnmapWhat::RangeWithDirty { .. } = what {
                reply.bitmap = Some(DirtyBitmap { pgsize: page, data: &data });
            }
            check_reply(Reply::DmaUnmap(reply));
        }
    }

    #[test]
    fn infos(argsz in 32..=u32::MAX, index in any::<u32>(), flags in any::<u32>(), counts in any::<[u32; 2]>()) {
        check_request(Request::DeviceGetInfo(DeviceInfoRequest { argsz }));
        check_request(Request::DeviceGetRegionInfo(RegionInfoRequest { argsz, index }));
        check_request(Request::DeviceGetRegionIoFds(IoFdsRequest { argsz, index }));
        check_request(Request::DeviceGetIrqInfo(IrqInfoRequest { argsz, index }));
        let [num_regions, num_irqs] = counts;
        let device = DeviceInfo { flags: DeviceFlags::from_bits_retain(flags), num_regions, num_irqs };
        check_reply(Reply::DeviceGetInfo(device));
        let irq = IrqInfo { flags: IrqFlags::from_bits_retain(flags), index, count: num_irqs };
        check_reply(Reply::DeviceGetIrqInfo(irq));
    }

    #[test]
    fn region_infos(info in region_info()) {
        check_reply(Reply::DeviceGetRegionInfo(info));
    }

    #[test]
    fn region_io_fds(reply in io_fds()) {
        check_reply(Reply::DeviceGetRegionIoFds(reply));
    }

    #[test]
    fn set_irqs(index in 0..3u32, start in any::<u32>(), count in 1..=u32::MAX, action in 0..3usize, bools in vec(any::<u8>(), 1..20)) {
        let action = [IrqAction::Mask, IrqAction::Unmask, IrqAction::Trigger][action];
        let count = count.min(u32::MAX - start).max(1);
        let start = start.min(u32::MAX - count);
        for data in [IrqData::None, IrqData::EventFd] {
            check_request(Request::DeviceSetIrqs(SetIrqs { index, start, count, action, data }));
        }
        let (start, count) = (start.min(u32::MAX - 20), bools.len() as u32);
        let data = IrqData::Bool(&bools);
        check_request(Request::DeviceSetIrqs(SetIrqs { index, start, count, action, data }));
        check_reply(Reply::DeviceSetIrqs);
    }

    #[test]
    fn region_accesses(offset in 0..=u64::MAX - 64, region in any::<u32>(), count in any::<u32>(), data in data()) {
        let read = RegionReadRequest { offset: offset.min(u64::MAX - u64::from(count)), region, count };
        check_request(Request::RegionRead(read));
        check_reply(Reply::RegionRead(RegionReadReply { offset, region, data: &data }));
        let write = RegionWriteRequest { offset, region, data: &data };
        check_request(Request::RegionWrite(write));
        check_reply(Reply::RegionWrite(write.reply()));
        check_reply(Reply::RegionWrite(RegionWriteReply { offset, region, count }));
        check_request(Request::DeviceReset);
        check_reply(Reply::DeviceReset);
    }

    #[test]
    fn many_writes(writes in vec((0..=u64::MAX - 8, any::<u32>(), vec(any::<u8>(), 1..=8)), 0..20), count in any::<u64>()) {
        let entries: Vec<WriteEntry> = writes
            .iter()
            .map(|(offset, region, data)| WriteEntry::new(*offset, *region, data).unwrap())
            .collect();
        check_request(Request::RegionWriteMulti(WriteMulti::new(&entries)));
        for (entry, (offset, region, data)) in entries.iter().zip(&writes) {
            prop_assert_eq!((entry.offset(), entry.region(), entry.data()), (*offset, *region, &data[..]));
        }
        check_reply(Reply::RegionWriteMulti(WriteMultiReply { count }));
    }

    #[test]
    fn dma_accesses((address, count) in range(), data in data(), short in any::<bool>()) {
        check_request(Request::DmaRead(DmaReadRequest { address, count }));
        check_reply(Reply::DmaRead(DmaReadReply { address, data: &data }));
        let low = address.min(u64::MAX - 64);
        check_request(Request::DmaWrite(DmaWriteRequest { address: low, data: &data }));
        let reply = if short { DmaWriteReply { address: None, count: None } } else { DmaWriteReply::new(address, count) };
        check_reply(Reply::DmaWrite(reply));
    }

    #[test]
    fn features(
        (feature, get, set) in probe(),
        state in requestable(),
        data_fd in any::<u32>(),
        (iova, length) in range(),
        page in power_of_two(),
        ranges in vec(range(), 0..6),
        more in any::<u32>(),
    ) {
        let ranges: Vec<LoggingRange> =
            ranges.iter().map(|&(iova, length)| LoggingRange::new(iova, length)).collect();
        let ranges = LoggingRanges::new(&ranges);
        let mut ops = vec![
            FeatureOp::Probe { feature, get, set },
            FeatureOp::GetMigration,
            FeatureOp::GetDeviceState,
            FeatureOp::SetDeviceState { state, data_fd },
            FeatureOp::SetLoggingStart { page_size: page, ranges },
            FeatureOp::SetLoggingStop,
        ];
        if page <= length && bitmap_len(length, page).unwrap() < 1 << 31 {
            ops.push(FeatureOp::GetLoggingReport { iova, length, page_size: page });
        }
        for op in ops {
            let mut request = FeatureRequest::new(op);
            request.argsz = request.argsz.saturating_add(more);
            prop_assert_eq!(request.op.feature(), op.feature());
            check_request(Request::DeviceFeature(request));
        }

        let length = length.min(page.saturating_mul(200));
        let bitmap = vec![0x5a; bitmap_len(length, page).unwrap() as usize];
        for result in [
            FeatureResult::Probe { feature, get, set },
            FeatureResult::GetMigration { flags: MigrationFlags::from_bits_retain(iova) },
            FeatureResult::GetDeviceState { state, data_fd },
            FeatureResult::SetDeviceState { state, data_fd },
            FeatureResult::SetLoggingStart { page_size: page, ranges },
            FeatureResult::SetLoggingStop,
            FeatureResult::GetLoggingReport { iova, length, page_size: page, bitmap: &bitmap },
        ] {
            check_reply(Reply::DeviceFeature(FeatureReply::new(result)));
            check_reply(Reply::DeviceFeature(FeatureReply { argsz: more, result }));
        }
    }

    #[test]
    fn migration_data(size in 0..=u32::MAX - 8, data in data()) {
        check_request(Request::MigDataRead(MigDataReadRequest { size }));
        check_reply(Reply::MigDataRead(MigDataReadReply { data: &data }));
        check_request(Request::MigDataWrite(MigDataWriteRequest { data: &data }));
        check_reply(Reply::MigDataWrite);
    }

    #[test]
    fn headers(id in any::<u16>(), flags in any::<u32>(), words in any::<[u32; 2]>(), command in any::<u16>()) {
        let header = Header { id, command, size: words[0], flags, error: words[1] };
        prop_assert_eq!(Header::parse(&header.emit()), header);
    }
}
