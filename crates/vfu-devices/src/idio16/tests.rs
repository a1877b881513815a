use super::*;

#[test]
fn inputs_read_outputs() {
    let mut r = Registers::default();
    assert_eq!([r.read(INPUTS_LOW), r.read(INPUTS_HIGH)], [0, 0]);
    r.write(OUTPUTS_LOW, 0xa5);
    r.write(OUTPUTS_HIGH, 0x3c);
    assert_eq!([r.read(OUTPUTS_LOW), r.read(OUTPUTS_HIGH)], [0xa5, 0x3c]);
    assert_eq!([r.read(INPUTS_LOW), r.read(INPUTS_HIGH)], [0xa5, 0x3c]);
}

#[test]
fn changes_interrupt_only_when_enabled() {
    let mut r = Registers::default();
    r.write(OUTPUTS_LOW, 1);
    assert_eq!((r.read(INTERRUPT_STATUS), r.pin()), (0, false));
    assert_eq!(r.read(INTERRUPT_CONTROL), 0);
    assert!(!r.pin(), "nothing has changed since");
    r.write(OUTPUTS_LOW, 1);
    assert!(!r.pin(), "the same value is no change");
    r.write(OUTPUTS_LOW, 0);
    assert_eq!((r.read(INTERRUPT_STATUS), r.pin()), (0b101, true));
    r.write(INPUTS_LOW, 0);
    assert_eq!((r.read(INTERRUPT_STATUS), r.pin()), (0, false));
    r.write(OUTPUTS_HIGH, 0x80);
    assert_eq!((r.read(INTERRUPT_STATUS), r.pin()), (0b110, true));
    r.write(OUTPUTS_LOW, 0x80);
    assert_eq!(r.read(INTERRUPT_STATUS), 0b111);
}

#[test]
fn disabling_takes_the_pin_down_but_clears_nothing() {
    let mut r = Registers::default();
    r.read(INTERRUPT_CONTROL);
    r.write(OUTPUTS_LOW, 1);
    r.write(INTERRUPT_CONTROL, 0);
    assert_eq!((r.read(INTERRUPT_STATUS), r.pin()), (0b101, false));
    r.read(INTERRUPT_CONTROL);
    assert!(r.pin(), "it waits still");
    // What Linux does before it enables: clear.
    r.write(INTERRUPT_CONTROL, 0);
    r.write(INPUTS_LOW, 0);
    r.read(INTERRUPT_CONTROL);
    assert!(!r.pin());
}

#[test]
fn filters_are_kept() {
    let mut r = Registers::default();
    r.write(FILTERS, 0x0f);
    assert_eq!(r.read(FILTERS), 0x0f);
    assert_eq!(r.read(FILTER_CONTROL), 0);
    assert_eq!(r.read(FILTERS), 0xff);
    r.write(FILTERS, 0x01);
    assert_eq!(r.read(FILTERS), 0xff, "all are on");
    r.write(FILTER_CONTROL, 0);
    assert_eq!(r.read(FILTERS), 0);
}

#[test]
fn unused_writes_and_places_do_nothing() {
    let mut r = Registers::default();
    r.write(INPUTS_HIGH, 0xff);
    r.write(INTERRUPT_STATUS, 0xff);
    r.write(8, 0xff);
    assert_eq!((r.read(INPUTS_HIGH), r.read(INTERRUPT_STATUS), r.read(8)), (0, 0, 0xff));
}
