//! The type 0 header, register by register: reset value and writable bits, at every width.

use vfu::pci::{Bar, ConfigSpace, Pci, Pin, regs};

fn device() -> Pci {
    Pci::endpoint(0x1234, 0xabcd)
        .revision(7)
        .class(0x05_80_01)
        .subsystem(0x1af4, 0x1100)
        .bar(0, Bar::mem32(4096))
        .bar(2, Bar::mem64(1 << 33).prefetchable())
        .bar(4, Bar::io(256))
        .intx(Pin::B)
        .pm()
}

/// Name, offset, width, value after reset, bits that take any written value. The RW1C bits of Status
/// have tests of their own.
const HEADER: &[(&str, usize, usize, u32, u32)] = &[
    ("Vendor ID", 0x00, 2, 0x1234, 0),
    ("Device ID", 0x02, 2, 0xabcd, 0),
    ("Command", 0x04, 2, 0, 0x0547),
    ("Status", 0x06, 2, 0x0010, 0),
    ("Revision ID", 0x08, 1, 7, 0),
    ("Class Code, interface", 0x09, 1, 0x01, 0),
    ("Class Code, sub-class", 0x0a, 1, 0x80, 0),
    ("Class Code, base class", 0x0b, 1, 0x05, 0),
    ("Cache Line Size", 0x0c, 1, 0, 0xff),
    ("Latency Timer", 0x0d, 1, 0, 0xff),
    ("Header Type", 0x0e, 1, 0, 0),
    ("BIST", 0x0f, 1, 0, 0),
    ("BAR 0", 0x10, 4, 0, 0xffff_f000),
    ("BAR 1, unused", 0x14, 4, 0, 0),
    ("BAR 2, low", 0x18, 4, 0xc, 0),
    ("BAR 3, high half of 2", 0x1c, 4, 0, 0xffff_fffe),
    ("BAR 4", 0x20, 4, 1, 0xffff_ff00),
    ("BAR 5, unused", 0x24, 4, 0, 0),
    ("CardBus CIS Pointer", 0x28, 4, 0, 0),
    ("Subsystem Vendor ID", 0x2c, 2, 0x1af4, 0),
    ("Subsystem ID", 0x2e, 2, 0x1100, 0),
    ("Expansion ROM Base Address", 0x30, 4, 0, 0),
    ("Capabilities Pointer", 0x34, 1, 0x40, 0),
    ("reserved", 0x35, 1, 0, 0),
    ("reserved", 0x36, 2, 0, 0),
    ("reserved", 0x38, 4, 0, 0),
    ("Interrupt Line", 0x3c, 1, 0, 0xff),
    ("Interrupt Pin", 0x3d, 1, 2, 0),
    ("Min_Gnt", 0x3e, 1, 0, 0),
    ("Max_Lat", 0x3f, 1, 0, 0),
];

fn read(space: &ConfigSpace, at: usize, width: usize) -> u32 {
    let mut bytes = [0; 4];
    space.read(at, &mut bytes[..width]);
    u32::from_le_bytes(bytes)
}

/// Writes `fill` over the whole header in steps of `width`, starting at `start`.
fn flood(space: &mut ConfigSpace, start: usize, width: usize, fill: u8) {
    let _ = space.write(0, &vec![fill; start]);
    for at in (start..0x40).step_by(width) {
        let _ = space.write(at, &vec![fill; width.min(0x40 - at)]);
    }
}

#[test]
fn the_table_covers_the_header() {
    let mut next = 0;
    for &(name, at, width, ..) in HEADER {
        assert_eq!(at, next, "{name}");
        next = at + width;
    }
    assert_eq!(next, 0x40);
}

#[test]
fn reset_values() {
    let space = device().build().unwrap();
    for &(name, at, width, reset, _) in HEADER {
        assert_eq!(read(&space, at, width), reset, "{name}");
    }
}

#[test]
fn writable_bits_at_every_width_and_alignment() {
    for width in [1, 2, 3, 4, 8, 64] {
        for start in 0..4 {
            let mut space = device().build().unwrap();
            flood(&mut space, start, width, 0xff);
            for &(name, at, len, reset, mask) in HEADER {
                let context = format!("{name}: ones, width {width} from {start}");
                assert_eq!(read(&space, at, len), reset | mask, "{context}");
            }
            flood(&mut space, start, width, 0);
            for &(name, at, len, reset, _) in HEADER {
                let context = format!("{name}: zeros, width {width} from {start}");
                assert_eq!(read(&space, at, len), reset, "{context}");
            }
        }
    }
}

#[test]
fn the_masks_that_are_reported_are_the_masks_that_hold() {
    let space = device().build().unwrap();
    for &(name, at, width, _, mask) in HEADER {
        let mut reported = [0; 4];
        for (i, byte) in reported.iter_mut().take(width).enumerate() {
            *byte = space.writable_bits(at + i);
        }
        let rw1c = if at == regs::STATUS { u32::from(regs::STATUS_ERRORS) } else { 0 };
        assert_eq!(u32::from_le_bytes(reported), mask | rw1c, "{name}");
    }
}

#[test]
fn a_space_is_enabled_only_if_a_bar_is_in_it() {
    let bars = |bars: &[(usize, Bar)]| {
        let pci = bars.iter().fold(Pci::endpoint(1, 2), |pci, &(index, bar)| pci.bar(index, bar));
        let mut space = pci.build().unwrap();
        let _ = space.write(regs::COMMAND, &[0xff, 0xff]);
        (space.io_enabled(), space.memory_enabled())
    };
    assert_eq!(bars(&[]), (false, false));
    assert_eq!(bars(&[(0, Bar::io(4))]), (true, false));
    assert_eq!(bars(&[(3, Bar::mem32(16))]), (false, true));
    assert_eq!(bars(&[(0, Bar::mem64(16)), (5, Bar::io(8))]), (true, true));
}

#[test]
fn command_effects_and_queries() {
    let mut space = device().build().unwrap();
    assert!(!space.bus_master() && !space.memory_enabled() && !space.intx_disabled());

    let effects = space.write(regs::COMMAND, &[0x07, 0x04]);
    assert!(effects.bus_master_changed && effects.decode_changed && effects.intx_disable_changed);
    assert!(!effects.bars_changed && !effects.msi_changed && !effects.flr);
    assert!(space.bus_master() && space.memory_enabled() && space.io_enabled());
    assert!(space.intx_disabled());

    assert!(space.write(regs::COMMAND, &[0x07, 0x04]).is_empty(), "nothing new");
    let effects = space.write(regs::COMMAND, &[0x03]);
    assert!(effects.bus_master_changed && !effects.decode_changed);
    assert!(
        space.write(regs::COMMAND, &[0x43, 0x05]).is_empty(),
        "parity and SERR# concern nobody"
    );
}

#[test]
fn status_errors_are_cleared_by_writing_one() {
    let mut space = device().build().unwrap();
    space.raise(regs::STATUS, 0xffff);
    assert_eq!(read(&space, 0x06, 2), 0xf910, "only the error bits rise");
    assert!(space.write(regs::STATUS, &[0, 0]).is_empty());
    assert_eq!(read(&space, 0x06, 2), 0xf910, "zeros clear nothing");
    let _ = space.write(regs::STATUS, &[0, 0x20]);
    assert_eq!(read(&space, 0x06, 2), 0xd910);
    let _ = space.write(regs::COMMAND, &[0, 0, 0xff, 0xff]);
    assert_eq!(read(&space, 0x06, 2), 0x0010);
}

#[test]
fn interrupt_status_is_the_devices() {
    let mut space = device().build().unwrap();
    assert_eq!(space.interrupt_pin(), Some(Pin::B));
    space.set_interrupt_status(true);
    let _ = space.write(regs::STATUS, &[0xff, 0xff]);
    assert!(space.interrupt_status());
    assert_eq!(read(&space, 0x06, 2), 0x0018);
    space.set_interrupt_status(false);
    assert!(!space.interrupt_status());
    assert_eq!(read(&space, 0x06, 2), 0x0010);
}

#[test]
fn no_capabilities_no_list() {
    let space = Pci::endpoint(1, 2).build().unwrap();
    assert_eq!(read(&space, 0x06, 2), 0, "Capabilities List is clear");
    assert_eq!(read(&space, 0x34, 1), 0);
    assert_eq!(space.capabilities().count(), 0);
    assert_eq!(space.interrupt_pin(), None);
}

#[test]
fn the_latency_timer_is_hardwired_on_pci_express() {
    let mut space = device().pcie_endpoint().build().unwrap();
    let _ = space.write(regs::LATENCY_TIMER, &[0xff]);
    assert_eq!(read(&space, regs::LATENCY_TIMER, 1), 0);
}
