//! Any write, at any offset, of any length: never an error, never a read-only bit.

use proptest::prelude::*;
use vfu::pci::{
    Bar, ConfigSize, ConfigSpace, Effects, Field, Msi, Pci, Pin, Pm, RawCapability, SnapshotError,
};

fn devices() -> Vec<ConfigSpace> {
    let plain = Pci::endpoint(0x1234, 1);
    let msi = Msi { vectors: 8, address64: true, per_vector_mask: true };
    let full = Pci::endpoint(0x1234, 2)
        .bar(0, Bar::mem32(4096))
        .bar(2, Bar::mem64(1 << 33))
        .bar(5, Bar::io(16))
        .intx(Pin::A)
        .pm()
        .msi_with(msi)
        .msix(20)
        .pcie_endpoint()
        .vendor_capability([1, 2, 3])
        .capability(0x13, [0; 4], [0xff, 0x0f]);
    let extended = full.clone().extended_capability(3, 1, [1; 8], [0xf0, 0x0f]);
    let small = full.clone().config_size(ConfigSize::Conventional);
    const MIB: u64 = 1 << 20;
    let rich = Pci::endpoint(0x1234, 3)
        .bar(0, Bar::mem64(16 * MIB))
        .bar(2, Bar::mem32(2 * MIB))
        .rom(vec![0x55; 5000])
        .pm_with(Pm { d1: true, d2: false, pme_support: 0b11001, no_soft_reset: false })
        .pcie_endpoint()
        .resizable_bar(0, [MIB, 16 * MIB, MIB << 20])
        .resizable_bar(2, [MIB, 2 * MIB])
        .aer()
        .vendor_extended(7, 1, RawCapability::new([]).field(0, 4, MIXED));
    [plain, full, extended, small, rich].iter().map(|pci| pci.build().unwrap()).collect()
}

const MIXED: Field = Field::new(0x55).rw(0xf0).rw1c(0xf00).driven(0xf000).sticky(0xff0);

fn offsets() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0usize..0x120,
        1 => 0xff0usize..0x1010,
        1 => Just(usize::MAX),
        1 => usize::MAX - 8..usize::MAX,
        1 => any::<usize>(),
    ]
}

fn writes() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    let value = prop_oneof![any::<u8>(), Just(0xff), Just(0)];
    prop::collection::vec((offsets(), prop::collection::vec(value, 0..24)), 0..40)
}

fn raise_everything(space: &mut ConfigSpace) {
    for at in 0..space.size() {
        space.raise(at, 0xffff);
    }
}

const FLAGS: usize = 10;

fn flags(e: Effects) -> [bool; FLAGS] {
    [
        e.bus_master_changed,
        e.decode_changed,
        e.bars_changed,
        e.bar_sizes_changed,
        e.rom_changed,
        e.intx_disable_changed,
        e.msi_changed,
        e.msix_changed,
        e.soft_reset,
        e.flr,
    ]
}

proptest! {
    #[test]
    fn read_only_bits_stay(writes in writes(), device in 0usize..5) {
        let mut space = devices().swap_remove(device);
        raise_everything(&mut space);
        let before = space.to_vec();
        for (offset, data) in &writes {
            let _ = space.write(*offset, data);
            let mut back = vec![0; data.len()];
            space.read(*offset, &mut back);
        }
        for (at, (old, new)) in before.iter().zip(space.to_vec()).enumerate() {
            prop_assert_eq!((old ^ new) & !space.writable_bits(at), 0, "byte {:#x}", at);
        }
        // Whatever software wrote is a state that can be saved and put back.
        let saved = space.to_vec();
        let mut twin = devices().swap_remove(device);
        twin.restore(&saved).unwrap();
        prop_assert_eq!(twin.to_vec(), saved);
        // And reset undoes all of it.
        space.reset();
        prop_assert_eq!(space.to_vec(), devices().swap_remove(device).to_vec());
    }

    #[test]
    fn any_split_of_a_write_is_the_same_write(
        offset in offsets(),
        data in prop::collection::vec(any::<u8>(), 0..64),
        cuts in prop::collection::vec(1usize..8, 64),
        device in 0usize..5,
    ) {
        let mut whole = devices().swap_remove(device);
        let mut parts = devices().swap_remove(device);
        raise_everything(&mut whole);
        raise_everything(&mut parts);
        let once = whole.write(offset, &data);
        let (mut at, mut bits) = (0, [false; FLAGS]);
        for cut in cuts {
            let Some(place) = offset.checked_add(at) else { break };
            let piece = &data[at..data.len().min(at + cut)];
            let now = flags(parts.write(place, piece));
            for (bit, now) in bits.iter_mut().zip(now) {
                *bit |= now;
            }
            at += piece.len();
        }
        prop_assert_eq!(whole.to_vec(), parts.to_vec());
        prop_assert_eq!(bits, flags(once));
    }

    #[test]
    fn a_read_in_parts_is_the_read_of_the_whole(
        offset in 0usize..0x1100,
        len in 0usize..64,
        device in 0usize..5,
    ) {
        let space = devices().swap_remove(device);
        let mut whole = vec![0x55; len];
        space.read(offset, &mut whole);
        for (i, byte) in whole.iter().enumerate() {
            let mut one = [0x55];
            space.read(offset + i, &mut one);
            prop_assert_eq!(one[0], *byte);
        }
    }

    #[test]
    fn restore_never_takes_what_a_write_cannot_make(
        flips in prop::collection::vec((0usize..4096, any::<u8>()), 1..6),
        device in 0usize..5,
    ) {
        let mut space = devices().swap_remove(device);
        let reset = space.to_vec();
        let mut saved = reset.clone();
        for (at, bits) in flips {
            if let Some(byte) = saved.get_mut(at % 0x120) {
                *byte ^= bits;
            }
        }
        match space.restore(&saved) {
            Ok(()) => {
                prop_assert_eq!(space.to_vec(), saved);
                if let Some(msi) = space.msi() {
                    prop_assert!(msi.vectors_enabled <= msi.vectors_supported);
                }
            }
            Err(_) => prop_assert_eq!(space.to_vec(), reset),
        }
    }
}

#[test]
fn the_ends_of_the_space() {
    for (mut space, size) in devices().into_iter().zip([256, 4096, 4096, 256, 4096]) {
        assert_eq!(space.size(), size);
        let mut bytes = [0x55; 8];
        space.read(size - 4, &mut bytes);
        assert_eq!(bytes, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        space.read(usize::MAX, &mut bytes);
        assert_eq!(bytes, [0xff; 8]);
        space.read(usize::MAX, &mut []);
        let before = space.to_vec();
        for offset in [size - 4, size, size + 1, usize::MAX - 3, usize::MAX] {
            assert!(space.write(offset, &[0xff; 16]).is_empty());
        }
        assert_eq!(space.to_vec(), before);
    }
}

#[test]
fn the_extended_space_is_empty_without_capabilities() {
    let space = Pci::endpoint(1, 2).pcie_endpoint().build().unwrap();
    assert_eq!(space.size(), 4096);
    assert!(space.to_vec()[0x100..].iter().all(|&byte| byte == 0));
}

#[test]
fn restore_says_what_differs() {
    let mut here = Pci::endpoint(1, 2).pm().msi(4).build().unwrap();
    let refused = |here: &mut ConfigSpace, at: usize, value: u8| {
        let mut saved = here.to_vec();
        saved[at] = value;
        here.restore(&saved).unwrap_err()
    };
    assert_eq!(here.restore(&[0; 9]), Err(SnapshotError::Size { saved: 9, here: 256 }));
    let differs = SnapshotError::Differs { offset: 2, saved: 3, here: 2, mutable: 0 };
    assert_eq!(refused(&mut here, 2, 3), differs);
    // PowerState D1, which this device has not; Multiple Message Enable beyond what was asked for.
    assert_eq!(refused(&mut here, 0x44, 9), SnapshotError::Impossible { offset: 0x44, saved: 9 });
    let impossible = SnapshotError::Impossible { offset: 0x4a, saved: 0xb4 };
    assert_eq!(refused(&mut here, 0x4a, 0xb4), impossible);
    here.set_interrupt_status(true);
    let saved = here.to_vec();
    here.reset();
    assert!(!here.interrupt_status());
    here.restore(&saved).unwrap();
    assert!(here.interrupt_status());
}
