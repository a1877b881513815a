//! Raising, masking and unmasking at once: nothing is lost, nothing is doubled, and nothing is written
//! to an eventfd that was taken away.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use loom::thread;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{dup, read};
use vfu_proto::wire::{IrqAction, IrqData, SetIrqs};

use super::Irqs;
use crate::irq::{Gates, IrqIndex};
use crate::pci::{ConfigSpace, Pci};

/// Offsets in the BAR of the table: Vector Control, and the Pending Bit Array.
const CONTROL: u64 = 12;
const PBA: u64 = 4096;

struct Bench {
    irqs: Irqs,
    eventfd: OwnedFd,
}

impl Bench {
    /// One vector of MSI-X, enabled, assigned and not masked, and known not to be held back.
    fn new() -> Arc<Bench> {
        let config = Pci::endpoint(1, 2).msix(1).build().unwrap();
        let irqs = Irqs::of(&config);
        irqs.configure(|| gates(config, false));
        let bench = Bench { irqs, eventfd: eventfd(0, EventfdFlags::NONBLOCK).unwrap() };
        bench.assign();
        bench.mask_entry(false);
        bench.raise();
        assert_eq!(bench.count(), 1);
        Arc::new(bench)
    }

    fn set(&self, action: IrqAction, data: IrqData<'_>, fds: Vec<OwnedFd>) {
        let request = SetIrqs { index: 2, start: 0, count: 1, action, data };
        self.irqs.set(&request, fds).unwrap();
    }

    fn assign(&self) {
        let fd = dup(&self.eventfd).unwrap();
        self.set(IrqAction::Trigger, IrqData::EventFd, vec![fd]);
    }

    fn mask_entry(&self, masked: bool) {
        assert!(self.irqs.msix_write(0, CONTROL, &[u8::from(masked)]));
    }

    fn raise(&self) {
        let _disabled = self.irqs.raise_message(0, true);
    }

    fn count(&self) -> u64 {
        let mut count = [0; 8];
        read(&self.eventfd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    fn pending(&self) -> bool {
        let mut pba = [0];
        assert!(self.irqs.msix_read(0, PBA, &mut pba));
        pba != [0]
    }
}

/// MSI-X is enabled; Function Mask.
fn gates(mut config: ConfigSpace, function_mask: bool) -> Gates {
    let control = if function_mask { 0xc0 } else { 0x80 };
    let (_, at, _) = config.capabilities().next().unwrap();
    let _effects = config.write(at + 3, &[control]);
    Gates { master: true, msix: config.msix(), ..Gates::default() }
}

/// Each way to hold a vector back, and to let it go again.
fn mask(bench: &Bench, way: usize, masked: bool) {
    let action = if masked { IrqAction::Mask } else { IrqAction::Unmask };
    match way {
        0 => bench.mask_entry(masked),
        1 => bench.set(action, IrqData::None, Vec::new()),
        2 if masked => bench.set(IrqAction::Trigger, IrqData::EventFd, Vec::new()),
        2 => bench.assign(),
        _ => {
            let config = Pci::endpoint(1, 2).msix(1).build().unwrap();
            bench.irqs.configure(|| gates(config, masked));
        }
    }
}

#[test]
fn loom_one_interrupt_is_signalled_once_whenever_it_is_masked() {
    for way in 0..4 {
        loom::model(move || {
            let bench = Bench::new();
            let device = thread::spawn({
                let bench = bench.clone();
                move || bench.raise()
            });
            mask(&bench, way, true);
            mask(&bench, way, false);
            device.join().unwrap();
            assert_eq!((bench.count(), bench.pending()), (1, false), "way {way}");
        });
    }
}

#[test]
fn loom_a_masked_vector_shows_what_it_did_not_signal() {
    for way in 0..4 {
        loom::model(move || {
            let bench = Bench::new();
            let device = thread::spawn({
                let bench = bench.clone();
                move || bench.raise()
            });
            mask(&bench, way, true);
            device.join().unwrap();
            let shown = u64::from(bench.pending());
            assert_eq!(bench.count() + shown, 1, "way {way}");
            mask(&bench, way, false);
            assert_eq!((bench.count(), bench.pending()), (shown, false), "way {way}");
        });
    }
}

/// Two masks of different kinds go at once; the last to go lets it out.
#[test]
fn loom_the_last_mask_to_go_lets_it_out() {
    loom::model(|| {
        let bench = Bench::new();
        mask(&bench, 0, true);
        mask(&bench, 1, true);
        bench.raise();
        let client = thread::spawn({
            let bench = bench.clone();
            move || mask(&bench, 0, false)
        });
        mask(&bench, 1, false);
        client.join().unwrap();
        assert_eq!((bench.count(), bench.pending()), (1, false));
    });
}

/// I5: after the client has taken the eventfd back nothing is written to it.
#[test]
fn loom_nothing_is_written_to_an_eventfd_that_was_taken_away() {
    loom::model(|| {
        let bench = Bench::new();
        let device = thread::spawn({
            let bench = bench.clone();
            move || bench.raise()
        });
        bench.irqs.disconnect();
        let written = bench.count();
        device.join().unwrap();
        assert!(written <= 1);
        assert_eq!(bench.count(), 0, "after it was taken away");
        assert_eq!(bench.irqs.messages(), Some((IrqIndex::Msix, 1)), "enabled still");
    });
}
