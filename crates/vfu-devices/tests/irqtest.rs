//! `irqtest` as its driver sees it, through a client that hands the MSI-X Table on.

mod common;

use common::Bench;
use vfu::IrqIndex;
use vfu_devices::{Model, irqtest};
use vfu_testkit::Interrupts;

fn bench() -> Bench {
    let bench = Bench::new(Model::IrqTest, 0);
    assert_eq!(bench.read32(irqtest::IDENTIFICATION), 0x5152_4951);
    bench
}

fn counts(interrupts: &Interrupts) -> Vec<u64> {
    (0..interrupts.len()).map(|vector| interrupts.count_now(vector).unwrap()).collect()
}

fn raised(bench: &Bench) -> Vec<u32> {
    (0..20).map(|vector| bench.read32(irqtest::RAISED + 4 * vector)).collect()
}

#[test]
fn vectors_singly_in_sets_and_in_storms() {
    let bench = bench();
    let function = bench.vmm.enumerate().unwrap();
    let msix = bench.vmm.enable_msix(&function, 20).unwrap();
    assert_eq!(bench.read32(irqtest::IN_USE), 2 << 16 | 20);
    bench.write32(irqtest::RAISE, 19);
    bench.write32(irqtest::RAISE_SET, 0b11);
    bench.write32(irqtest::STORM, 100);
    let mut expected = vec![100; 20];
    (expected[0], expected[1], expected[19]) = (101, 101, 101);
    assert_eq!(raised(&bench), expected);
    assert_eq!(counts(&msix), expected.into_iter().map(u64::from).collect::<Vec<_>>());
    bench.write32(irqtest::RAISE, 20);
    assert_eq!(bench.read32(irqtest::FAILED), 1, "there is no such vector");
}

#[test]
fn a_storm_of_masked_vectors_is_one_interrupt_each() {
    let bench = bench();
    let function = bench.vmm.enumerate().unwrap();
    let msix = bench.vmm.enable_msix(&function, 20).unwrap();
    let mask = |masked: u32| {
        for vector in 0..20 {
            bench.vmm.write32(1, 16 * vector + 12, masked).unwrap();
        }
    };
    mask(1);
    bench.write32(irqtest::STORM, 50);
    assert_eq!(counts(&msix), [0; 20]);
    assert_eq!(bench.vmm.read32(1, 0x1000).unwrap(), 0xf_ffff, "the Pending Bit Array");
    mask(0);
    assert_eq!(counts(&msix), [1; 20]);
    assert_eq!(bench.vmm.read32(1, 0x1000).unwrap(), 0);
}

#[test]
fn pin_notices_errors_and_msi() {
    let bench = bench();
    let function = bench.vmm.enumerate().unwrap();
    bench.write32(irqtest::RAISE, 0);
    assert_eq!((bench.read32(irqtest::FAILED), bench.read32(irqtest::IN_USE)), (1, 0));
    let intx = bench.intx();
    bench.write32(irqtest::PIN, 1);
    assert!(bench.pin());
    assert_eq!(intx.count(), 1);
    bench.write32(irqtest::PIN, 0);
    assert!(!bench.pin());
    for (bit, index) in [(1, IrqIndex::Err), (2, IrqIndex::Req)] {
        let caught = Interrupts::new(1).unwrap();
        bench.vmm.client().assign_irqs(index, 0, &caught.fds()).unwrap();
        bench.write32(irqtest::NOTICE, bit);
        assert_eq!(counts(&caught), [1]);
    }
    let msi = bench.vmm.enable_msi(&function, 2).unwrap();
    assert_eq!(bench.read32(irqtest::IN_USE), 1 << 16 | 2);
    bench.write32(irqtest::RAISE_SET, 0b1111);
    assert_eq!(counts(&msi), [2, 2], "four vectors share two");
}

#[test]
fn a_coalesced_storm_ends_with_an_interrupt() {
    let bench = bench();
    let function = bench.vmm.enumerate().unwrap();
    let msix = bench.vmm.enable_msix(&function, 20).unwrap();
    bench.write32(irqtest::COALESCE, 20_000);
    bench.write32(irqtest::STORM_SET, 1 << 7);
    bench.write32(irqtest::STORM, 1000);
    let mut seen = 0;
    // One at once, one for all the others; more if this machine is slow.
    while seen < 2 {
        seen += msix.wait(7).unwrap();
    }
    assert!(seen < 1000, "{seen} signals");
}
