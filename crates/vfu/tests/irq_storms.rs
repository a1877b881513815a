//! Interrupts in numbers: shared eventfds (I6), and masks and raises that cross (I7).

mod irq_bench;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use irq_bench::{Bench, MSIX_ENABLE, MSIX_FUNCTION_MASK, counts};
use vfu::IrqIndex;
use vfu::wire::{IrqAction, IrqData, SetIrqs};
use vfu_testkit::Interrupts;

#[test]
fn i6_one_eventfd_for_several_vectors_and_types() {
    let bench = Bench::new();
    let one = Interrupts::new(1).unwrap();
    let fd = one.fds()[0];
    let client = bench.vmm.client();
    client.assign_irqs(IrqIndex::Msix, 0, &[fd, fd]).unwrap();
    client.assign_irqs(IrqIndex::Err, 0, &[fd]).unwrap();
    client.assign_irqs(IrqIndex::Intx, 0, &[fd]).unwrap();
    bench.raise(0);
    bench.raise(1);
    bench.handle().err().trigger().unwrap();
    bench.handle().intx().raise();
    assert_eq!(counts(&one), [4]);
    client.disable_irqs(IrqIndex::Intx).unwrap();
    bench.raise(1);
    assert_eq!(counts(&one), [1], "each type has its own copy");
}

#[test]
fn i7_masks_of_every_kind_lose_nothing() {
    const RAISES: u64 = 20_000;
    let bench = Bench::new();
    let msix = bench.enable_msix(4);
    let done = AtomicBool::new(false);
    let mask = |action| {
        let (index, data) = (IrqIndex::Msix as u32, IrqData::Bool(&[1, 0, 1, 1]));
        let request = SetIrqs { index, start: 0, count: 4, action, data };
        bench.vmm.client().set_irqs(request, &[]).unwrap();
    };
    thread::scope(|threads| {
        threads.spawn(|| {
            (0..RAISES).for_each(|n| bench.raise((n % 4) as u32));
            done.store(true, Ordering::SeqCst);
        });
        for round in 0.. {
            match round % 3 {
                0 => mask(IrqAction::Mask),
                1 => bench.mask_entry(round % 4, true),
                _ => bench.msix_control(MSIX_ENABLE | MSIX_FUNCTION_MASK),
            }
            match round % 3 {
                0 => mask(IrqAction::Unmask),
                1 => bench.mask_entry(round % 4, false),
                _ => bench.msix_control(MSIX_ENABLE),
            }
            // Each has come by now or is to come: what is not masked is not pending.
            assert_eq!(bench.pending(), [0; 0]);
            if done.load(Ordering::SeqCst) {
                break;
            }
        }
    });
    assert_eq!(bench.pending(), [0; 0]);
    let seen = &counts(&msix)[..4];
    assert!(seen.iter().all(|count| (1..=RAISES / 4).contains(count)), "{seen:?}");
    (0..4).for_each(|vector| bench.raise(vector));
    assert_eq!(counts(&msix)[..4], [1; 4]);
}
