//! What a VMM may ask of its client, in any order.

use std::os::fd::AsFd;
use std::sync::Arc;

use vfu::client::{DmaMemory, Memory};
use vfu::wire::{DeviceState, DmaMapFlags, Errno, WriteEntry};
use vfu::{Client, IrqIndex};

use crate::grammar::address;
use crate::pipe::{descriptors, some_descriptors};
use crate::script::Script;

/// The longest access, in bytes.
const LONGEST: usize = 10_000;

/// Memory that takes everything, and gives what says where it was.
struct Anything;

impl DmaMemory for Anything {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        to.fill(address as u8);
        Ok(())
    }

    fn write(&self, _address: u64, _from: &[u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn lend(&self, address: u64, len: usize, send: &mut dyn FnMut(&[u8])) {
        if address & 0x40 != 0 {
            send(&vec![address as u8; len]);
        }
    }
}

/// One call. Whatever comes of it, it returns.
pub(super) fn call(client: &Client, script: &mut Script<'_>) {
    let region = script.below(12) as u32;
    match script.below(20) {
        0 => drop(client.device_info()),
        1 => details(client, region),
        2 => interrupts(client, script),
        3 | 4 => {
            let mut data = vec![0x5a; script.number() as usize % LONGEST];
            let _refused = client.region_read(region, script.number(), &mut data);
        }
        5 => {
            let data = vec![1; script.number() as usize % LONGEST];
            let _refused = client.region_write(region, script.number(), &data);
        }
        6 => {
            let _closed = client.posted().write(region, script.number(), script.bytes(4));
            let _closed = script.one_in(2).then(|| client.posted().flush());
        }
        7 => drop(client.region_write_posted(region, script.number(), script.bytes(8))),
        8 => {
            let entry = |script: &mut Script<'_>| WriteEntry::new(0, region, script.bytes(8));
            let entries: Vec<_> = (0..script.below(5)).filter_map(|_| entry(script)).collect();
            if let Ok(count) = client.region_write_multi(&entries) {
                assert!(count <= entries.len() as u64);
            }
        }
        9 | 10 => map(client, script),
        11 => unmap(client, script),
        12 => drop(client.reset()),
        13 => drop(client.process()),
        14 => mapped(client, region, script),
        15 => {
            if let Ok(bells) = client.doorbells(region) {
                let _closed = bells.write(script.below(16) as u64, script.bytes(4));
            }
        }
        16 | 17 => moving(client, script),
        _ => logging(client, script),
    }
}

fn details(client: &Client, region: u32) {
    let Ok(details) = client.region_info(region) else { return };
    assert_eq!(details.index, region);
    for area in details.mmap.iter().flat_map(|mmap| &mmap.areas) {
        let end = area.offset.checked_add(area.size);
        assert!(area.size > 0 && end.is_some_and(|end| end <= details.size), "{details:?}");
    }
}

fn interrupts(client: &Client, script: &mut Script<'_>) {
    let index = script.pick(&IrqIndex::ALL);
    match script.below(4) {
        0 => drop(client.irq_info(index)),
        1 => {
            let eventfds = some_descriptors(script, 20);
            let _refused = client.assign_irqs(index, script.below(4) as u32, &eventfds);
        }
        2 => drop(client.disable_irqs(index)),
        _ => drop(client.unmask_irqs(index, 0, script.below(4) as u32)),
    }
}

/// A size in bytes for which a bitmap can be had.
fn size(script: &mut Script<'_>) -> u64 {
    (1 + script.below(8) as u64) << script.pick(&[12, 0, 16])
}

fn map(client: &Client, script: &mut Script<'_>) {
    let memory = match script.below(3) {
        0 => Memory::File(script.pick(&[&descriptors()[0], &descriptors()[5]]).as_fd(), 0),
        1 => Memory::Messages(Arc::new(Anything)),
        _ => Memory::Nothing,
    };
    let flags = script.pick(&[DmaMapFlags::READ | DmaMapFlags::WRITE, DmaMapFlags::READ]);
    let _refused = client.dma_map(address(script), size(script), flags, memory);
}

fn unmap(client: &Client, script: &mut Script<'_>) {
    let (address, size) = (address(script), size(script));
    match script.below(4) {
        0 => drop(client.dma_unmap_all()),
        1 => drop(client.dma_unmap_dirty(address, size, script.pick(&[4096, 1 << 16, 1]))),
        _ => drop(client.dma_unmap(address, size)),
    }
}

fn mapped(client: &Client, region: u32, script: &mut Script<'_>) {
    let Ok(mapped) = client.map_region(region) else { return };
    for _ in 0..script.below(4) {
        let offset = if script.one_in(2) { script.number() } else { script.below(64) as u64 };
        let _refused = mapped.read(offset, &mut [0; 8]);
        let _refused = mapped.write(offset, &[1; 4]);
    }
}

fn moving(client: &Client, script: &mut Script<'_>) {
    match script.below(5) {
        0 => drop(client.migration()),
        1 => drop(client.device_state()),
        2 => {
            let state = script.pick(&[
                DeviceState::Stop,
                DeviceState::Running,
                DeviceState::StopCopy,
                DeviceState::Resuming,
                DeviceState::PreCopy,
                DeviceState::Error,
            ]);
            let _refused = client.set_device_state(state);
        }
        3 => {
            let mut state = vec![7; 3];
            if let Ok(came) = client.read_state(&mut state) {
                assert!(came <= client.max_transfer() && state.len() == came + 3);
            }
        }
        _ => drop(client.write_state(script.bytes(64))),
    }
}

fn logging(client: &Client, script: &mut Script<'_>) {
    let page_size = script.pick(&[4096, 1 << 16, 1, 3]);
    match script.below(5) {
        0 => drop(client.has_dma_logging()),
        1 => drop(client.start_dma_logging(page_size)),
        2 => drop(client.stop_dma_logging()),
        _ => {
            let (address, length) = (address(script), size(script));
            let Ok(pages) = client.dma_logging_report(address, length, page_size) else { return };
            assert_eq!((pages.iova(), pages.length()), (address, length));
            assert!(pages.dirty() <= pages.pages());
        }
    }
}
