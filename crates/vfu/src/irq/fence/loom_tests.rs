//! The pin ends where the device wants it, however the end of a write and the device meet.

use std::sync::Arc;
use std::task::Waker;

use loom::thread;

use super::{Fenced, Raise};
use crate::irq::{Intx, Irqs};
use crate::pci::{Pci, Pin};
use crate::server::Regions;
use crate::shared::Shared;

fn shared() -> Arc<Shared> {
    let config = Pci::endpoint(1, 2).intx(Pin::A).build().unwrap();
    let regions = Arc::new(Regions::new(&config, Default::default()).unwrap());
    let irqs = Irqs::of(&config);
    Arc::new(Shared::new(config, irqs, false, None, Default::default(), regions))
}

/// Interrupt Status, and whether the pin is up.
fn level(shared: &Shared) -> (bool, bool) {
    let mut status = [0; 2];
    shared.config().read(6, &mut status);
    (status[0] & 1 << 3 != 0, shared.irqs.levels().1)
}

/// The raise waits for a write; when that ends another thread takes the pin down.
#[test]
fn a_raise_that_waited_does_not_undo_a_lower() {
    loom::model(|| {
        let shared = shared();
        shared.irqs.want_pin(true);
        let fenced = Fenced { shared: shared.clone(), epoch: shared.epoch(), raise: Raise::Pin };
        let reader = thread::spawn(move || Waker::from(Arc::new(fenced)).wake());
        Intx::new(shared.clone()).lower();
        reader.join().unwrap();
        assert_eq!(level(&shared), (false, false), "Interrupt Status, pin");
    });
}

/// The raise waits for a write, which a reset ends.
#[test]
fn a_raise_that_waited_does_not_outlive_a_reset() {
    loom::model(|| {
        let shared = shared();
        shared.irqs.want_pin(true);
        let fenced = Fenced { shared: shared.clone(), epoch: shared.epoch(), raise: Raise::Pin };
        let reader = thread::spawn(move || Waker::from(Arc::new(fenced)).wake());
        shared.next_epoch();
        shared.power_on();
        reader.join().unwrap();
        assert_eq!(level(&shared), (false, false), "Interrupt Status, pin");
    });
}

/// Two threads set the pin: one of them is the last, for the status and for the pin.
#[test]
fn status_and_pin_agree() {
    loom::model(|| {
        let shared = shared();
        let other = Intx::new(shared.clone());
        let other = thread::spawn(move || other.raise());
        Intx::new(shared.clone()).lower();
        other.join().unwrap();
        let (status, pin) = level(&shared);
        assert_eq!(status, pin, "Interrupt Status, pin");
        assert_eq!(pin, shared.irqs.levels().0, "the pin, what the device wants");
    });
}
