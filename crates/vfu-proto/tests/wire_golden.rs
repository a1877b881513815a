//! Bytes captured from real peers, parsed and where they could be ours
//! emitted again.

use vfu_proto::wire::*;

/// Reads `"2000 0300"` as bytes.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|char| char.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[track_caller]
fn request(text: &str, expected: Request<'_>) {
    let bytes = hex(text);
    assert_eq!(Request::parse(expected.command(), &bytes), Ok(expected));
    let mut out = Vec::new();
    expected.emit(&mut out);
    assert_eq!(out, bytes);
}

#[track_caller]
fn reply(text: &str, expected: Reply<'_>) {
    let bytes = hex(text);
    assert_eq!(Reply::parse(expected.command(), &bytes).as_ref(), Ok(&expected));
    let mut out = Vec::new();
    expected.emit(&mut out);
    assert_eq!(out, bytes);
}

const QEMU_JSON: &str = concat!(
    r#"{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "#,
    r#""max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "#,
    r#""pgsize": 4096}, "write_multiple": true}}"#
);

const LIBVFIO_USER_JSON: &str = concat!(
    r#"{ "capabilities": { "max_msg_fds": 8, "max_data_xfer_size": 1048576, "#,
    r#""migration": { "pgsize": 4096 }, "twin_socket": { "supported": true, "fd_index": 0 } } }"#
);

#[test]
fn version_of_qemu() {
    let head = hex("0000 0100 d6000000 00000000 00000000");
    let header = Header::parse(head.as_slice().try_into().unwrap());
    assert_eq!(header, Header::command(0, Command::Version, 198));
    assert_eq!(header.emit(), head.as_slice());
    assert_eq!(QEMU_JSON.len() + 1, 194);

    let payload = [&[0; 4], QEMU_JSON.as_bytes(), b"\0"].concat();
    let caps = Capabilities {
        max_msg_fds: Some(16),
        max_data_xfer_size: Some(1048576),
        max_dma_maps: Some(65535),
        pgsizes: Some(4096),
        migration: Some(MigrationCaps { pgsize: Some(4096), max_bitmap_size: Some(268435456) }),
        twin_socket: None,
        write_multiple: Some(true),
        sparse_mmap_fds: None,
        whole_replies: None,
    };
    assert_eq!(Version::parse(&payload), Ok(Version::new(0, 0, caps)));
}

#[test]
fn version_of_libvfio_user() {
    let payload = [&[0; 4], LIBVFIO_USER_JSON.as_bytes(), b"\0"].concat();
    let caps = Capabilities {
        max_msg_fds: Some(8),
        max_data_xfer_size: Some(1048576),
        migration: Some(MigrationCaps { pgsize: Some(4096), max_bitmap_size: None }),
        twin_socket: Some(TwinSocket { supported: true, fd_index: Some(0) }),
        ..Capabilities::default()
    };
    assert_eq!(Version::parse(&payload), Ok(Version::new(0, 0, caps)));
}

#[test]
fn dma_map() {
    request(
        "20000000 03000000 0000000000000000 0000000000000000 00000c0000000000",
        Request::DmaMap(DmaMap {
            flags: DmaMapFlags::READ | DmaMapFlags::WRITE,
            offset: 0,
            address: 0,
            size: 0xc0000,
        }),
    );
    request(
        "20000000 01000000 0000000000000000 00000c0000000000 0000020000000000",
        Request::DmaMap(DmaMap {
            flags: DmaMapFlags::READ,
            offset: 0,
            address: 0xc0000,
            size: 0x20000,
        }),
    );
}

#[test]
fn device_info() {
    request(
        "10000000 00000000 00000000 00000000",
        Request::DeviceGetInfo(DeviceInfoRequest::new()),
    );
    reply(
        "10000000 03000000 09000000 05000000",
        Reply::DeviceGetInfo(DeviceInfo {
            flags: DeviceFlags::RESET | DeviceFlags::PCI,
            num_regions: 9,
            num_irqs: 5,
        }),
    );
}

#[test]
fn region_info() {
    request(
        "20000000 00000000 07000000 00000000 0000000000000000 0000000000000000",
        Request::DeviceGetRegionInfo(RegionInfoRequest { argsz: 32, index: 7 }),
    );
    let info = RegionInfo {
        flags: RegionFlags::READ | RegionFlags::WRITE | RegionFlags::MMAP,
        index: 1,
        size: 0x4000,
        offset: 0,
        capabilities: vec![RegionCapability::SparseMmap(vec![
            Area { offset: 0, size: 0x1000 },
            Area { offset: 0x2000, size: 0x1000 },
        ])],
        needed_argsz: None,
    };
    reply(
        "50000000 0f000000 01000000 20000000 0040000000000000 0000000000000000
         0100 0100 00000000 02000000 00000000 0000000000000000 0010000000000000
         0020000000000000 0010000000000000",
        Reply::DeviceGetRegionInfo(info.clone()),
    );

    // The first, short answer: no capabilities, no fd, but the size to ask again with.
    let mut short = Vec::new();
    assert!(!info.emit_for(32, &mut short));
    assert_eq!(short, hex("50000000 07000000 01000000 00000000 0040000000000000 0000000000000000"));
    let cut = RegionInfo { capabilities: Vec::new(), needed_argsz: Some(80), ..info.clone() };
    assert_eq!(RegionInfo::parse(&short), Ok(cut));
    for (argsz, complete) in [(79, false), (80, true), (u32::MAX, true)] {
        let mut out = Vec::new();
        assert_eq!(info.emit_for(argsz, &mut out), complete);
        assert_eq!(out.len(), if complete { 80 } else { 32 });
    }
}

#[test]
fn region_access() {
    request(
        "0000000000000000 07000000 00010000",
        Request::RegionRead(RegionReadRequest { offset: 0, region: 7, count: 256 }),
    );
    let data = 0xfffff800u32.to_le_bytes();
    request(
        "3000000000000000 07000000 04000000 00f8ffff",
        Request::RegionWrite(RegionWriteRequest { offset: 0x30, region: 7, data: &data }),
    );
    reply(
        "3000000000000000 07000000 04000000",
        Reply::RegionWrite(RegionWriteReply { offset: 0x30, region: 7, count: 4 }),
    );
    reply(
        "3000000000000000 07000000 04000000 00f8ffff",
        Reply::RegionRead(RegionReadReply { offset: 0x30, region: 7, data: &data }),
    );
}

#[test]
fn write_multi() {
    let entries = [WriteEntry::new(0x5c, 0, &[0x17, 5, 0, 0]).unwrap()];
    request(
        "0100000000000000 5c00000000000000 00000000 04000000 1705000000000000",
        Request::RegionWriteMulti(WriteMulti::new(&entries)),
    );
}

#[test]
fn set_irqs() {
    let assign = SetIrqs {
        index: 0,
        start: 0,
        count: 1,
        action: IrqAction::Trigger,
        data: IrqData::EventFd,
    };
    request("14000000 24000000 00000000 00000000 01000000", Request::DeviceSetIrqs(assign));
    let disable = SetIrqs { count: 0, data: IrqData::None, ..assign };
    request("14000000 21000000 00000000 00000000 00000000", Request::DeviceSetIrqs(disable));
    assert!(disable.disables() && !assign.disables());
}

#[test]
fn dma_access() {
    request(
        "0000100000000000 1000000000000000",
        Request::DmaRead(DmaReadRequest { address: 0x100000, count: 16 }),
    );
    reply(
        "0000100000000000 1000000000000000 000102030405060708090a0b0c0d0e0f",
        Reply::DmaRead(DmaReadReply {
            address: 0x100000,
            data: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        }),
    );
    reply("0000100000000000 0800000000000000", Reply::DmaWrite(DmaWriteReply::new(0x100000, 8)));
    request(
        "0000100000000000 0200000000000000 abcd",
        Request::DmaWrite(DmaWriteRequest { address: 0x100000, data: &[0xab, 0xcd] }),
    );
}

#[test]
fn dma_write_replies_of_old_clients() {
    let short = hex("0000100000000000 08000000");
    assert_eq!(DmaWriteReply::parse(&short), Ok(DmaWriteReply::new(0x100000, 8)));
    assert_eq!(DmaWriteReply::parse(&[]), Ok(DmaWriteReply { address: None, count: None }));
    for len in (1..16).filter(|&len| len != 12) {
        assert_eq!(DmaWriteReply::parse(&[0; 16][..len]), Err(Errno::EINVAL), "{len} bytes");
    }
}

#[test]
fn features() {
    reply(
        "10000000 01000100 0500000000000000",
        Reply::DeviceFeature(FeatureReply::new(FeatureResult::GetMigration {
            flags: MigrationFlags::STOP_COPY | MigrationFlags::PRE_COPY,
        })),
    );
    reply(
        "10000000 02000100 02000000 00000000",
        Reply::DeviceFeature(FeatureReply::new(FeatureResult::GetDeviceState {
            state: DeviceState::Running,
            data_fd: 0,
        })),
    );
    reply(
        "28000000 08000100 0000010000000000 0000010000000000 0010000000000000 0000000000000000",
        Reply::DeviceFeature(FeatureReply::new(FeatureResult::GetLoggingReport {
            iova: 0x10000,
            length: 0x10000,
            page_size: 4096,
            bitmap: &[0; 8],
        })),
    );
}

#[test]
fn migration_data_with_padding() {
    let padded = hex("0b000000 03000000 787878 0000000000");
    assert_eq!(MigDataReadReply::parse(&padded), Ok(MigDataReadReply { data: b"xxx" }));
    let mut out = Vec::new();
    MigDataReadReply { data: b"xxx" }.emit(&mut out);
    assert_eq!(out, padded[..11]);
}
