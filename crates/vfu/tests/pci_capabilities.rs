//! The capability list, and the registers of each capability.

use vfu::pci::{
    Bar, ConfigSize, ConfigSpace, Effects, Msi, MsixAt, MsixState, Pci, Pin, PowerState, regs,
};

fn device() -> Pci {
    Pci::endpoint(0x1234, 1)
        .bar(0, Bar::mem32(1 << 16))
        .intx(Pin::A)
        .pm()
        .msi(4)
        .msix(20)
        .pcie_endpoint()
        .vendor_capability([0xaa, 0xbb])
}

fn read<const N: usize>(space: &ConfigSpace, at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    space.read(at, &mut bytes);
    bytes
}

fn word(space: &ConfigSpace, at: usize) -> u16 {
    u16::from_le_bytes(read(space, at))
}

fn dword(space: &ConfigSpace, at: usize) -> u32 {
    u32::from_le_bytes(read(space, at))
}

/// Follows the list as software does.
fn walk(space: &ConfigSpace) -> Vec<(u8, usize)> {
    let mut list = Vec::new();
    let [mut at] = read(space, regs::CAPABILITIES_POINTER);
    while at != 0 {
        assert!(at >= 0x40 && at % 4 == 0 && list.len() < 48, "broken at {at:#x}");
        let [id, next] = read(space, at.into());
        list.push((id, usize::from(at)));
        at = next;
    }
    list
}

fn find(space: &ConfigSpace, id: u8) -> usize {
    walk(space).into_iter().find(|cap| cap.0 == id).expect("in the list").1
}

/// Writes all ones and returns the bits that took it, then zeros.
fn sticky(space: &mut ConfigSpace, at: usize) -> u32 {
    let _ = space.write(at, &[0; 4]);
    let zeros = dword(space, at);
    let _ = space.write(at, &[0xff; 4]);
    let ones = dword(space, at);
    let _ = space.write(at, &[0; 4]);
    zeros ^ ones
}

#[test]
fn the_list_is_in_the_order_of_the_calls() {
    let space = device().build().unwrap();
    let expected = [(1, 0x40), (5, 0x48), (0x11, 0x58), (0x10, 0x64), (9, 0xa0)];
    assert_eq!(walk(&space), expected);
    let lengths: Vec<_> = space.capabilities().map(|(id, at, len)| ((id, at), len)).collect();
    let lens = [8, 14, 12, 60, 5];
    assert_eq!(lengths, expected.into_iter().zip(lens).collect::<Vec<_>>());
    assert_eq!(read(&space, 0xa0), [9, 0, 5, 0xaa, 0xbb, 0]);
    assert_ne!(word(&space, regs::STATUS) & regs::STATUS_CAPABILITIES, 0);
}

#[test]
fn a_raw_capability_has_the_authors_mask() {
    let pci = Pci::endpoint(1, 2).capability(0x13, [0x11, 0x22, 0x33], [0x0f, 0xff]);
    let mut space = pci.build().unwrap();
    let _ = space.write(0x40, &[0xff; 8]);
    assert_eq!(read(&space, 0x40), [0x13, 0, 0x1f, 0xff, 0x33, 0, 0, 0]);
    space.reset();
    assert_eq!(read(&space, 0x40), [0x13, 0, 0x11, 0x22, 0x33, 0, 0, 0]);
}

#[test]
fn extended_capabilities_are_linked_from_0x100() {
    let pci = Pci::endpoint(1, 2)
        .pcie_endpoint()
        .extended_capability(0x0003, 1, [1, 2, 3, 4, 5, 6, 7, 8], [])
        .extended_capability(0x000b, 2, [0xee; 5], [0xff]);
    let mut space = pci.build().unwrap();
    assert_eq!(dword(&space, 0x100), 0x10c1_0003);
    assert_eq!(dword(&space, 0x10c), 0x0002_000b);
    let list: Vec<_> = space.extended_capabilities().collect();
    assert_eq!(list, [(3, 0x100, 12), (0x0b, 0x10c, 9)]);
    let _ = space.write(0x10c, &[0; 16]);
    assert_eq!(read(&space, 0x10c), [0x0b, 0, 2, 0, 0, 0xee, 0xee, 0xee, 0xee, 0, 0, 0]);
}

#[test]
fn power_states() {
    let mut space = device().build().unwrap();
    let pm = find(&space, regs::CAP_PM);
    assert_eq!(word(&space, pm + regs::PM_CAPABILITIES), 0x0003);
    assert_eq!(word(&space, pm + regs::PM_CONTROL), 0x0008, "No_Soft_Reset");
    assert_eq!(sticky(&mut space, pm + regs::PM_CAPABILITIES), 0x0003_0000, "PowerState only");

    let moved = |from, to| Effects { power_state: Some((from, to)), ..Effects::default() };
    let control = pm + regs::PM_CONTROL;
    let effects = space.write(control, &[0x03, 0x00]);
    assert_eq!(effects, moved(PowerState::D0, PowerState::D3Hot));
    assert_eq!(space.power_state(), PowerState::D3Hot);
    for unsupported in [0x01, 0x02] {
        assert!(space.write(control, &[unsupported]).is_empty());
        assert_eq!(space.power_state(), PowerState::D3Hot);
    }
    assert_eq!(space.write(control, &[0]), moved(PowerState::D3Hot, PowerState::D0));
    let _ = space.write(control, &[3]);
    space.reset();
    assert_eq!(space.power_state(), PowerState::D0);
}

#[test]
fn a_raw_power_capability_may_offer_d1() {
    // PMC: version 3, D1_Support. PowerState writable.
    let body = [0x03, 0x02, 0, 0, 0, 0];
    let mut space = Pci::endpoint(1, 2).capability(1, body, [0, 0, 0xff]).build().unwrap();
    let _ = space.write(0x44, &[1]);
    assert_eq!(space.power_state(), PowerState::D1);
    assert!(space.write(0x44, &[2]).is_empty(), "D2 is not offered");
    assert_eq!(space.power_state(), PowerState::D1);
    assert!(space.write(0x44, &[0x81]).is_empty(), "another bit, the same state");
    assert!(space.write(0x44, &[0x02]).is_empty());
    assert_eq!(read(&space, 0x44), [0x01], "the rest of such a write is taken");
}

#[test]
fn msi_in_its_four_forms() {
    for (address64, per_vector_mask, len) in
        [(false, false, 10), (true, false, 14), (false, true, 20), (true, true, 24)]
    {
        let asked = Msi { vectors: 8, address64, per_vector_mask };
        let mut space = Pci::endpoint(1, 2).msi_with(asked).build().unwrap();
        assert_eq!(space.capabilities().next(), Some((5, 0x40, len)));
        let control = 0x0006 | u16::from(address64) << 7 | u16::from(per_vector_mask) << 8;
        assert_eq!(word(&space, 0x42), control);
        assert!(space.write(0x44, &[0xff; 64]).msi_changed);
        let state = space.msi().unwrap();
        assert_eq!(state.address, if address64 { !3 } else { 0xffff_fffc });
        assert_eq!(state.data, 0xffff);
        assert_eq!(state.masked, if per_vector_mask { 0xff } else { 0 });
        assert_eq!((state.address64, state.per_vector_mask), (address64, per_vector_mask));
        for vector in [0, 7, 8, 255] {
            space.set_msi_pending(vector, true);
        }
        let expected = if per_vector_mask { 0x81 } else { 0 };
        assert_eq!(space.msi().unwrap().pending, expected);
        let _ = space.write(0x40, &[0; 24]);
        assert_eq!(space.msi().unwrap().pending, expected, "read-only for software");
        let saved = space.to_vec();
        space.reset();
        assert_eq!(space.msi().unwrap().pending, 0);
        space.restore(&saved).unwrap();
        assert_eq!(space.msi().unwrap().pending, expected);
        if per_vector_mask {
            // A Pending Bit of vector 8, which is not there.
            let mut saved = saved;
            saved[0x40 + len - 3] = 1;
            assert!(space.restore(&saved).is_err());
        }
    }
}

#[test]
fn msi_grants_no_more_than_was_asked_for() {
    for (vectors, log) in [(1, 0), (2, 1), (4, 2), (8, 3), (16, 4), (32, 5)] {
        let mut space = Pci::endpoint(1, 2).msi(vectors).build().unwrap();
        assert_eq!(space.msi().unwrap().vectors_supported, vectors);
        for granted in 0..8u8 {
            let _ = space.write(0x42, &[granted << 4 | 1]);
            let state = space.msi().unwrap();
            assert!(state.enabled);
            assert_eq!(state.vectors_enabled, 1 << granted.min(log));
        }
        assert!(space.write(0x42, &[0]).msi_changed);
        assert!(!space.msi().unwrap().enabled);
    }
}

#[test]
fn msix_control_and_places() {
    let at = MsixAt { table: (0, 0x2000), pba: (0, 0x3008) };
    let pci = Pci::endpoint(1, 2).bar(0, Bar::mem32(1 << 14)).msix_at(33, at);
    let mut space = pci.build().unwrap();
    let (table, pba) = (at.table, at.pba);
    let off = MsixState { vectors: 33, enabled: false, function_mask: false, table, pba };
    assert_eq!(space.msix(), Some(off));
    assert_eq!(space.msix_bar(), None, "the author's BAR");
    assert_eq!((off.table_len(), off.pba_len()), (528, 8));
    assert_eq!(word(&space, 0x42), 32);
    let changed = Effects { msix_changed: true, ..Effects::default() };
    assert_eq!(space.write(0x40, &[0xff; 12]), changed);
    assert_eq!(space.msix(), Some(MsixState { enabled: true, function_mask: true, ..off }));
    assert_eq!(space.write(0x43, &[0x80]), changed);
    assert_eq!(space.msix(), Some(MsixState { enabled: true, ..off }));
    assert!(space.write(0x42, &[0xff]).is_empty(), "table size");
    space.reset();
    assert_eq!(space.msix(), Some(off));
}

#[test]
fn pci_express_registers() {
    let mut space = device().build().unwrap();
    let pcie = find(&space, regs::CAP_PCIE);
    for (at, reset, mask) in [
        (0x04, 0x1000_8020, 0),           // Device Capabilities
        (0x08, 0x2810, 0x791f),           // Device Control; Status is RW1C
        (0x0c, 0x0040_0011, 0),           // Link Capabilities
        (0x10, 0x0011_0000, 0x0000_00cb), // Link Control, Status
        (0x14, 0, 0),                     // slot and root registers
        (0x18, 0, 0),
        (0x1c, 0, 0),
        (0x20, 0, 0),
        (0x24, 0x10, 0), // Device Capabilities 2
        (0x28, 0, 0x10), // Device Control 2, Status 2
        (0x2c, 2, 0),    // Link Capabilities 2
        (0x30, 0, 0),
        (0x34, 0, 0),
        (0x38, 0, 0),
    ] {
        assert_eq!(dword(&space, pcie + at), reset, "{at:#x}");
        assert_eq!(sticky(&mut space, pcie + at), mask, "{at:#x}");
    }
    assert_eq!(word(&space, pcie + 2), 0x0002, "version 2, endpoint");
}

#[test]
fn device_status() {
    let mut space = device().build().unwrap();
    let status = find(&space, regs::CAP_PCIE) + regs::DEVICE_STATUS;
    space.raise(status, 0xffff);
    space.set_transactions_pending(true);
    assert_eq!(word(&space, status), 0x002f);
    let _ = space.write(status, &[0x02, 0xff]);
    assert_eq!(word(&space, status), 0x002d);
    let _ = space.write(status, &[0xff]);
    assert_eq!(word(&space, status), 0x0020);
    let saved = space.to_vec();
    space.reset();
    assert_eq!(word(&space, status), 0);
    space.restore(&saved).unwrap();
    assert_eq!(word(&space, status), 0x0020);
    space.set_transactions_pending(false);
    assert_eq!(word(&space, status), 0);
}

#[test]
fn function_level_reset() {
    let mut space = device().build().unwrap();
    let fresh = space.to_vec();
    let control = find(&space, regs::CAP_PCIE) + regs::DEVICE_CONTROL;
    let _ = space.write(regs::COMMAND, &[0x06]);
    let _ = space.write(regs::BAR0, &[0xff; 4]);

    let flr = Effects { flr: true, ..Effects::default() };
    let [low, high] = word(&space, control).to_le_bytes();
    assert_eq!(space.write(control, &[low, high | 0x80]), flr);
    assert_eq!(word(&space, control), 0x2810, "reads 0");
    assert!(space.bus_master(), "the owner resets, not the write");
    assert_eq!(space.write(control + 1, &[0xa8]), flr, "byte-wise, and again");
    assert!(space.write(control, &[0x80]).is_empty(), "not the bit");
    space.reset();
    assert_eq!(space.to_vec(), fresh);
}

#[test]
fn a_raw_express_capability_without_flr_has_none() {
    let mut body = [0; 0x12];
    body[0] = 0x02;
    let mut space = Pci::endpoint(1, 2).capability(0x10, body, [0xff; 0x12]).build().unwrap();
    assert_eq!(space.size(), 4096);
    assert!(!space.write(0x48, &[0, 0x80]).flr);
    assert_eq!(word(&space, 0x48), 0, "and the bit still reads 0");
}

#[test]
fn express_in_a_small_space() {
    let pci = Pci::endpoint(1, 2).pcie_endpoint().config_size(ConfigSize::Conventional);
    assert_eq!(pci.build().unwrap().size(), 256);
    let pci = Pci::endpoint(1, 2).config_size(ConfigSize::Extended);
    assert_eq!(pci.build().unwrap().size(), 4096);
}
