//! I4 and I5: eventfds that come and go while the device raises. Alone in its process: it counts
//! descriptors.

mod irq_bench;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use irq_bench::Bench;
use vfu::IrqIndex;
use vfu_testkit::Interrupts;

/// How many descriptors this process has.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn i4_i5_eventfds_that_come_and_go_are_not_kept_and_not_written_to() {
    let bench = Bench::new();
    let client = bench.vmm.client();
    let stop = AtomicBool::new(false);
    let one = Interrupts::new(1).unwrap();
    let assign = || client.assign_irqs(IrqIndex::Msix, 0, &one.fds()).unwrap();
    assign();
    let before = descriptors();
    thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let _not_in_use = bench.handle().vector(0).trigger();
            }
        });
        for round in 0..5000 {
            assign();
            match round % 3 {
                0 => bench.take_eventfds(0, 1),
                1 => client.disable_irqs(IrqIndex::Msix).unwrap(),
                _ => continue,
            }
            one.count_now(0).unwrap();
            // The request after it has been answered: whoever was writing has ended.
            client.device_info().unwrap();
            assert_eq!(one.count_now(0).unwrap(), 0, "round {round}");
        }
        stop.store(true, Ordering::SeqCst);
    });
    assign();
    assert_eq!(descriptors(), before);
}
