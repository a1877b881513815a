//! What configuration space does beyond keeping bits: the ROM, BARs that change size, error logs,
//! power states that reset, sticky bits.

use vfu::pci::{
    Bar, ConfigSpace, Effects, ErrorMessage, Field, Pci, Pm, PowerState, RawCapability, RomInfo,
    SnapshotError, regs,
};

const MIB: u64 = 1 << 20;

fn dword(space: &ConfigSpace, at: usize) -> u32 {
    let mut bytes = [0; 4];
    space.read(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn write(space: &mut ConfigSpace, at: usize, value: u32) -> Effects {
    space.write(at, &value.to_le_bytes())
}

fn find(space: &ConfigSpace, id: u16) -> usize {
    space.extended_capabilities().find(|cap| cap.0 == id).expect("there").1
}

#[test]
fn the_rom_is_sized_like_a_bar_and_reads_its_image() {
    for (len, size) in [(1, 2048), (2048, 2048), (2049, 4096), (65536, 65536), (16 << 20, 16 << 20)]
    {
        let mut image = vec![0x11; len];
        image[0] = 0x55;
        let mut space = Pci::endpoint(1, 2).rom(image).build().unwrap();
        let changed = Effects { rom_changed: true, ..Effects::default() };
        assert_eq!(write(&mut space, regs::EXPANSION_ROM, 0xffff_f800), changed);
        let sizing = dword(&space, regs::EXPANSION_ROM);
        assert_eq!(!sizing + 1, size, "as QEMU and Linux size it");
        assert_eq!(write(&mut space, regs::EXPANSION_ROM, 0xfe00_0001), changed);
        let (size, image_len) = (u64::from(size), len as u64);
        let (address, enabled, has_signature) = (0xfe00_0000, true, false);
        let info = RomInfo { size, image_len, address, enabled, has_signature };
        assert_eq!(space.rom(), Some(info));
        assert!(write(&mut space, regs::EXPANSION_ROM, 0xfe00_07ff).is_empty(), "reserved bits");

        let mut bytes = [0; 4];
        space.read_rom(0, &mut bytes);
        assert_eq!(bytes[0], 0x55);
        space.read_rom(image_len - 1, &mut bytes);
        assert_eq!(bytes, [if len == 1 { 0x55 } else { 0x11 }, 0xff, 0xff, 0xff], "erased");
        for outside in [image_len, size, u64::MAX] {
            space.read_rom(outside, &mut bytes);
            assert_eq!(bytes, [0xff; 4]);
        }
    }
}

#[test]
fn memory_space_can_be_enabled_for_the_rom_alone() {
    let mut space = Pci::endpoint(1, 2).rom([0x55, 0xaa]).build().unwrap();
    assert!(space.rom().unwrap().has_signature);
    let _ = space.write(regs::COMMAND, &[0xff]);
    assert!(space.memory_enabled() && !space.io_enabled());
    let none = Pci::endpoint(1, 2).build().unwrap();
    assert_eq!(none.rom(), None);
    let mut bytes = [0; 2];
    none.read_rom(0, &mut bytes);
    assert_eq!(bytes, [0xff; 2]);
}

fn resizable() -> ConfigSpace {
    Pci::endpoint(1, 2)
        .pcie_endpoint()
        .bar(0, Bar::mem64(256 * MIB).prefetchable())
        .bar(2, Bar::mem32(MIB))
        .resizable_bar(0, [MIB, 256 * MIB, MIB << 13, MIB << 43])
        .resizable_bar(2, [MIB, 2 * MIB])
        .build()
        .unwrap()
}

/// Writes BAR Size of the first (0) or second (1) resizable BAR.
fn resize(space: &mut ConfigSpace, which: usize, field: u8) -> Effects {
    let at = find(space, regs::EXT_REBAR) + regs::REBAR_CONTROL + 8 * which;
    let control = dword(space, at) & !0x3f00 | u32::from(field) << 8;
    write(space, at, control)
}

fn sizing(space: &mut ConfigSpace) -> u64 {
    let _ = space.write(regs::BAR0, &[0xff; 8]);
    let mask = u64::from(dword(space, regs::BAR0) & !0xf) | u64::from(dword(space, 0x14)) << 32;
    (!mask).wrapping_add(1)
}

#[test]
fn a_bar_is_resized() {
    let mut space = resizable();
    let changed = Effects { bars_changed: true, bar_sizes_changed: true, ..Effects::default() };
    assert_eq!(sizing(&mut space), 256 * MIB);
    for (field, size) in [(0, MIB), (43, MIB << 43), (13, MIB << 13), (8, 256 * MIB)] {
        assert_eq!(resize(&mut space, 0, field), changed);
        assert_eq!(space.bar(0).unwrap().size, size);
        assert_eq!(sizing(&mut space), size);
        assert_eq!(dword(&space, regs::BAR0) & 0xf, 0xc, "its kind is the same");
        assert!(resize(&mut space, 0, field).is_empty(), "the same again");
    }
    for field in [1, 7, 9, 12, 27, 28, 42, 44, 63] {
        assert!(resize(&mut space, 0, field).is_empty(), "{field} is not supported");
    }
    assert_eq!(space.bar(0).unwrap().size, 256 * MIB);
    assert_eq!(space.bar(2).unwrap().size, MIB);
    assert_eq!(resize(&mut space, 1, 1), changed);
    assert_eq!(space.bar(2).unwrap().size, 2 * MIB);
}

#[test]
fn a_bar_that_is_decoded_keeps_its_size() {
    let mut space = resizable();
    let _ = write(&mut space, 0x18, 0xfe10_0000);
    let _ = space.write(regs::COMMAND, &[0x02]);
    assert!(resize(&mut space, 1, 1).is_empty());
    assert_eq!(space.bar(2).unwrap().size, MIB);
    let _ = space.write(regs::COMMAND, &[0x00]);
    assert!(resize(&mut space, 1, 1).bar_sizes_changed);
    assert_eq!(space.bar(2).unwrap().address, 0xfe00_0000, "the bits below the size have gone");
}

#[test]
fn every_reset_ends_a_resizing() {
    for reset in [ConfigSpace::reset, ConfigSpace::reset_function] {
        let mut space = resizable();
        let fresh = space.to_vec();
        let _ = resize(&mut space, 0, 0);
        let _ = sizing(&mut space);
        reset(&mut space);
        assert_eq!(space.to_vec(), fresh);
        assert_eq!(sizing(&mut space), 256 * MIB);
    }
}

#[test]
fn a_resized_space_is_saved_and_restored() {
    let mut there = resizable();
    let _ = resize(&mut there, 0, 0);
    let _ = space_address(&mut there);
    let saved = there.to_vec();
    let mut here = resizable();
    here.restore(&saved).unwrap();
    assert_eq!(here.to_vec(), saved);
    assert_eq!(here.bar(0), there.bar(0));
    assert_eq!(sizing(&mut here), MIB);
    // And the other way: an address of a small BAR is impossible in a large one.
    let at = find(&here, regs::EXT_REBAR) + regs::REBAR_CONTROL + 1;
    let mut bad = saved.clone();
    bad[at] = 8;
    let before = here.to_vec();
    let error = here.restore(&bad).unwrap_err();
    assert!(matches!(error, SnapshotError::Differs { offset: 0x12, .. }), "{error}");
    for unsupported in [1, 63] {
        bad[at] = unsupported;
        let error = here.restore(&bad).unwrap_err();
        assert_eq!(error, SnapshotError::Impossible { offset: at, saved: unsupported });
    }
    assert_eq!(here.to_vec(), before);
}

/// An address that only a BAR of 1 MiB can have.
fn space_address(space: &mut ConfigSpace) -> Effects {
    space.write(regs::BAR0, &0x0000_0040_0010_0000_u64.to_le_bytes())
}

fn with_aer() -> ConfigSpace {
    Pci::endpoint(1, 2).pcie_endpoint().aer().build().unwrap()
}

const HEADER: [u32; 4] = [0x4000_0001, 0x0100_000f, 0xfebf_0000, 0xdead_beef];
const COMPLETION_TIMEOUT: u8 = 14;
const MALFORMED: u8 = 18;
const UNSUPPORTED: u8 = 20;
const INTERNAL: u8 = 22;

#[test]
fn the_first_uncorrectable_error_keeps_the_log() {
    let mut space = with_aer();
    let aer = find(&space, regs::EXT_AER);
    assert_eq!(space.raise_uncorrectable(UNSUPPORTED, HEADER), None, "nobody wants to hear of it");
    let log = |space: &ConfigSpace| [0, 4, 8, 12].map(|i| dword(space, aer + 0x1c + i));
    let status = |space: &ConfigSpace| dword(space, aer + regs::AER_UNCORRECTABLE_STATUS);
    let first = |space: &ConfigSpace| dword(space, aer + regs::AER_CONTROL) & 0x1f;
    assert_eq!((status(&space), first(&space), log(&space)), (1 << 20, 20, HEADER));
    assert_eq!(dword(&space, 0x48) >> 16, 0x000a, "Device Status: non-fatal, unsupported request");

    let _ = space.raise_uncorrectable(MALFORMED, [7; 4]);
    assert_eq!((status(&space), first(&space), log(&space)), (1 << 20 | 1 << 18, 20, HEADER));
    assert_eq!(dword(&space, 0x48) >> 16, 0x000e, "and fatal");
    let _ = write(&mut space, aer + regs::AER_UNCORRECTABLE_STATUS, 1 << 20);
    let _ = space.raise_uncorrectable(COMPLETION_TIMEOUT, [8; 4]);
    assert_eq!((first(&space), log(&space)), (14, [8; 4]));

    // The log is sticky; Device Status is not.
    space.reset_function();
    assert_eq!((status(&space), first(&space), log(&space)), (1 << 18 | 1 << 14, 14, [8; 4]));
    assert_eq!(dword(&space, 0x48) >> 16, 0);
    let saved = space.to_vec();
    space.reset();
    assert_eq!((status(&space), first(&space), log(&space)), (0, 0, [0; 4]));
    space.restore(&saved).unwrap();
    assert_eq!(log(&space), [8; 4]);
}

#[test]
fn a_masked_error_is_only_noted() {
    let mut space = with_aer();
    let aer = find(&space, regs::EXT_AER);
    let _ = space.write(0x48, &[0x0f]); // Device Control: all reporting enabled
    assert_eq!(space.raise_uncorrectable(INTERNAL, HEADER), None, "masked at power-on");
    assert_eq!(dword(&space, aer + regs::AER_UNCORRECTABLE_STATUS), 1 << 22);
    assert_eq!(dword(&space, aer + regs::AER_HEADER_LOG), 0);
    assert_eq!(space.raise_correctable(13), None, "advisory: masked at power-on");
    assert_eq!(dword(&space, aer + regs::AER_CORRECTABLE_STATUS), 1 << 13);
    assert_eq!(dword(&space, 0x48) >> 16, 0x0005);
    for error in [0, 5, 19, 21, 31, 32, 255] {
        assert_eq!(space.raise_uncorrectable(error, HEADER), None, "there is no such error");
    }
    assert_eq!(dword(&space, aer + regs::AER_UNCORRECTABLE_STATUS), 1 << 22);
    let mut none = Pci::endpoint(1, 2).pcie_endpoint().build().unwrap();
    let before = none.to_vec();
    assert_eq!(none.raise_uncorrectable(MALFORMED, HEADER), None);
    assert_eq!(none.raise_correctable(0), None);
    assert_eq!(none.to_vec(), before);
}

#[test]
fn who_hears_of_an_error() {
    use ErrorMessage::{Correctable, Fatal, NonFatal};
    // Command, SERR# Enable; Device Control: correctable, non-fatal, fatal, unsupported request.
    for (serr, control, cor, timeout, malformed, unsupported) in [
        (false, 0b0000, None, None, None, None),
        (false, 0b0001, Some(Correctable), None, None, None),
        (false, 0b0010, None, Some(NonFatal), None, None),
        (false, 0b0100, None, None, Some(Fatal), None),
        (false, 0b1000, None, None, None, None),
        (false, 0b1010, None, Some(NonFatal), None, Some(NonFatal)),
        (true, 0b0000, None, Some(NonFatal), Some(Fatal), Some(NonFatal)),
        (true, 0b1111, Some(Correctable), Some(NonFatal), Some(Fatal), Some(NonFatal)),
    ] {
        let mut space = with_aer();
        let _ = space.write(regs::COMMAND, &[0, u8::from(serr)]);
        let _ = space.write(0x48, &[control]);
        assert_eq!(space.raise_correctable(0), cor);
        assert_eq!(dword(&space, 4) >> 16 & 0x4000, 0);
        assert_eq!(space.raise_uncorrectable(COMPLETION_TIMEOUT, HEADER), timeout);
        assert_eq!(space.raise_uncorrectable(MALFORMED, HEADER), malformed);
        assert_eq!(space.raise_uncorrectable(UNSUPPORTED, HEADER), unsupported);
        let signaled = dword(&space, 4) >> 16 & 0x4000 != 0;
        assert_eq!(signaled, serr, "Signaled System Error");
    }
    // Severity is the driver's to say.
    let mut space = with_aer();
    let aer = find(&space, regs::EXT_AER);
    let _ = space.write(0x48, &[0x0f]);
    let _ = write(&mut space, aer + regs::AER_UNCORRECTABLE_SEVERITY, 1 << 14);
    assert_eq!(space.raise_uncorrectable(COMPLETION_TIMEOUT, HEADER), Some(Fatal));
    assert_eq!(space.raise_uncorrectable(MALFORMED, HEADER), Some(NonFatal));
}

#[test]
fn leaving_d3hot_without_no_soft_reset_is_a_reset() {
    use PowerState::{D0, D1, D2, D3Hot};
    let pm = Pm { d1: true, d2: true, pme_support: 0b01000, no_soft_reset: false };
    let mut space = Pci::endpoint(1, 2).pm_with(pm).build().unwrap();
    let mut moved = |state: u8, from, to, soft_reset| {
        let effects = space.write(0x44, &[state]);
        let power_state = Some((from, to));
        assert_eq!(effects, Effects { power_state, soft_reset, ..Effects::default() });
    };
    moved(1, D0, D1, false);
    moved(2, D1, D2, false);
    moved(0, D2, D0, false);
    moved(3, D0, D3Hot, false);
    moved(0, D3Hot, D0, true);

    // PME_En and PME_Status outlast it.
    let _ = space.write(0x44, &[3, 1]);
    space.raise(0x44, regs::PM_CONTROL_PME_STATUS);
    let _ = space.write(regs::INTERRUPT_LINE, &[9]);
    assert!(space.write(0x44, &[0]).soft_reset);
    space.reset_function();
    assert_eq!(dword(&space, 0x44), 0x8100);
    assert_eq!(dword(&space, regs::INTERRUPT_LINE) & 0xff, 0);

    let mut kept = Pci::endpoint(1, 2).pm().build().unwrap();
    let _ = kept.write(0x44, &[3]);
    let effects = kept.write(0x44, &[0]);
    assert_eq!((effects.power_state, effects.soft_reset), (Some((D3Hot, D0)), false));
    // A capability of the author's has the same rule.
    let raw = RawCapability::new([3, 0, 0, 0, 0, 0]).writable([0, 0, 3]);
    let mut raw = Pci::endpoint(1, 2).capability_at(0x80, 1, raw).build().unwrap();
    let _ = raw.write(0x84, &[3]);
    assert!(raw.write(0x84, &[0]).soft_reset);
}

#[test]
fn only_driven_bits_are_driven() {
    let body = RawCapability::new([0xf0; 4]).field(1, 2, Field::new(0).rw(0x00ff).driven(0xff00));
    let mut space = Pci::endpoint(1, 2).raw_capability(0x13, body).build().unwrap();
    space.drive(0x40, &[0xff; 8]);
    assert_eq!(dword(&space, 0x40) >> 16, 0x00f0);
    assert_eq!(dword(&space, 0x44), 0xf0ff);
    space.drive(0x44, &[0x12]);
    assert_eq!(dword(&space, 0x44), 0xf012);
    space.drive(usize::MAX, &[0; 4]);
    space.drive(0xfff, &[0; 4]);
}

#[test]
fn fields_define_the_body_they_reach() {
    let body = RawCapability::new([1]).field(3, 2, Field::new(0x1_2345).rw(0xffff));
    let expected = RawCapability::new([1, 0, 0, 0x45, 0x23])
        .writable([0, 0, 0, 0xff, 0xff])
        .write_one_to_clear([0; 5])
        .sticky([0; 5])
        .driven([0; 5]);
    assert_eq!(body, expected);
}
