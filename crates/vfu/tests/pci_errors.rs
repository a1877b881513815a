//! Descriptions that are refused, and what the refusal says.

use std::cell::RefCell;
use std::collections::BTreeSet;

use vfu::pci::{
    Ats, Bar, BarKind, MsixAt, MsixPart, Pasid, Pci, PciError, Pm, RawCapability, Sriov,
};

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

fn express() -> Pci {
    base().pcie_endpoint()
}

/// Each description is refused with its error, which says in one line what is wrong.
fn refused(cases: impl IntoIterator<Item = (Pci, PciError)>) {
    for (pci, expected) in cases {
        let error = pci.build().expect_err("refused");
        assert_eq!(error, expected);
        check_message(&error);
        SEEN.with_borrow_mut(|seen| seen.insert(name(&error)));
    }
}

/// One line, which ends with what to do.
fn check_message(error: &PciError) {
    const DEEDS: [&str; 16] = [
        "add", "describe", "drop", "free", "give", "keep", "leave", "make", "move", "offer", "put",
        "round", "shorten", "show", "set", "use",
    ];
    let text = error.to_string();
    assert!(text.len() > 30 && !text.contains('\n') && !text.contains("  "), "{text}");
    let (_what, deed) = text.split_once("; ").unwrap_or_else(|| panic!("what to do? {text}"));
    assert!(deed.split([' ', ',']).any(|word| DEEDS.contains(&word)), "what to do? {text}");
}

thread_local! {
    /// The variants that this thread has seen.
    static SEEN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// The name of the variant.
fn name(error: &PciError) -> String {
    let debug = format!("{error:?}");
    debug.split([' ', '(']).next().unwrap_or_default().to_owned()
}

/// Nothing can be wrong that none of the tables here shows.
#[test]
fn every_error_is_in_a_table() {
    each_case();
    the_rom();
    fixed_places();
    rules_of_raw_capabilities();
    resizable_bars();
    the_other_capabilities();
    let source = include_str!("../src/pci/error.rs");
    let (_, variants) = source.split_once("pub enum PciError {").expect("the enum");
    let all: BTreeSet<String> = variants
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| line.split([' ', ',', '(']).next().unwrap_or_default().to_owned())
        .collect();
    assert!(all.len() > 40, "{all:?}");
    SEEN.with_borrow(|seen| assert_eq!(*seen, all));
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
        (base().extended_capability(3, 1, [0; 8], []), E::ExtendedNoSpace { id: 3 }),
        (base().aer(), E::ExtendedNoSpace { id: 1 }),
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
    refused(cases);
}

#[test]
fn the_rom() {
    use PciError as E;
    refused([
        (base().rom([]), E::RomEmpty),
        (
            base().rom(vec![0; (16 << 20) + 1]),
            E::RomTooLarge { len: (16 << 20) + 1, max: 16 << 20 },
        ),
        (base().rom([0x55, 0xaa, 4]), E::RomCutShort { len: 3, claimed: 2048 }),
    ]);
}

#[test]
fn fixed_places() {
    use PciError as E;
    let raw = |len: usize| RawCapability::new(vec![0; len]);
    let wrong = |offset| E::CapabilityOffset { id: 7, offset, start: 0x40, end: 0x100 };
    let wrong_extended =
        |offset| E::CapabilityOffset { id: 0xb, offset, start: 0x100, end: 0x1000 };
    let extended = |offset| express().extended_capability_at(offset, 0xb, 1, raw(12));
    refused([
        (base().capability_at(0x3c, 7, raw(6)), wrong(0x3c)),
        (base().capability_at(0x42, 7, raw(6)), wrong(0x42)),
        (base().capability_at(0x100, 7, raw(6)), wrong(0x100)),
        (base().capability_at(0xf8, 7, raw(7)), E::CapabilityRoom { id: 7, len: 9, left: 8 }),
        (
            base().capability_at(0x40, 7, raw(7)).capability_at(0x48, 8, raw(2)),
            E::CapabilityOverlap { id: 8, offset: 0x48, len: 4, other: 7, other_offset: 0x40 },
        ),
        (
            base().capability_at(0x80, 7, raw(2)).capability_at(0x7c, 8, raw(6)),
            E::CapabilityOverlap { id: 8, offset: 0x7c, len: 8, other: 7, other_offset: 0x80 },
        ),
        // 60 bytes fit neither in front of it nor behind it.
        (
            base().capability_at(0x78, 7, raw(0x3e)).capability_at(0xc8, 8, raw(2)).pcie_endpoint(),
            E::CapabilityRoom { id: 0x10, len: 60, left: 56 },
        ),
        (extended(0xfc), wrong_extended(0xfc)),
        (extended(0x102), wrong_extended(0x102)),
        (extended(0x1000), wrong_extended(0x1000)),
        (extended(0xff4), E::ExtendedRoom { id: 0xb, len: 16, left: 12 }),
        (extended(0x104), E::ExtendedStart { first: 0x104 }),
        (
            extended(0x100).extended_capability_at(0x10c, 0xb, 1, raw(0)),
            E::CapabilityOverlap {
                id: 0xb,
                offset: 0x10c,
                len: 4,
                other: 0xb,
                other_offset: 0x100,
            },
        ),
    ]);
    // What has no place of its own goes around those that have.
    let space = base()
        .capability_at(0x48, 7, raw(2))
        .pm()
        .vendor_capability([0; 9])
        .capability_at(0xfc, 8, raw(2))
        .build()
        .unwrap();
    let list: Vec<_> = space.capabilities().map(|(id, at, _)| (id, at)).collect();
    assert_eq!(list, [(7, 0x48), (1, 0x40), (9, 0x4c), (8, 0xfc)]);
    let space =
        extended(0x200).aer().extended_capability_at(0xffc, 0xb, 1, raw(0)).build().unwrap();
    let list: Vec<_> = space.extended_capabilities().map(|(id, at, _)| (id, at)).collect();
    assert_eq!(list, [(1, 0x100), (0xb, 0x200), (0xb, 0xffc)]);
    let next = |at: usize| {
        let mut bytes = [0; 4];
        space.read(at, &mut bytes);
        u32::from_le_bytes(bytes) >> 20
    };
    assert_eq!([next(0x100), next(0x200), next(0xffc)], [0x200, 0xffc, 0]);
}

#[test]
fn rules_of_raw_capabilities() {
    use PciError as E;
    let raw = || RawCapability::new([0; 4]);
    let mask = |mask| E::WriteMask { id: 7, body: 4, mask };
    let conflict = |at, bits| E::RuleConflict { id: 7, at, bits };
    let add = |raw| base().raw_capability(7, raw);
    refused([
        (add(raw().writable([0; 5])), mask(5)),
        (add(raw().write_one_to_clear([0; 6])), mask(6)),
        (add(raw().sticky([0; 7])), mask(7)),
        (add(raw().driven([0; 8])), mask(8)),
        (add(raw().writable([0, 3]).write_one_to_clear([0, 6])), conflict(1, 2)),
        (add(raw().writable([1]).driven([1])), conflict(0, 1)),
        (add(raw().driven([0, 0, 0, 0xf0]).write_one_to_clear([0, 0, 0, 0x3f])), conflict(3, 0x30)),
    ]);
    assert!(
        add(raw().writable([1]).driven([2]).write_one_to_clear([4]).sticky([15])).build().is_ok()
    );
}

#[test]
fn resizable_bars() {
    use PciError as E;
    const MIB: u64 = 1 << 20;
    let bars =
        || express().bar(0, Bar::mem32(16 * MIB)).bar(2, Bar::mem64(1 << 45)).bar(4, Bar::io(4));
    let size =
        |index, size, kind: BarKind| E::ResizableSize { index, size, kind, max: kind.max_size() };
    refused([
        (bars().resizable_bar(1, [MIB]), E::ResizableNoBar { index: 1 }),
        (bars().resizable_bar(3, [MIB]), E::ResizableNoBar { index: 3 }),
        (bars().resizable_bar(9, [MIB]), E::ResizableNoBar { index: 9 }),
        (bars().resizable_bar(4, [MIB]), E::ResizableIo { index: 4 }),
        (bars().resizable_bar(0, [MIB / 2]), size(0, MIB / 2, BarKind::Mem32)),
        (bars().resizable_bar(0, [3 * MIB]), size(0, 3 * MIB, BarKind::Mem32)),
        (bars().resizable_bar(0, [1 << 32]), size(0, 1 << 32, BarKind::Mem32)),
        (
            bars().resizable_bar(0, [MIB, 32 * MIB]),
            E::ResizableDefault { index: 0, size: 16 * MIB },
        ),
        (bars().resizable_bar(0, []), E::ResizableDefault { index: 0, size: 16 * MIB }),
        (
            bars().bar(1, Bar::mem32(4096)).resizable_bar(1, [MIB]),
            E::ResizableDefault { index: 1, size: 4096 },
        ),
        (
            bars().resizable_bar(2, [1 << 45, 1 << 40]),
            E::ResizableTooLarge { index: 2, max: 1 << 39 },
        ),
        (
            bars().resizable_bar(0, [16 * MIB]).resizable_bar(0, [16 * MIB]),
            E::ResizableTwice { index: 0 },
        ),
        // MSI-X stays inside at every size.
        (
            bars()
                .resizable_bar(0, [MIB, 16 * MIB])
                .msix_at(1, MsixAt { table: (0, 2 * MIB), pba: (0, 0) }),
            E::MsixOutside { part: MsixPart::Table, bar: 0, offset: 2 * MIB, len: 16, size: MIB },
        ),
        (base().bar(0, Bar::mem32(MIB)).resizable_bar(0, [MIB]), E::ExtendedNoSpace { id: 0x15 }),
    ]);
}

#[test]
fn the_other_capabilities() {
    use PciError as E;
    let pm = |pm: Pm| base().pm_with(pm);
    let vf = |sriov: Sriov| express().sriov(sriov);
    let ats = |invalidate_queue| {
        express().ats(Ats { invalidate_queue, page_aligned: false, global_invalidate: false })
    };
    let inner = E::BarNotPowerOfTwo { index: 0, size: 4097, next: 8192 };
    let small = E::BarTooSmall { index: 1, kind: BarKind::Mem32, size: 2048, min: 4096 };
    refused([
        (pm(Pm { pme_support: 0b00010, ..Pm::default() }), E::PmeState { pme_support: 0b00010 }),
        (
            pm(Pm { d1: true, pme_support: 0b00110, ..Pm::default() }),
            E::PmeState { pme_support: 0b00110 },
        ),
        (pm(Pm { pme_support: 0x20, ..Pm::default() }), E::PmeState { pme_support: 0x20 }),
        (ats(0), E::AtsQueue { depth: 0 }),
        (ats(33), E::AtsQueue { depth: 33 }),
        (
            express().pasid(Pasid { width: 21, execute: false, privileged: false }),
            E::PasidWidth { width: 21 },
        ),
        (
            express().vendor_extended(7, 16, RawCapability::new([])),
            E::VendorRevision { vsec: 7, revision: 16 },
        ),
        (
            express().vendor_extended(7, 1, RawCapability::new([0; 0xef9])),
            E::ExtendedRoom { id: 0xb, len: 0xf01, left: 0xf00 },
        ),
        (
            express().vendor_extended(7, 1, RawCapability::new([0; 0xff8])),
            E::ExtendedRoom { id: 0xb, len: 0x1000, left: 0xf00 },
        ),
        (vf(Sriov::new(0, 1)), E::SriovNoVfs),
        (
            vf(Sriov::new(2, 1).routing(0, 1)),
            E::SriovRouting { total: 2, first_offset: 0, stride: 1 },
        ),
        (
            vf(Sriov::new(2, 1).routing(1, 0)),
            E::SriovRouting { total: 2, first_offset: 1, stride: 0 },
        ),
        (
            vf(Sriov::new(0xffff, 1).routing(2, 1)),
            E::SriovRouting { total: 0xffff, first_offset: 2, stride: 1 },
        ),
        (vf(Sriov::new(1, 1).bar(0, Bar::io(4))), E::VfBarIo { index: 0 }),
        (vf(Sriov::new(1, 1).bar(0, Bar::mem32(4097))), E::VfBar(Box::new(inner))),
        (vf(Sriov::new(1, 1).bar(1, Bar::mem32(2048))), E::VfBar(Box::new(small))),
        (
            vf(Sriov::new(1, 1).bar(6, Bar::mem32(4096))),
            E::VfBar(Box::new(E::BarIndex { index: 6 })),
        ),
        (express().aer().aer(), E::ExtendedTwice { id: 1 }),
        (express().serial_number(1).serial_number(1), E::ExtendedTwice { id: 3 }),
        (express().aer().extended_capability(1, 2, [0; 40], []), E::ExtendedTwice { id: 1 }),
    ]);
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
    ok(base().rom([0x55]).rom(vec![0; 16 << 20]));
    ok(express().vendor_extended(0xffff, 15, RawCapability::new([0; 0xef8])));
    ok(express().sriov(Sriov::new(0xfffe, 1).routing(2, 1).bar(0, Bar::mem64(1 << 40))));
    ok(base().pm_with(Pm { d1: true, d2: true, pme_support: 0x1f, no_soft_reset: false }));
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
