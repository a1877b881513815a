//! The tests. Each module holds the tests of one idea, and the machine that they need; what happens
//! inside the guest is in the scripts of `inside/`.

use crate::suite::Test;

mod edu;
mod hotplug;
mod idio16;
mod reset;
mod restart;

/// All tests, in the order in which they run.
pub const TESTS: &[Test] = &[
    idio16::DRIVER,
    edu::SHARED,
    edu::MESSAGE,
    edu::SMP,
    edu::MSI_SHARED,
    edu::MSI_MESSAGE,
    idio16::TWO_DEVICES,
    reset::RESET,
    hotplug::HOTPLUG,
    restart::RESTART,
    edu::OF_QEMU,
];
