//! Descriptions that are refused, and what the refusal says.

use vfu::pci::{Bar, BarKind, MsixAt, MsixPart, Pci, PciError};

fn base() -> Pci {
    Pci::endpoint(1, 2)
}

fn msix(table: (usize, u64), pba: (usize, u64)) -> Pci {
    base()
        .bar(0, Bar::mem32(0x1000))
        .bar(1, Bar::io(256))
        .bar(2, Bar::mem64(1 << 40))
        .msix_at(64, MsixAt { table, pba })
}

#[test]
fn each_case() {
    use BarKind::{Io, Mem32, Mem64};
    use MsixPart::{Pba, Table};
    use PciError as E;
    let cases = [
        (Pci::endpoint(0xffff, 2), E::VendorId),
        (base().class(0x0100_0000), E::Class { class: 0x0100_0000 }),
        (base().bar(6, Bar::mem32(16)), E::BarIndex { index: 6 }),
        (base().bar(1, Bar::mem32(16)).bar(1, Bar::io(4)), E::BarTwice { index: 1 }),
        (base().bar(0, Bar::mem32(0)), E::BarTooSmall { index: 0, kind: Mem32, size: 0, min: 16 }),
        (base().bar(0, Bar::mem64(8)), E::BarTooSmall { index: 0, kind: Mem64, size: 8, min: 16 }),
        (base().bar(0, Bar::io(2)), E::BarTooSmall { index: 0, kind: Io, size: 2, min: 4 }),
        (
            base().bar(0, Bar::mem32(1 << 32)),
            E::BarTooLarge { index: 0, kind: Mem32, size: 1 << 32, max: 1 << 31 },
        ),
        (
            base().bar(0, Bar::io(1 << 17)),
            E::BarTooLarge { index: 0, kind: Io, size: 1 << 17, max: 1 << 16 },
        ),
        (
            base().bar(0, Bar::mem64(u64::MAX)),
            E::BarTooLarge { index: 0, kind: Mem64, size: u64::MAX, max: 1 << 63 },
        ),
        (base().bar(3, Bar::mem32(4097)), E::BarNotPowerOfTwo { index: 3, size: 4097, next: 8192 }),
        (base().bar(3, Bar::io(4).prefetchable()), E::BarPrefetchableIo { index: 3 }),
        (base().bar(5, Bar::mem64(16)), E::BarNoUpperHalf { index: 5 }),
        (
            base().bar(3, Bar::mem32(16)).bar(2, Bar::mem64(16)),
            E::BarOverlap { lower: 2, index: 3 },
        ),
        (base().pm().pm(), E::CapabilityTwice { id: 1 }),
        (base().msi(1).msi(2), E::CapabilityTwice { id: 5 }),
        (base().msix(1).msix(2), E::CapabilityTwice { id: 0x11 }),
        (base().pcie_endpoint().pcie_endpoint(), E::CapabilityTwice { id: 0x10 }),
        (base().capability(1, [0; 5], []), E::CapabilityTooShort { id: 1, len: 7, min: 8 }),
        (
            base().capability(5, [0x80, 0, 0, 0], []),
            E::CapabilityTooShort { id: 5, len: 6, min: 14 },
        ),
        (base().capability(5, [], []), E::CapabilityTooShort { id: 5, len: 2, min: 4 }),
        (base().capability(0x11, [0; 2], []), E::CapabilityTooShort { id: 0x11, len: 4, min: 12 }),
        (base().capability(0x10, [0; 2], []), E::CapabilityTooShort { id: 0x10, len: 4, min: 12 }),
        (base().pm().vendor_capability([0; 182]), E::CapabilityRoom { id: 9, len: 185, left: 184 }),
        (base().vendor_capability([0; 999]), E::CapabilityRoom { id: 9, len: 1002, left: 192 }),
        (base().extended_capability(3, 1, [0; 8], []), E::ExtendedRoom { id: 3, len: 12, left: 0 }),
        (
            base().pcie_endpoint().extended_capability(3, 1, [0; 3837], []),
            E::ExtendedRoom { id: 3, len: 3841, left: 3840 },
        ),
        (base().extended_capability(3, 16, [0; 8], []), E::ExtendedVersion { id: 3, version: 16 }),
        (base().capability(7, [0; 2], [0; 3]), E::WriteMask { id: 7, body: 2, mask: 3 }),
        (base().msi(0), E::MsiVectors { vectors: 0 }),
        (base().msi(3), E::MsiVectors { vectors: 3 }),
        (base().msi(64), E::MsiVectors { vectors: 64 }),
        (base().capability(5, [0x0c; 12], []), E::MsiVectors { vectors: 64 }),
        (base().msix(0), E::MsixVectors { vectors: 0 }),
        (base().msix(2049), E::MsixVectors { vectors: 2049 }),
        (
            base().bar(0, Bar::mem64(16)).bar(2, Bar::mem64(16)).bar(4, Bar::mem64(16)).msix(1),
            E::MsixNoFreeBar,
        ),
        (msix((6, 0), (0, 0)), E::MsixBar { part: Table, bar: 6 }),
        (msix((0, 0), (4, 0)), E::MsixBar { part: Pba, bar: 4 }),
        (msix((1, 0), (0, 0)), E::MsixBar { part: Table, bar: 1 }),
        (msix((3, 0), (0, 0)), E::MsixBar { part: Table, bar: 3 }),
        (msix((0, 4), (0, 0)), E::MsixUnaligned { part: Table, bar: 0, offset: 4 }),
        (msix((0, 0), (0, 0x801)), E::MsixUnaligned { part: Pba, bar: 0, offset: 0x801 }),
        (
            msix((0, 0xc08), (0, 0)),
            E::MsixOutside { part: Table, bar: 0, offset: 0xc08, len: 0x400, size: 0x1000 },
        ),
        (
            msix((0, 0), (0, 0x1000)),
            E::MsixOutside { part: Pba, bar: 0, offset: 0x1000, len: 8, size: 0x1000 },
        ),
        (
            msix((2, 1 << 32), (0, 0)),
            E::MsixOutside { part: Table, bar: 2, offset: 1 << 32, len: 0x400, size: 1 << 32 },
        ),
        (
            msix((0, 0x400), (0, 0x7f8)),
            E::MsixOverlap { bar: 0, table: 0x400, table_len: 0x400, pba: 0x7f8, pba_len: 8 },
        ),
    ];
    for (pci, expected) in cases {
        let error = pci.build().expect_err("refused");
        assert_eq!(error, expected);
        let text = error.to_string();
        assert!(text.len() > 30 && !text.contains('\n') && !text.contains("  "), "{text}");
    }
}

#[test]
fn the_limits_themselves_are_fine() {
    let ok = |pci: Pci| assert!(pci.build().is_ok(), "{pci:?}");
    ok(base().bar(0, Bar::io(4)).bar(1, Bar::io(1 << 16)).bar(5, Bar::mem32(1 << 31)));
    ok(base().bar(4, Bar::mem64(1 << 63)).bar(0, Bar::mem64(16)));
    ok(base().class(0x00ff_ffff).msi(32).msix(2048));
    ok(base().pm().vendor_capability([0; 181]));
    ok(base().pcie_endpoint().extended_capability(3, 15, [0; 3836], []));
    ok(base().vendor_capability([1]).vendor_capability([2]).capability(7, [], []));
    ok(msix((0, 0), (0, 0x400)));
    ok(msix((0, 8), (0, 0)));
    ok(msix((2, 0xffff_fff8), (2, 0)));
    ok(msix((2, 0), (0, 0)));
}

#[test]
fn a_message_says_what_to_change() {
    let error = base().bar(3, Bar::mem32(4097)).build().unwrap_err();
    let text = "BAR 3 of 0x1001 bytes is not a power of two; round it up to 0x2000";
    assert_eq!(error.to_string(), text);
}
