use std::os::unix::net::UnixStream;

use super::*;

/// A card with a handle that works, though no client will ever come.
fn card() -> Idio16 {
    let (socket, _) = UnixStream::pair().unwrap();
    let bound = vfu::Server::builder(pci()).fd(socket.into()).unwrap();
    Idio16::new(bound.serve(Idio16::new).unwrap().handle())
}

/// Accesses of one byte.
impl Idio16 {
    fn read(&mut self, offset: u64) -> u8 {
        let mut data = [0xff];
        self.bar_read(offset, &mut data).map_or(0xff, |()| data[0])
    }

    fn write(&mut self, offset: u64, value: u8) {
        let _nothing_there = self.bar_write(offset, &[value]);
    }
}

#[test]
fn inputs_read_outputs() {
    let mut card = card();
    assert_eq!([card.read(INPUTS_LOW), card.read(INPUTS_HIGH)], [0, 0]);
    card.write(OUTPUTS_LOW, 0xa5);
    card.write(OUTPUTS_HIGH, 0x3c);
    assert_eq!([card.read(OUTPUTS_LOW), card.read(OUTPUTS_HIGH)], [0xa5, 0x3c]);
    assert_eq!([card.read(INPUTS_LOW), card.read(INPUTS_HIGH)], [0xa5, 0x3c]);
}

#[test]
fn changes_interrupt_only_when_enabled() {
    let mut card = card();
    card.write(OUTPUTS_LOW, 1);
    assert_eq!((card.read(INTERRUPT_STATUS), card.pin), (0, false));
    assert_eq!(card.read(INTERRUPT_CONTROL), 0);
    assert!(!card.pin, "nothing has changed since");
    card.write(OUTPUTS_LOW, 1);
    assert!(!card.pin, "the same value is no change");
    card.write(OUTPUTS_LOW, 0);
    assert_eq!((card.read(INTERRUPT_STATUS), card.pin), (0b101, true));
    card.write(INPUTS_LOW, 0);
    assert_eq!((card.read(INTERRUPT_STATUS), card.pin), (0, false));
    card.write(OUTPUTS_HIGH, 0x80);
    assert_eq!((card.read(INTERRUPT_STATUS), card.pin), (0b110, true));
    card.write(OUTPUTS_LOW, 0x80);
    assert_eq!(card.read(INTERRUPT_STATUS), 0b111);
}

#[test]
fn disabling_takes_the_pin_down_but_clears_nothing() {
    let mut card = card();
    card.read(INTERRUPT_CONTROL);
    card.write(OUTPUTS_LOW, 1);
    card.write(INTERRUPT_CONTROL, 0);
    assert_eq!((card.read(INTERRUPT_STATUS), card.pin), (0b101, false));
    card.read(INTERRUPT_CONTROL);
    assert!(card.pin, "it waits still");
    // What Linux does before it enables: clear.
    card.write(INTERRUPT_CONTROL, 0);
    card.write(INPUTS_LOW, 0);
    card.read(INTERRUPT_CONTROL);
    assert!(!card.pin);
}

#[test]
fn filters_are_kept() {
    let mut card = card();
    card.write(FILTERS, 0x0f);
    assert_eq!(card.read(FILTERS), 0x0f);
    assert_eq!(card.read(FILTER_CONTROL), 0);
    assert_eq!(card.read(FILTERS), 0xff);
    card.write(FILTERS, 0x01);
    assert_eq!(card.read(FILTERS), 0xff, "all are on");
    card.write(FILTER_CONTROL, 0);
    assert_eq!(card.read(FILTERS), 0);
}

#[test]
fn unused_writes_and_places_do_nothing() {
    let mut card = card();
    card.write(INPUTS_HIGH, 0xff);
    card.write(INTERRUPT_STATUS, 0xff);
    card.write(8, 0xff);
    assert_eq!((card.read(INPUTS_HIGH), card.read(INTERRUPT_STATUS), card.read(8)), (0, 0, 0xff));
}
