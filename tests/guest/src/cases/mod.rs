//! The tests. Each module holds the tests of one idea, and the machine that they need; what happens
//! inside the guest is in the scripts of `inside/`.

use crate::suite::Test;

mod bartest;
mod c_library;
mod crossing;
mod edu;
mod hotplug;
mod idio16;
mod irqtest;
mod lspci;
mod reset;
mod restart;

/// The tests of what a device does in general.
const TESTS: &[Test] = &[
    idio16::DRIVER,
    edu::SHARED,
    edu::MESSAGE,
    edu::SMP,
    edu::MSI_SHARED,
    edu::MSI_MESSAGE,
    idio16::TWO_DEVICES,
    reset::RESET,
    reset::FUNCTION,
    hotplug::HOTPLUG,
    restart::RESTART,
    irqtest::MSIX,
    irqtest::MSIX_SMP,
    irqtest::ERR,
    edu::OF_QEMU,
    lspci::LSPCI,
    bartest::BAR,
    bartest::WRITE_MULTI,
];

/// The tests that run unless others are named, in their order.
pub fn by_default() -> impl Iterator<Item = &'static Test> {
    TESTS.iter().chain(crossing::TESTS).chain(c_library::TESTS)
}

/// All tests: also those that take long, and have to be named.
pub fn all() -> impl Iterator<Item = &'static Test> {
    by_default().chain(crossing::LONG)
}
