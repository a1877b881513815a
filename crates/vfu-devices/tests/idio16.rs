//! `idio16` as the driver of Linux drives it, through a session.

mod common;

use common::Bench;
use vfu::pci::BarKind;
use vfu_devices::Model;

const OUTPUTS_LOW: u64 = 0;
const INPUTS_LOW: u64 = 1;
const CLEAR_INTERRUPT: u64 = 1;
const INTERRUPT_CONTROL: u64 = 2;
const FILTER_CONTROL: u64 = 3;
const OUTPUTS_HIGH: u64 = 4;
const INPUTS_HIGH: u64 = 5;
const INTERRUPT_STATUS: u64 = 6;

fn idio16() -> Bench {
    Bench::new(Model::Idio16, 2)
}

impl Bench {
    fn get(&self, offset: u64) -> u8 {
        let [value] = self.read(offset);
        value
    }

    fn set(&self, offset: u64, value: u8) {
        self.write(offset, &[value]);
    }
}

#[test]
fn it_looks_like_the_card() {
    let card = idio16();
    let function = card.vmm.enumerate().unwrap();
    assert_eq!((function.vendor, function.device), (0x494f, 0x0dc8));
    assert_eq!(function.interrupt_pin, 1, "INTA#");
    assert!(function.capabilities.is_empty());
    assert_eq!(function.bars.len(), 1);
    let bar = function.bars[0];
    assert_eq!((bar.index, bar.kind, bar.size), (2, BarKind::Io, 8));
}

#[test]
fn outputs_and_inputs_are_wired() {
    let card = idio16();
    for bit in 0..8 {
        card.set(OUTPUTS_LOW, 1 << bit);
        card.set(OUTPUTS_HIGH, !(1 << bit));
        assert_eq!((card.get(INPUTS_LOW), card.get(INPUTS_HIGH)), (1 << bit, !(1 << bit)));
    }
}

#[test]
fn the_driver_gets_its_interrupts() {
    let card = idio16();
    let irq = card.intx();
    // Its start: interrupts off, filters off; then the first line is asked to interrupt.
    card.set(INTERRUPT_CONTROL, 0);
    card.set(FILTER_CONTROL, 0);
    card.set(CLEAR_INTERRUPT, 0);
    card.get(INTERRUPT_CONTROL);
    for (port, changed) in [(OUTPUTS_LOW, 0b101), (OUTPUTS_HIGH, 0b110)] {
        for value in [0x10, 0x00, 0xff] {
            card.set(port, value);
            assert_eq!(irq.wait(), 1);
            assert!(card.pin());
            assert_eq!(card.get(INTERRUPT_STATUS), changed);
            card.set(CLEAR_INTERRUPT, 0b100);
            assert_eq!(card.get(INTERRUPT_STATUS), 0);
            card.vmm.unmask_intx().unwrap();
            assert_eq!((irq.count(), card.pin()), (0, false));
        }
    }
    // Its end.
    card.set(INTERRUPT_CONTROL, 0);
    card.set(OUTPUTS_LOW, 0);
    assert_eq!((irq.count(), card.pin(), card.get(INTERRUPT_STATUS)), (0, false, 0));
}

#[test]
fn a_wide_access_is_many_of_a_byte() {
    let card = idio16();
    card.write(OUTPUTS_LOW, &[0x12, 0, 0, 0, 0x34]);
    let all: [u8; 8] = card.read(0);
    assert_eq!(all, [0x12, 0x12, 0, 0, 0x34, 0x34, 0, 0xff], "the filters are on: it was read");
    // Reading all has enabled interrupts, as single reads would have.
    card.set(OUTPUTS_LOW, 0);
    assert!(card.pin());
}

#[test]
fn a_reset_switches_everything_off() {
    let card = idio16();
    card.get(INTERRUPT_CONTROL);
    card.set(OUTPUTS_LOW, 0xff);
    assert!(card.pin());
    card.vmm.client().reset().unwrap();
    assert_eq!((card.get(INPUTS_LOW), card.get(INTERRUPT_STATUS), card.pin()), (0, 0, false));
    card.set(OUTPUTS_LOW, 1);
    assert!(!card.pin(), "interrupts are disabled");
}
