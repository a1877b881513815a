//! Masks and pending interrupts of a device that moves.

mod irq_bench;

use std::time::Duration;

use irq_bench::{Bench, MSIX_ENABLE, counts};
use vfu::wire::DeviceState;
use vfu::{Coalescing, IrqIndex};
use vfu_testkit::Interrupts;

/// Moves the device; the one that it becomes waits to be started.
fn move_on(from: &Bench) -> Bench {
    let (here, to) = (from.vmm.client(), Bench::new());
    here.set_device_state(DeviceState::StopCopy).unwrap();
    let mut state = Vec::new();
    while here.read_state(&mut state).unwrap() > 0 {}
    let there = to.vmm.client();
    there.set_device_state(DeviceState::Resuming).unwrap();
    there.write_state(&state).unwrap();
    there.set_device_state(DeviceState::Stop).unwrap();
    to
}

fn fired(interrupts: &Interrupts) -> Vec<usize> {
    let counts = counts(interrupts).into_iter().enumerate();
    counts.flat_map(|(vector, count)| vec![vector; count as usize]).collect()
}

#[test]
fn masks_and_pending_bits_move() {
    let from = Bench::new();
    let msix = from.enable_msix(4);
    from.mask_entry(1, true);
    from.raise(1);
    from.raise(69);
    let to = move_on(&from);
    assert_eq!(fired(&msix), [0; 0]);
    let msix = Interrupts::new(70).unwrap();
    to.vmm.client().assign_irqs(IrqIndex::Msix, 0, &msix.fds()).unwrap();
    to.vmm.client().set_device_state(DeviceState::Running).unwrap();
    assert_eq!((fired(&msix), to.pending()), (vec![], vec![1, 69]));
    to.raise(0);
    to.mask_entry(69, false);
    assert_eq!((fired(&msix), to.pending()), (vec![0, 69], vec![1]));
    to.mask_entry(1, false);
    assert_eq!((fired(&msix), to.pending()), (vec![1], vec![]));
}

/// A client that keeps the table has never written to it, and does not on the other side.
#[test]
fn what_waits_for_an_eventfd_moves() {
    let from = Bench::new();
    from.msix_control(MSIX_ENABLE);
    from.raise(5);
    let to = move_on(&from);
    to.vmm.client().set_device_state(DeviceState::Running).unwrap();
    assert_eq!(to.pending(), [5]);
    let msix = Interrupts::new(8).unwrap();
    to.vmm.client().assign_irqs(IrqIndex::Msix, 0, &msix.fds()).unwrap();
    to.raise(2);
    assert_eq!((fired(&msix), to.pending()), (vec![2, 5], vec![]));
}

#[test]
fn what_is_coalesced_moves() {
    let from = Bench::new();
    let msix = from.enable_msix(4);
    from.handle().vector(3).coalesce(Some(Coalescing::every(Duration::from_secs(3600))));
    from.raise(3);
    from.raise(3);
    assert_eq!(fired(&msix), [3]);
    let to = move_on(&from);
    let msix = Interrupts::new(70).unwrap();
    to.vmm.client().assign_irqs(IrqIndex::Msix, 0, &msix.fds()).unwrap();
    to.vmm.client().set_device_state(DeviceState::Running).unwrap();
    assert_eq!(fired(&msix), [3]);
}

#[test]
fn msi_moves() {
    let from = Bench::new();
    let msi = from.enable_msi(4);
    from.msi_mask(0b1000);
    from.raise(3);
    let to = move_on(&from);
    assert_eq!(fired(&msi), [0; 0]);
    let msi = Interrupts::new(4).unwrap();
    to.vmm.client().assign_irqs(IrqIndex::Msi, 0, &msi.fds()).unwrap();
    to.vmm.client().set_device_state(DeviceState::Running).unwrap();
    assert_eq!((fired(&msi), to.msi_pending()), (vec![], 0b1000));
    to.msi_mask(0);
    assert_eq!((fired(&msi), to.msi_pending()), (vec![3], 0));
}
