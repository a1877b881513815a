//! Whatever comes and goes, in whatever order, it is found.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use vfu_proto::wire::{DmaMap, DmaMapFlags};

use super::*;
use crate::dma::Region;
use crate::dma::file::Files;

fn region(address: u64, size: u64) -> Counted<Entry> {
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    let map = DmaMap { flags, offset: 0, address, size };
    let region = Region::new(&map, None, &Files::default()).unwrap();
    Counted::new(Entry { region: Arc::new(region) })
}

fn addresses<'a>(regions: impl Iterator<Item = &'a Counted<Entry>>) -> Vec<u64> {
    regions.map(|entry| entry.region.address).collect()
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "slow: very many steps")]
    fn it_is_a_sorted_map(steps in prop::collection::vec((any::<bool>(), 0u64..60), 0..300)) {
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        for (enter, slot) in steps {
            let address = slot * 0x1000;
            if !enter {
                let gone = index.remove(address).map(|entry| entry.region.address);
                prop_assert_eq!(gone, model.remove(&address));
            } else if model.insert(address, address).is_none() {
                index.insert(region(address, 0x800));
            }
            prop_assert_eq!(index.len(), model.len());
            prop_assert_eq!(addresses(index.from(0)), model.keys().copied().collect::<Vec<_>>());
        }
        for at in (0..60 * 0x1000).step_by(0x400) {
            let floor = index.floor(at);
            prop_assert!(floor.is_none_or(|found| found.key.address == found.entry.region.address));
            let floor = floor.map(|found| found.key.address);
            prop_assert_eq!(floor, model.range(..=at).next_back().map(|(a, _)| *a));
            let from: Vec<_> = model.keys().copied().filter(|a| a + 0x7ff >= at).collect();
            prop_assert_eq!(addresses(index.from(at)), from);
        }
    }
}

#[test]
fn who_counts_upwards_fills_the_chunks() {
    let mut index = Index::default();
    (0..10 * FULL as u64).for_each(|page| index.insert(region(page * 0x1000, 0x1000)));
    assert_eq!(index.chunks.len(), 10);
}

/// Where an empty place says that it begins.
#[test]
fn the_last_of_all_addresses_is_found() {
    let mut index = Index::default();
    let floor = |index: &Index| index.floor(u64::MAX).map(|found| found.key.address);
    assert_eq!(floor(&index), None);
    for (address, size) in [(0, 0x1000), (u64::MAX - 1, 1), (u64::MAX, 1)] {
        index.insert(region(address, size));
        assert_eq!(floor(&index), Some(address));
    }
    assert_eq!(index.floor(u64::MAX - 1).map(|found| found.key.address), Some(u64::MAX - 1));
    index.remove(u64::MAX).unwrap();
    assert_eq!(floor(&index), Some(u64::MAX - 1));
}
