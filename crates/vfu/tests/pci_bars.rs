//! Base Address Registers: sizing and programming as an operating system does it.

use vfu::pci::{Bar, BarInfo, BarKind, ConfigSpace, Pci, regs};

fn dword(space: &ConfigSpace, at: usize) -> u32 {
    let mut bytes = [0; 4];
    space.read(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

/// Writes all ones and takes the size from what reads back (PCI 6.2.5.1).
fn size_of(space: &mut ConfigSpace, index: usize) -> u64 {
    let at = regs::BAR0 + 4 * index;
    let _ = space.write(at, &[0xff; 4]);
    let low = dword(space, at);
    if low & 1 != 0 {
        return u64::from(!(low & !3)) + 1;
    }
    let mut mask = u64::from(low & !0xf) | 0xffff_ffff << 32;
    if low & 0b110 == 0b100 {
        let _ = space.write(at + 4, &[0xff; 4]);
        mask = u64::from(low & !0xf) | u64::from(dword(space, at + 4)) << 32;
    }
    (!mask).wrapping_add(1)
}

#[test]
fn every_size_of_every_kind() {
    let sizes = |range: std::ops::RangeInclusive<u32>| range.map(|shift| 1u64 << shift);
    let io = sizes(2..=16).map(Bar::io);
    let mem32 = sizes(4..=31).map(Bar::mem32);
    let mem64 = sizes(4..=63).map(Bar::mem64);
    let kinds = [BarKind::Io, BarKind::Mem32, BarKind::Mem64];
    let mut seen = [0; 3];
    for bar in io.chain(mem32).chain(mem64) {
        for index in [0, 1, 4] {
            let mut space = Pci::endpoint(1, 2).bar(index, bar).build().unwrap();
            let BarInfo { kind, size, address, .. } = space.bar(index).unwrap();
            assert_eq!(address, 0);
            assert_eq!(size_of(&mut space, index), size, "{bar:?} at {index}");
            seen[kinds.iter().position(|k| *k == kind).unwrap()] += 1;
        }
    }
    assert_eq!(seen, [15 * 3, 28 * 3, 60 * 3]);
}

#[test]
fn type_bits() {
    for (bar, low) in [
        (Bar::io(32), 0b0001),
        (Bar::mem32(32), 0b0000),
        (Bar::mem32(32).prefetchable(), 0b1000),
        (Bar::mem64(32), 0b0100),
        (Bar::mem64(32).prefetchable(), 0b1100),
    ] {
        let mut space = Pci::endpoint(1, 2).bar(0, bar).build().unwrap();
        assert_eq!(dword(&space, regs::BAR0), low);
        let _ = space.write(regs::BAR0, &[0xff; 4]);
        assert_eq!(dword(&space, regs::BAR0), 0xffff_ffe0 | low);
        let _ = space.write(regs::BAR0, &[0; 4]);
        assert_eq!(dword(&space, regs::BAR0), low);
    }
}

#[test]
fn programmed_addresses() {
    let mut space = Pci::endpoint(1, 2)
        .bar(0, Bar::io(64))
        .bar(1, Bar::mem32(1 << 20))
        .bar(4, Bar::mem64(1 << 40).prefetchable())
        .build()
        .unwrap();
    assert!(space.write(regs::BAR0, &0xc07f_u32.to_le_bytes()).bars_changed);
    let _ = space.write(regs::BAR0 + 4, &0xfeb1_2345_u32.to_le_bytes());
    let _ = space.write(regs::BAR0 + 16, &0x0000_8a00_dead_beef_u64.to_le_bytes());
    let info = |index| space.bar(index).unwrap();
    assert_eq!(info(0).address, 0xc040);
    assert_eq!(info(1).address, 0xfeb0_0000);
    assert_eq!(
        info(4),
        BarInfo {
            kind: BarKind::Mem64,
            prefetchable: true,
            size: 1 << 40,
            address: 0x0000_8a00_0000_0000
        }
    );
    for index in [2, 3, 5, 6, usize::MAX] {
        assert_eq!(space.bar(index), None, "{index}");
    }
}

#[test]
fn only_a_change_is_an_effect() {
    let mut space = Pci::endpoint(1, 2).bar(0, Bar::mem32(4096)).build().unwrap();
    assert!(space.write(regs::BAR0, &[0xff, 0x0f, 0, 0]).is_empty(), "below the size");
    assert!(space.write(regs::BAR0, &[0, 0x10, 0, 0]).bars_changed);
    assert!(space.write(regs::BAR0, &[0, 0x10, 0, 0]).is_empty(), "the same again");
    assert!(space.write(regs::BAR0 + 4, &[0xff; 20]).is_empty(), "unused BARs");
    assert!(space.write(regs::EXPANSION_ROM, &[0xff; 4]).is_empty());
}

#[test]
fn msix_takes_the_lowest_free_index() {
    let base = Pci::endpoint(1, 2).msix(20);
    let place = |pci: &Pci| {
        let space = pci.build().unwrap();
        let (bar, msix) = (space.msix_bar().unwrap(), space.msix().unwrap());
        assert_eq!((msix.table.0, msix.pba.0), (bar, bar));
        let info = space.bar(bar).unwrap();
        assert_eq!(info.kind, BarKind::Mem32);
        assert!(msix.table.1 + msix.table_len() <= msix.pba.1);
        assert!(msix.pba.1 + msix.pba_len() <= info.size);
        bar
    };
    assert_eq!(place(&base), 0);
    // Bars given after msix() count too.
    let base = base.bar(0, Bar::mem64(4096));
    assert_eq!(place(&base), 2);
    assert_eq!(place(&base.clone().bar(2, Bar::io(8)).bar(3, Bar::io(8))), 4);
    assert_eq!(place(&base.bar(2, Bar::mem64(4096)).bar(4, Bar::io(8))), 5);
    for vectors in [1, 64, 65, 255, 256, 257, 2048] {
        place(&Pci::endpoint(1, 2).msix(vectors));
    }
}
