//! The documentation of registers is what the maps say.

use vfu_devices::{dmatest, edu, idio16, irqtest};

#[test]
fn edus_table_is_its_map() {
    assert_eq!(include_str!("../src/edu/registers.md"), edu::register_map().to_markdown());
}

#[test]
fn idio16s_table_is_its_map() {
    assert_eq!(include_str!("../src/idio16/registers.md"), idio16::register_map().to_markdown());
}

#[test]
fn dmatests_table_is_its_map() {
    let map = dmatest::register::map();
    assert_eq!(include_str!("../src/dmatest/registers.md"), map.to_markdown());
}

#[test]
fn irqtests_table_is_its_map() {
    assert_eq!(include_str!("../src/irqtest/registers.md"), irqtest::register_map().to_markdown());
}
