//! The memory of the MSI-X Table and the Pending Bit Array.

use proptest::prelude::*;
use vfu::pci::{MsixEntry, MsixTable};

fn table_bytes(table: &MsixTable) -> Vec<u8> {
    let mut bytes = vec![0x55; table.table_len() as usize];
    table.read(0, &mut bytes);
    bytes
}

#[test]
fn after_reset_all_is_masked_and_zero() {
    for vectors in [1, 2, 64, 65, 2048] {
        let mut table = MsixTable::new(vectors);
        assert_eq!(table.vectors(), vectors);
        assert_eq!(table.table_len(), u64::from(vectors) * 16);
        assert_eq!(table.pba_len(), u64::from(vectors).div_ceil(64) * 8);
        let fresh = table_bytes(&table);
        for entry in fresh.chunks(16) {
            assert_eq!(entry, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        }
        let _ = table.write(0, &vec![0xfe; fresh.len()]);
        table.set_pending(vectors - 1);
        table.reset();
        assert_eq!(table_bytes(&table), fresh);
        assert!(!table.is_pending(vectors - 1));
        assert!(table.is_masked(0) && table.is_masked(vectors - 1) && table.is_masked(vectors));
    }
}

#[test]
fn only_defined_bits_take_a_write() {
    let mut table = MsixTable::new(2);
    assert_eq!(table.write(16, &[0xff; 16]), 1..2);
    let mut entry = [0; 16];
    table.read(16, &mut entry);
    assert_eq!(entry[..4], [0xfc, 0xff, 0xff, 0xff]);
    assert_eq!(entry[4..12], [0xff; 8]);
    assert_eq!(entry[12..], [1, 0, 0, 0]);
    let expected = MsixEntry { address: !3, data: !0, masked: true };
    assert_eq!(table.entry(1), Some(expected));
    assert_eq!(table.entry(2), None);
}

#[test]
fn a_write_tells_whose_entry_changed() {
    let mut table = MsixTable::new(8);
    assert_eq!(table.write(3 * 16 + 12, &[0]), 3..4);
    assert!(!table.is_masked(3) && table.is_masked(2) && table.is_masked(4));
    assert!(table.write(3 * 16 + 12, &[0]).is_empty(), "no change");
    assert_eq!(table.write(2 * 16 + 12, &[0, 0, 0, 0, 4, 0, 0, 0]), 2..4, "across entries");
    assert_eq!(table.write(7 * 16 + 8, &[1; 100]), 7..8, "past the end");
    for offset in [128, 129, u64::MAX] {
        assert!(table.write(offset, &[0xff; 32]).is_empty());
    }
}

#[test]
fn pending_bits() {
    let mut table = MsixTable::new(70);
    for vector in [0, 9, 63, 64, 69, 70, u16::MAX] {
        table.set_pending(vector);
    }
    let mut pba = [0x55; 24];
    table.read_pba(0, &mut pba);
    let mut expected = [0; 24];
    (expected[0], expected[1], expected[7], expected[8]) = (1, 2, 0x80, 0x21);
    assert_eq!(pba, expected);
    let mut one = [0x55];
    table.read_pba(7, &mut one);
    assert_eq!(one, [0x80]);
    table.read_pba(u64::MAX, &mut pba);
    assert_eq!(pba, [0; 24]);

    assert!(table.is_pending(64) && !table.is_pending(65) && !table.is_pending(70));
    assert!(table.clear_pending(64) && !table.clear_pending(64));
    assert!(!table.clear_pending(70) && !table.clear_pending(u16::MAX));
    assert!(table.is_pending(63) && !table.is_pending(64));
}

proptest! {
    #[test]
    fn any_split_is_the_same_write(
        offset in 0u64..140,
        data in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let (mut whole, mut parts) = (MsixTable::new(8), MsixTable::new(8));
        let changed = whole.write(offset, &data);
        let mut each = Vec::new();
        for (i, byte) in data.iter().enumerate() {
            each.extend(parts.write(offset + i as u64, &[*byte]));
        }
        prop_assert_eq!(table_bytes(&whole), table_bytes(&parts));
        prop_assert_eq!(each.first().copied(), changed.clone().next());
        prop_assert_eq!(each.last().copied(), changed.last());
    }
}
