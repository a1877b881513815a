//! What holds messages back, who shows it, and what sets them free: MSI-X with a client that hands the
//! table on and with one that keeps it, MSI, the end of a type, of a life, and of a session.

mod irq_bench;

use irq_bench::{Bench, MSIX_ENABLE, MSIX_FUNCTION_MASK, VECTORS, counts};
use vfu::pci::regs;
use vfu::{IrqError, IrqIndex};
use vfu_testkit::Interrupts;

#[test]
fn the_mask_bit_of_an_entry_holds_its_vector() {
    let bench = Bench::new();
    let msix = bench.enable_msix(VECTORS);
    bench.mask_entry(3, true);
    bench.mask_entry(65, true);
    for vector in [3, 3, 64, 65, 69] {
        bench.raise(vector);
    }
    assert_eq!(bench.pending(), [3, 65]);
    assert_eq!(fired(&msix), [(64, 1), (69, 1)]);
    bench.mask_entry(3, true);
    assert_eq!(bench.pending(), [3, 65], "it was masked before");
    bench.mask_entry(3, false);
    assert_eq!((fired(&msix), bench.pending()), (vec![(3, 1)], vec![65]));
    bench.mask_entry(65, false);
    assert_eq!((fired(&msix), bench.pending()), (vec![(65, 1)], vec![]));
    bench.raise(3);
    assert_eq!(fired(&msix), [(3, 1)]);
}

#[test]
fn the_function_mask_holds_all_and_spares_those_with_mask_bits() {
    let bench = Bench::new();
    let msix = bench.enable_msix(VECTORS);
    bench.mask_entry(1, true);
    bench.msix_control(MSIX_ENABLE | MSIX_FUNCTION_MASK);
    for vector in [0, 1, 69] {
        bench.raise(vector);
    }
    assert_eq!((fired(&msix), bench.pending()), (vec![], vec![0, 1, 69]));
    bench.msix_control(MSIX_ENABLE);
    assert_eq!((fired(&msix), bench.pending()), (vec![(0, 1), (69, 1)], vec![1]));
    bench.mask_entry(1, false);
    assert_eq!(fired(&msix), [(1, 1)]);
}

#[test]
fn every_mask_must_go() {
    let bench = Bench::new();
    let msix = bench.enable_msix(8);
    bench.mask_entry(2, true);
    bench.msix_control(MSIX_ENABLE | MSIX_FUNCTION_MASK);
    bench.vmm.client().mask_irqs(IrqIndex::Msix, 2, 1).unwrap();
    bench.vmm.set_bus_master(true).unwrap();
    bench.raise(2);
    bench.vmm.set_bus_master(false).unwrap();
    let steps: [&dyn Fn(); 4] = [
        &|| bench.mask_entry(2, false),
        &|| bench.msix_control(MSIX_ENABLE),
        &|| bench.vmm.client().unmask_irqs(IrqIndex::Msix, 2, 1).unwrap(),
        &|| bench.vmm.set_bus_master(true).unwrap(),
    ];
    for step in steps {
        assert_eq!((fired(&msix), bench.pending()), (vec![], vec![2]));
        step();
    }
    assert_eq!((fired(&msix), bench.pending()), (vec![(2, 1)], vec![]));
}

#[test]
fn each_mask_holds_a_vector_that_was_free_before() {
    let bench = Bench::new();
    let msix = bench.enable_msix(8);
    let (client, eventfds) = (bench.vmm.client(), msix.fds());
    type Step<'a> = &'a dyn Fn();
    let masks: [(Step, Step); 4] = [
        (&|| bench.mask_entry(2, true), &|| bench.mask_entry(2, false)),
        (&|| bench.msix_control(MSIX_ENABLE | MSIX_FUNCTION_MASK), &|| {
            bench.msix_control(MSIX_ENABLE);
        }),
        (&|| client.mask_irqs(IrqIndex::Msix, 2, 1).unwrap(), &|| {
            client.unmask_irqs(IrqIndex::Msix, 2, 1).unwrap();
        }),
        (&|| bench.take_eventfds(2, 1), &|| {
            client.assign_irqs(IrqIndex::Msix, 2, &eventfds[2..3]).unwrap();
        }),
    ];
    for (mask, unmask) in masks {
        bench.raise(2);
        bench.raise(2);
        assert_eq!((fired(&msix), bench.pending()), (vec![(2, 2)], vec![]));
        mask();
        bench.raise(2);
        assert_eq!((fired(&msix), bench.pending()), (vec![], vec![2]));
        unmask();
        assert_eq!((fired(&msix), bench.pending()), (vec![(2, 1)], vec![]));
    }
}

/// QEMU: the table stays as after a reset, vectors that were never unmasked have no eventfd, and the
/// first message has none at all.
#[test]
fn a_client_that_keeps_the_table_shows_masks_by_eventfds() {
    let bench = Bench::new();
    bench.msix_control(MSIX_ENABLE | MSIX_FUNCTION_MASK);
    bench.take_eventfds(0, 1);
    bench.msix_control(MSIX_ENABLE);
    for vector in [0, 5, 6, 5] {
        bench.raise(vector);
    }
    assert_eq!(bench.pending(), [0, 5, 6], "nobody has unmasked a vector");
    let one = Interrupts::new(1).unwrap();
    bench.vmm.client().assign_irqs(IrqIndex::Msix, 5, &one.fds()).unwrap();
    assert_eq!((counts(&one), bench.pending()), (vec![1], vec![0, 6]));
    bench.raise(5);
    assert_eq!(counts(&one), [1]);
    bench.take_eventfds(5, 1);
    bench.raise(5);
    assert_eq!((counts(&one), bench.pending()), (vec![0], vec![0, 5, 6]));
    // All of them anew, as older ones do to add one.
    bench.vmm.client().disable_irqs(IrqIndex::Msix).unwrap();
    let all = Interrupts::new(8).unwrap();
    bench.vmm.client().assign_irqs(IrqIndex::Msix, 0, &all.fds()).unwrap();
    assert_eq!(fired(&all), [(0, 1), (5, 1), (6, 1)]);
    assert_eq!(bench.pending(), [0; 0]);
}

#[test]
fn a_write_to_the_table_makes_it_count() {
    let bench = Bench::new();
    let msix = Interrupts::new(8).unwrap();
    bench.vmm.client().assign_irqs(IrqIndex::Msix, 0, &msix.fds()).unwrap();
    bench.raise(4);
    assert_eq!(fired(&msix), [(4, 1)], "nobody has written to the table");
    bench.mask_entry(0, false);
    bench.raise(4);
    assert_eq!((fired(&msix), bench.pending()), (vec![], vec![4]));
    bench.vmm.client().reset().unwrap();
    bench.vmm.set_bus_master(true).unwrap();
    assert_eq!(bench.pending(), [0; 0]);
    bench.raise(4);
    assert_eq!(fired(&msix), [(4, 1)], "after a reset nobody has");
}

#[test]
fn what_is_pending_ends_with_its_type_its_life_and_its_session() {
    let bench = Bench::new();
    let all = |bench: &Bench| {
        let msix = bench.enable_msix(4);
        bench.mask_entry(1, true);
        bench.raise(1);
        assert_eq!(bench.pending(), [1]);
        msix
    };
    let msix = all(&bench);
    bench.msix_control(0);
    assert_eq!(bench.pending(), [0; 0], "disabled");
    assert_eq!(bench.handle().vector(0).trigger(), Err(IrqError::NotEnabled));
    bench.msix_control(MSIX_ENABLE);
    bench.mask_entry(1, false);
    assert_eq!(fired(&msix), [(0, 0); 0]);

    let msix = all(&bench);
    bench.vmm.client().reset().unwrap();
    assert_eq!(bench.pending(), [0; 0], "reset");
    bench.mask_entry(1, false);
    assert_eq!(fired(&msix), [(0, 0); 0]);

    let msix = all(&bench);
    let next = bench.next_client();
    assert_eq!(next.pending(), [0; 0], "another client");
    assert_eq!(fired(&msix), [(0, 0); 0]);
    // MSI-X is still enabled and entry 1 masked, but this client may be one that keeps the table.
    let msix = Interrupts::new(2).unwrap();
    next.vmm.client().assign_irqs(IrqIndex::Msix, 0, &msix.fds()).unwrap();
    next.raise(1);
    assert_eq!(fired(&msix), [(1, 1)]);
}

#[test]
fn the_pending_bits_can_be_read_in_any_piece_and_not_written() {
    let bench = Bench::new();
    let _msix = bench.enable_msix(0);
    for vector in [0, 7, 8, 33, 63, 64, 69] {
        bench.raise(vector);
    }
    let whole = bench.pba(0, 16);
    let qwords = [1 | 1 << 7 | 1 << 8 | 1 << 33 | 1 << 63, 1 | 1 << 5u64];
    assert_eq!(whole, qwords.map(u64::to_le_bytes).concat());
    for at in 0..16 {
        for len in 1..=16 - at {
            assert_eq!(bench.pba(at, len), whole[at..at + len], "{len} bytes at {at}");
        }
    }
    bench.write_pba(0, &[0; 16]);
    bench.write_pba(3, &[0xff; 7]);
    assert_eq!(bench.pba(0, 16), whole);
}

#[test]
fn msi_has_masks_and_pending_bits() {
    let bench = Bench::new();
    let msi = bench.enable_msi(4);
    bench.msi_mask(0b0110);
    for vector in [0, 1, 2, 2, 3] {
        bench.raise(vector);
    }
    assert_eq!((fired(&msi), bench.msi_pending()), (vec![(0, 1), (3, 1)], 0b0110));
    bench.msi_mask(0b0100);
    assert_eq!((fired(&msi), bench.msi_pending()), (vec![(1, 1)], 0b0100));
    bench.vmm.config_write32(bench.msi_at() + 20, 0).unwrap();
    assert_eq!(bench.msi_pending(), 0b0100, "they are read only");
    bench.msi_mask(0);
    assert_eq!((fired(&msi), bench.msi_pending()), (vec![(2, 1)], 0));
}

#[test]
fn vectors_share_what_a_driver_grants() {
    let bench = Bench::new();
    for (granted, expected) in
        [(1u8, vec![(0, 4)]), (2, vec![(0, 2), (1, 2)]), (4, vec![(0, 1), (1, 1), (2, 1), (3, 1)])]
    {
        let msi = bench.enable_msi(granted);
        assert_eq!(bench.handle().messages(), Some((IrqIndex::Msi, granted.into())));
        (0..4).for_each(|vector| bench.raise(vector));
        assert_eq!(fired(&msi), expected, "{granted} granted");
        bench.disable_msi();
        assert_eq!(bench.handle().messages(), None);
    }
    // A client that never enables MSI in configuration space, and gives three eventfds.
    let bench = Bench::new();
    let msi = Interrupts::new(3).unwrap();
    bench.vmm.client().assign_irqs(IrqIndex::Msi, 0, &msi.fds()).unwrap();
    assert_eq!(bench.handle().messages(), Some((IrqIndex::Msi, 2)));
    (0..4).for_each(|vector| bench.raise(vector));
    assert_eq!(fired(&msi), [(0, 2), (1, 2)]);
    let (vector, count) = (4, 4);
    let missing = bench.handle().vector(4).trigger();
    assert_eq!(missing, Err(IrqError::NoSuchVector { vector, count }));
}

#[test]
fn the_pin_is_silent_while_messages_are_enabled() {
    let bench = Bench::new();
    let pin = bench.vmm.enable_intx().unwrap();
    bench.msix_control(MSIX_ENABLE);
    bench.handle().intx().raise();
    assert_eq!(counts(&pin), [0]);
    let status = bench.vmm.config_read16(regs::STATUS).unwrap();
    assert_ne!(status & regs::STATUS_INTERRUPT, 0);
    bench.msix_control(0);
    assert_eq!(counts(&pin), [1]);
}

/// Which vectors fired, and how often.
fn fired(interrupts: &Interrupts) -> Vec<(usize, u64)> {
    counts(interrupts).into_iter().enumerate().filter(|(_, count)| *count > 0).collect()
}
